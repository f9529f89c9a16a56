"""What it costs a fit that the rows of its ratings are a part of the plan:

    python tests/benchmarks/rows_in_plan.py [RATINGS]

The same synthetic ratings (a million, if nothing is said) as a DataFrame of pandas, as one that
``createDataFrame`` has made of it, as a part of such a one, and as Parquet: seconds of a warm fit
of ten iterations in one task and distributed.
"""

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import pandas as pd
from local_session import local_session

from mfspark import BiasedALS

FIT = {"rank": 10, "maxIter": 10, "tol": 0.0, "regParam": 0.1, "biasRegParam": 0.1, "seed": 1}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", nargs="?", type=float, default=1e6)
    n = int(parser.parse_args().ratings)
    spark = local_session("4g", n_partitions=4)
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    rng = np.random.default_rng(0)
    # No more than 48 MiB, up to which Spark takes the rows of pandas into the plan.
    frame = pd.DataFrame({"user": rng.integers(0, n // 160, n).astype(np.int32),
                          "item": rng.integers(0, 3700, n).astype(np.int32),
                          "rating": rng.integers(1, 6, n).astype(np.float32)})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        frame.to_parquet(f"{folder}/ratings.parquet")
        ways: dict[str, Any] = {
            "Parquet": spark.read.parquet(f"{folder}/ratings.parquet"),
            "pandas": frame,
            "createDataFrame": spark.createDataFrame(frame),
            "createDataFrame, and a filter": spark.createDataFrame(frame).where("rating > 0"),
        }
        for name, ratings in ways.items():
            for execution in ("one_task", "distributed"):
                seconds = min(seconds_of(ratings, execution) for _ in range(2))
                print(f"{name}, {execution}: {seconds:.1f} s", flush=True)
    spark.stop()


def seconds_of(ratings: Any, execution: str) -> float:
    """How long a fit takes."""
    started = time.monotonic()
    BiasedALS(**FIT, execution=execution).fit(ratings).unpersist()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
