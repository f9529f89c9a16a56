"""Error, size and stability by rank, and the smallest rank that will do: writes ranks/."""

from mfspark.app import cli
from mfspark.app.rank_study import rank_study

if __name__ == "__main__":
    cli.main(rank_study, __doc__)
