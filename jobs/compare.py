"""Several models on the same ratings: errors, differences with intervals, times, a report."""

from mfspark.app import cli
from mfspark.app.compare import compare_models

if __name__ == "__main__":
    cli.main(compare_models, __doc__)
