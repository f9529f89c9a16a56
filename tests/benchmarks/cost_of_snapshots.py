"""What snapshots cost a fit:

    python tests/benchmarks/cost_of_snapshots.py [RATINGS [SECONDS]]

Fits to synthetic ratings (2 million, if nothing is said), of 15 to 40 s each, with a snapshot
every so many seconds (5; the jobs have one a minute) and without, in turn, twice. Of each the
seconds, and (with − without) / without, of the shorter of two runs: the time that snapshots and the
fingerprint of the ratings took.
"""

import argparse
import tempfile
import time

from local_session import local_session
from pyspark.sql import DataFrame

from mfspark import BayesianMF, BiasedALS, BiasedSGD
from mfspark.data.synthetic import SyntheticSettings, synthetic_ratings
from mfspark.models.factorisation import Factorisation

WEIGHTS = {"regParam": 0.1, "biasRegParam": 0.1, "tol": 0.0, "seed": 1}
FITS: dict[str, Factorisation] = {
    "ALS in one task": BiasedALS(rank=32, maxIter=400, **WEIGHTS),
    "ALS, distributed": BiasedALS(rank=32, maxIter=100, execution="distributed", **WEIGHTS),
    "SGD in one task": BiasedSGD(rank=32, maxIter=400, **WEIGHTS),
    "Bayesian": BayesianMF(rank=16, maxIter=250, implicitFeatures=False, tol=0.0, seed=1),
}


def main() -> None:
    """Print a line for each fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", nargs="?", type=float, default=2e6)
    parser.add_argument("seconds", nargs="?", type=float, default=5.0)
    arguments = parser.parse_args()
    spark = local_session("6g", n_partitions=4)
    n = int(arguments.ratings)
    settings = SyntheticSettings(n_ratings=n, n_users=n * 7 // 1000, n_items=5000)
    ratings = synthetic_ratings(spark, settings).select("user", "item", "rating").persist()
    print(f"{ratings.count():,} ratings, a snapshot every {arguments.seconds:g} s")
    for name, estimator in FITS.items():
        estimator.copy().setMaxIter(20).fit(ratings).unpersist()
        took: dict[bool, list[float]] = {True: [], False: []}
        for saves in (True, False, False, True):
            with tempfile.TemporaryDirectory() as folder:
                estimator.setSnapshots(folder if saves else None, arguments.seconds)
                took[saves].append(seconds_of(estimator, ratings))
        share = min(took[True]) / min(took[False]) - 1
        told = {saves: ", ".join(f"{each:.1f}" for each in took[saves]) for saves in took}
        print(f"{name}: {told[True]} s with, {told[False]} s without: {share:+.1%}", flush=True)
    spark.stop()


def seconds_of(estimator: Factorisation, ratings: DataFrame) -> float:
    """How long a fit takes."""
    started = time.monotonic()
    estimator.fit(ratings).unpersist()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
