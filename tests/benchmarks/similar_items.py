"""Whether nearest items are found again in the other half of the users.

python tests/benchmarks/similar_items.py runs/ml-1m/ratings/train

For the fifty most rated items the five nearest are sought in models of either half of the users.
Printed by kind of model: how many of one half's neighbours are among the other's, of all, of those
that count as reliable and of those with an agreement of 90 %; and for how many items there is no
reliable one.
"""

import sys

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS
from mfspark.settings import MIN_AGREEMENT

N_ITEMS, N_NEAREST = 50, 5
ESTIMATORS = {
    "ALS": BiasedALS(),
    "ALS with implicit features": BiasedALS(implicitFeatures=True),
    "BayesianMF": BayesianMF(),
}


def neighbours(ratings: DataFrame, estimator: BiasedALS | BayesianMF, half: int) -> pd.DataFrame:
    """item, similar_item, agreement of a model of half of the users."""
    own = F.pmod(F.hash(F.col("user").cast("long"), F.lit(5)), F.lit(2)) == half
    model = estimator.fit(ratings.where(own))
    top = ratings.groupBy("item").count().orderBy(F.desc("count"), "item").limit(N_ITEMS)
    lists = model.similarItems(top, N_NEAREST, minAgreement=0.0)
    return lists.select("item", F.inline("recommendations")).toPandas()


def main(path: str) -> None:
    spark = SparkSession.builder.master("local[*]").getOrCreate()
    ratings = spark.read.parquet(path).persist()
    for name, estimator in ESTIMATORS.items():
        halves = [neighbours(ratings, estimator, half) for half in (0, 1)]
        known = [set(zip(half["item"], half["similar_item"], strict=True)) for half in halves]
        for half, others in zip(halves, reversed(known), strict=True):
            half["again"] = [
                pair in others for pair in zip(half["item"], half["similar_item"], strict=True)
            ]
        rows = pd.concat(halves, keys=(0, 1), names=["half"])
        shares = [
            f"{chosen['again'].mean():.1%} of {len(chosen)} from {least:.0%}"
            for least in (0.0, MIN_AGREEMENT, 0.9)
            for chosen in [rows[rows["agreement"] >= least]]
        ]
        best = rows.groupby(["half", "item"])["agreement"].max()
        print(f"{name}: {', '.join(shares)}; without {(best < MIN_AGREEMENT).mean():.0%}")


if __name__ == "__main__":
    main(sys.argv[1])
