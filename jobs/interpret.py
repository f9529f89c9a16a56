"""Describe what the factors mean: writes interpretation/."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.interpret_model, __doc__)
