"""k-fold cross-validation of the configured model: writes cross_validation/."""

from mfspark.app import cli
from mfspark.app.cross_validate import cross_validate

if __name__ == "__main__":
    cli.main(cross_validate, __doc__)
