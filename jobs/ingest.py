"""Read, check and split ratings: writes ratings/, quarantine/, items/ and ingest.json."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.ingest, __doc__)
