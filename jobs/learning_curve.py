"""Test error by share of the training ratings, whether more would help: writes learning_curve/."""

from mfspark.app import cli
from mfspark.app.learning_curve import learning_curve

if __name__ == "__main__":
    cli.main(learning_curve, __doc__)
