"""Where the time of a distributed fit goes: python tests/benchmarks/building.py [RATINGS [ROUNDS]]

Synthetic ratings in the proportions of MovieLens 10M are written once as Parquet below the
temporary folder. Of each round, and beside it of a scan and of a pass that hands every row to
Python and does nothing there, nanoseconds for each rating on two cores. ``pack_ratings`` has the
pass over rows, with their check and sums, ``count_ids`` the one that encodes packs.
"""

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_session import local_session
from pyspark.sql import DataFrame, SparkSession

from mfspark import BiasedALS
from mfspark.data.synthetic import SyntheticSettings, synthetic_ratings
from mfspark.engine import fit_als

STATIONS = (
    "pack_ratings", "count_ids", "index_sides", "build_blocks", "start_factors",
    "run_half_step", "factor_tables",
)  # fmt: skip
# Moments would need blocks of users alone.
FIT = {
    "rank": 10, "maxIter": 2, "regParam": 0.1, "biasRegParam": 0.1, "execution": "distributed",
    "exchange": "broadcast",
}  # fmt: skip


def main() -> None:
    """Print the nanoseconds of all rounds."""
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 20_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    spark = local_session("6g", n_partitions=8)
    ratings = stored_ratings(spark, n)
    n = ratings.count()
    BiasedALS(**FIT).fit(ratings.limit(20_000))
    print(f"scan: {per_rating(lambda: run(ratings), n)} ns")
    # As in a fit; see ``FIT_SETTINGS``.
    spark.conf.set("spark.sql.execution.arrow.maxBytesPerBatch", str(2**31 - 1))
    rows = ratings.mapInArrow(lambda batches: (part.slice(0, 0) for part in batches), "user long")
    print(f"rows to Python: {per_rating(lambda: run(rows.select('user')), n)} ns")
    seconds = Counter[str]()
    for station in STATIONS:
        setattr(fit_als, station, timed(getattr(fit_als, station), station, seconds))
    for number in range(rounds):
        seconds.clear()
        whole = per_rating(lambda: BiasedALS(**FIT).fit(ratings), n)
        told = ", ".join(f"{name} {round(took / n * 1e9)}" for name, took in seconds.items())
        print(f"round {number + 1}, {n} ratings: {told}; the fit {whole} ns")
    spark.stop()


def stored_ratings(spark: SparkSession, n: int) -> DataFrame:
    """Synthetic ratings; those of an earlier run where they are there."""
    path = Path(tempfile.gettempdir()) / f"mfspark-building-{n}"
    if not (path / "_SUCCESS").exists():
        settings = SyntheticSettings(
            n_ratings=n, n_users=n * 7 // 1000, n_items=round(10_700 * math.sqrt(n / 1e7))
        )
        table = synthetic_ratings(spark, settings).select("user", "item", "rating")
        table.write.parquet(str(path), mode="overwrite")
    return spark.read.parquet(str(path))


def run(table: DataFrame) -> None:
    """Compute every row, and keep nothing."""
    table.write.format("noop").mode("overwrite").save()


def per_rating(work: Callable[[], object], n: int) -> int:
    """Nanoseconds."""
    begun = time.perf_counter()
    work()
    return round((time.perf_counter() - begun) / n * 1e9)


def timed(function: Callable[..., Any], name: str, seconds: Counter[str]) -> Callable[..., Any]:
    """``function``, whose seconds are added up."""

    def call(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = function(*arguments, **options)
        seconds[name] += time.perf_counter() - begun
        return result

    return call


if __name__ == "__main__":
    main()
