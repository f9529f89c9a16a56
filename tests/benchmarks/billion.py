"""A distributed fit to synthetic ratings of any number, by phase:

    python tests/benchmarks/billion.py [RATINGS] [--rank 32] [--iterations 10]
        [--exchange auto] [--half-width] [--memory 6g]

Five users to a thousand ratings and a hundred items to a million, drawn with a long tail (pairs
that are drawn again stay) and written once as Parquet below the temporary folder. Told are the
seconds of drawing and of each phase, the most memory that the processes had together (unique set
size) and the most of the disk that was taken, source included; the RMSE of each iteration; and what
was shuffled. Two cores.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from local_session import local_session
from pyspark.sql import SparkSession

from mfspark import BiasedALS
from mfspark.data.synthetic import SyntheticSettings, drawn_ratings

GIB = 2**30


class Peaks(threading.Thread):
    """The most memory of this process and its descendants, and of the disk, in bytes; asked for
    every two seconds."""

    def __init__(self, folder: str) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.free_at_first = shutil.disk_usage(folder).free
        self.memory = self.disk = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Look until it is ended."""
        while not self.ended.wait(2):
            used = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    used += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.memory = max(self.memory, used)
            taken = self.free_at_first - shutil.disk_usage(self.folder).free
            self.disk = max(self.disk, taken)

    def told(self) -> str:
        """Since the last time."""
        line = f"memory {self.memory / GIB:.1f} GiB, disk {self.disk / GIB:.1f} GiB"
        self.memory = self.disk = 0
        return line


def main() -> None:
    """Draw, fit, and tell of both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("ratings", type=float, nargs="?", default=1e9)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--exchange", default="auto")
    parser.add_argument("--half-width", action="store_true")
    parser.add_argument("--memory", default="6g", help="of the JVM")
    given = parser.parse_args()
    n = int(given.ratings)
    with tempfile.TemporaryDirectory(prefix="mfspark-events-") as events:
        spark = local_session(
            given.memory,
            n_partitions=max(8, n // 10_000_000),
            **{
                "spark.eventLog.enabled": "true",
                "spark.eventLog.compress": "false",
                "spark.eventLog.dir": f"file://{events}",
                # Files of shuffles go when the driver collects its garbage.
                "spark.cleaner.periodicGC.interval": "1min",
            },
        )
        peaks = Peaks(tempfile.gettempdir())
        peaks.start()
        begun = time.perf_counter()
        path = drawn(spark, n)
        print(
            f"drawn and written in {time.perf_counter() - begun:.0f} s, {peaks.told()}", flush=True
        )
        als = BiasedALS(
            rank=given.rank, maxIter=given.iterations, tol=0.0, regParam=0.05, biasRegParam=0.05,
            execution="distributed", exchange=given.exchange, halfWidth=given.half_width,
        )  # fmt: skip
        first_second, begun = time.time(), time.perf_counter()
        model = als.fit(spark.read.parquet(path))
        print(
            f"fit to {n} ratings: {time.perf_counter() - begun:.0f} s, {peaks.told()}", flush=True
        )
        print("phases: " + ", ".join(f"{name} {took:.0f}" for name, took in model.phases.items()))
        print(model.history.toPandas().to_string())
        spark.stop()
        peaks.ended.set()
        shuffled = shuffled_bytes(Path(events), first_second, model.phases)
        print("GiB shuffled: " + ", ".join(f"{k} {v / GIB:.2f}" for k, v in shuffled.items()))


def drawn(spark: SparkSession, n: int) -> str:
    """The path of ratings; of an earlier run, where there are such."""
    path = Path(tempfile.gettempdir()) / f"mfspark-drawn-{n}"
    if not (path / "_SUCCESS").exists():
        settings = SyntheticSettings(n_ratings=n, n_users=n // 200, n_items=n // 10_000)
        table = drawn_ratings(spark, settings)
        narrow = table.selectExpr("int(user) user", "int(item) item", "float(rating) rating")
        narrow.write.parquet(str(path), mode="overwrite")
    return str(path)


def shuffled_bytes(events: Path, first_second: float, phases: dict[str, float]) -> Counter[str]:
    """Bytes that tasks wrote to shuffles, by the phase in which they ended."""
    written = Counter[str]()
    names, ends = list(phases), np.cumsum(list(phases.values()))
    for log in events.rglob("events_*"):
        for line in log.read_text().splitlines():
            event = json.loads(line)
            metrics = event.get("Task Metrics")
            if event["Event"] == "SparkListenerTaskEnd" and metrics:
                after = event["Task Info"]["Finish Time"] / 1000 - first_second
                number = int(np.searchsorted(ends[:-1], after))
                written[names[number]] += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
    return written


if __name__ == "__main__":
    main()
