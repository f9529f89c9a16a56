"""Measure the model and the baselines on the test ratings: writes evaluation/."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.evaluate_model, __doc__)
