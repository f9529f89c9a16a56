"""How long new users take without a fit: python tests/benchmarks/fold_in.py

Planted ratings of 10,000 items; 100,000 new users with 20 ratings each are folded in on Spark, and
one by one by the local model, each with a list of ten.
"""

import statistics
import time

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from mfspark import BiasedALS
from mfspark.data.synthetic import SyntheticSettings, synthetic_ratings

N_NEW, N_EACH, RANK, ROUNDS = 100_000, 20, 32, 3


def main() -> None:
    """Print the seconds of both."""
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "6g")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    planted = SyntheticSettings(n_ratings=2_000_000, n_users=20_000, n_items=10_000, seed=1)
    ratings = synthetic_ratings(spark, planted).select("user", "item", "rating").persist()
    model = BiasedALS(rank=RANK, maxIter=5, regParam=0.5, biasRegParam=0.5).fit(ratings)
    rng = np.random.default_rng(2)
    known = np.array([row[0] for row in model.item_factors.select("item").collect()])
    frame = pd.DataFrame(
        {
            "user": np.repeat(10**9 + np.arange(N_NEW), N_EACH),
            "item": rng.choice(known, N_NEW * N_EACH),
            "rating": rng.integers(1, 11, N_NEW * N_EACH) / 2,
        }
    )
    # So that making the ratings is no part of what is measured.
    new = spark.createDataFrame(frame.sample(frac=1, random_state=3)).persist()
    print(f"{new.count():,} ratings of {N_NEW:,} new users, {len(known):,} items, rank {RANK}")
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        folded = model.foldIn(new, "user")
        seconds.append(time.perf_counter() - started)
        assert folded.metadata.n_users == model.metadata.n_users + N_NEW
        folded.unpersist()
    print(
        f"folded in on Spark: first {seconds[0]:.2f} s, then {statistics.median(seconds[1:]):.2f} s"
    )
    local = model.local()
    users = [
        dict.fromkeys(rng.choice(known, N_EACH, replace=False).tolist(), float(rng.integers(1, 6)))
        for _ in range(500)
    ]
    each = []
    for rated in users:
        started = time.perf_counter()
        local.recommend(local.foldIn(rated), 10, seen=list(rated))
        each.append(1e3 * (time.perf_counter() - started))
    print(
        f"local model, fold-in and list of ten: median {statistics.median(each):.2f} ms, "
        f"nineteen of twenty below {statistics.quantiles(each, n=20)[-1]:.2f} ms"
    )


if __name__ == "__main__":
    main()
