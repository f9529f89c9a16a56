"""k-fold cross-validation of the configured model: writes cross_validation/."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.cross_validate, __doc__)
