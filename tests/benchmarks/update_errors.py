"""Errors after an update by folding in and by a warm start:

    python tests/benchmarks/update_errors.py [--model bayes] ratings.csv

The file has userId, movieId and rating, as MovieLens 1M. A tenth is for testing; of the rest the
last rows by user are new. Rows are folded in as the update job does it; the other fit is one to all
ratings, of ALS from the factors of the model before.
"""

import argparse
import tempfile
import time

import numpy as np
import pandas as pd
from local_session import local_session

from mfspark import BayesianMF, BiasedALS
from mfspark.app.update import folded_in
from mfspark.evaluation.ratings import rmse_of

SHARES = (0.01, 0.05, 0.1, 0.2)
MODELS = {"als": BiasedALS, "bayes": BayesianMF}
SETTINGS = {"rank": 16, "seed": 1}


def main() -> None:
    """Print the errors, and seconds of both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings")
    parser.add_argument("--model", choices=MODELS, default="als")
    arguments = parser.parse_args()
    estimator = MODELS[arguments.model]
    names = {"userId": "user", "movieId": "item"}
    frame = pd.read_csv(arguments.ratings).rename(columns=names)
    frame = frame[["user", "item", "rating"]].sort_values("user", kind="stable")
    spark = local_session("6g", n_partitions=2)
    is_test = np.random.default_rng(0).random(len(frame)) < 0.1
    test = spark.createDataFrame(frame[is_test]).persist()
    known = frame[~is_test]
    train = spark.createDataFrame(known).persist()
    whole = rmse_of(estimator(**SETTINGS).fit(train), test)
    print(f"a fit to all ratings: {whole:.4f}", flush=True)
    for share in SHARES:
        n_old = int(len(known) * (1 - share))
        old = spark.createDataFrame(known[:n_old])
        changed = spark.createDataFrame(known[n_old:]).persist()
        base = estimator(**SETTINGS).fit(old)
        with tempfile.TemporaryDirectory() as folder:
            base.save(f"{folder}/model")
            started = time.monotonic()
            folded = rmse_of(folded_in(base, train, changed), test)
            between = time.monotonic()
            start = {"initialModel": f"{folder}/model"} if arguments.model == "als" else {}
            again = estimator(**SETTINGS, **start).fit(train)
            warm = rmse_of(again, test)
            seconds = between - started, time.monotonic() - between
        print(
            f"{share:.0%} new: before {rmse_of(base, test):.4f}, folded in {folded:.4f} "
            f"({seconds[0]:.0f} s), fitted anew {warm:.4f} ({seconds[1]:.0f} s)",
            flush=True,
        )
    spark.stop()


if __name__ == "__main__":
    main()
