"""Log a run to MLflow: parameters, history, figures, report and model."""

from mfspark.app import cli
from mfspark.app.track import track

if __name__ == "__main__":
    cli.main(track, __doc__)
