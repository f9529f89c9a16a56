"""Search for hyper-parameters on the validation ratings: writes tune/."""

from mfspark.app import cli
from mfspark.app.tune import tune

if __name__ == "__main__":
    cli.main(tune, __doc__)
