"""Train the model on the ingested ratings: writes model/."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.train, __doc__)
