"""Read, check and split ratings: writes ratings/, quarantine/, items/ and ingest.json."""

from mfspark.app import cli
from mfspark.app.ingest import ingest

if __name__ == "__main__":
    cli.main(ingest, __doc__)
