"""Time and memory of ``BiasedALS`` against its peers, in turn, in one Spark application."""

import json
import logging
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.run_directory import RunDirectory
from mfspark.app.steps import checked_ratings
from mfspark.columns import ITEM, RATING, USER
from mfspark.data.split import fold
from mfspark.data.synthetic import synthetic_ratings
from mfspark.engine.machine import machine_of
from mfspark.errors import ConfigError
from mfspark.models.biased_als import BiasedALS
from mfspark.models.factor_model import FactorModel

try:
    import psutil
except ImportError:
    psutil = None

logger = logging.getLogger("mfspark")

# A model without a history tells the cost of its iterations by a second fit of this length.
_SHORT = 2
_TEST_FOLDS = 50
_LISTED = 10
_SAMPLES_PER_SECOND = 20


# (ratings, rank, iterations) → a model with ``transform`` and ``recommendForAllUsers`` as in
# pyspark.ml.
Peer = Callable[[DataFrame, int, int], Any]


@dataclass
class Timings:
    """Seconds of each round, by what was timed; peak memory in MiB; test RMSE."""

    fit: list[float] = field(default_factory=list)
    iteration: list[float] = field(default_factory=list)
    transform: list[float] = field(default_factory=list)
    recommend: list[float] = field(default_factory=list)
    rmse: float = math.nan
    jvm_mib: float = 0.0
    workers_mib: float = 0.0

    def figures(self, iterations: int) -> dict[str, float]:
        """Medians over the rounds."""
        fit, iteration = statistics.median(self.fit), statistics.median(self.iteration)
        return {
            "fit": fit,
            "iteration": iteration,
            "rest": fit - iterations * iteration,
            "transform": statistics.median(self.transform),
            "recommend": statistics.median(self.recommend),
            "rmse": self.rmse,
            "jvm_mib": self.jvm_mib,
            "workers_mib": self.workers_mib,
        }


def benchmark(spark: SparkSession, run: RunDirectory) -> None:
    """Fit, predict and recommend with every peer; writes benchmark.json and prints a table."""
    if psutil is None:
        raise ConfigError("memory is measured with psutil, which is not here; pip install psutil")
    settings = run.config.benchmark
    results = []
    with run.step("benchmark"):
        for name, ratings in _datasets(spark, run):
            held_out = fold(0, _TEST_FOLDS) == 0
            train = ratings.where(~held_out).persist()
            test = ratings.where(held_out).persist()
            n_train, n_test = train.count(), test.count()
            for rank in settings.ranks:
                peers = _peers(spark, run)
                logger.info("%s: %d ratings, rank %d", name, n_train, rank)
                measured = _measure(peers, train, test, rank, run)
                for peer, timings in measured.items():
                    results.append(
                        {
                            "data": name,
                            "n_train": n_train,
                            "n_test": n_test,
                            "rank": rank,
                            "peer": peer,
                            **timings.figures(settings.iterations),
                        }
                    )
            train.unpersist()
            test.unpersist()
        content = {"machine": _machine(), "iterations": settings.iterations}
        content |= {"rounds": settings.rounds, "results": results}
        files.write_text(run.of("benchmark.json"), json.dumps(content, indent=2) + "\n")
    print(_table(results))
    print(f"All figures: {run.path}/benchmark.json")


def _datasets(spark: SparkSession, run: RunDirectory) -> Iterator[tuple[str, DataFrame]]:
    """The configured ratings, or synthetic ones of each configured size."""
    if run.config.data.path is not None or run.config.data.dataset != "synthetic":
        with checked_ratings(spark, run) as (checked, _, origin):
            yield origin, checked.clean.select(USER, ITEM, RATING)
        return
    for n in run.config.benchmark.n_ratings:
        # The proportions of MovieLens 10M: 70,000 users and 10,700 items.
        sizes = {"n_ratings": n, "n_users": max(2, n * 7 // 1000)}
        sizes["n_items"] = max(2, round(10_700 * math.sqrt(n / 1e7)))
        settings = run.config.synthetic.model_copy(update=sizes)
        yield "synthetic", synthetic_ratings(spark, settings).select(USER, ITEM, RATING)


def _peers(spark: SparkSession, run: RunDirectory) -> dict[str, Peer]:
    """mfspark first; the others as configured."""
    als = run.config.als
    # As many blocks as cores is MLlib's best here; its own default is 10.
    cores = machine_of(spark).cores

    def ours(ratings: DataFrame, rank: int, iterations: int) -> Any:
        chosen = {**als.model_dump(by_alias=True), "rank": rank, "maxIter": iterations, "tol": 0.0}
        return BiasedALS(**chosen).fit(ratings)  # type: ignore[typeddict-item]

    def mllib(ratings: DataFrame, rank: int, iterations: int) -> Any:
        estimator = ALS(
            rank=rank, maxIter=iterations, regParam=run.config.benchmark.mllib_reg_param,
            numUserBlocks=cores, numItemBlocks=cores, coldStartStrategy="drop",
            userCol=USER, itemCol=ITEM, ratingCol=RATING,
        )  # fmt: skip
        return estimator.fit(ratings)

    known: dict[str, Peer] = {"mfspark": ours, "mllib": mllib}
    return {name: known[name] for name in ("mfspark", *run.config.benchmark.peers)}


def _measure(
    peers: dict[str, Peer], train: DataFrame, test: DataFrame, rank: int, run: RunDirectory
) -> dict[str, Timings]:
    """Rounds of all peers in turn, after a short fit and lists of each that warm up."""
    settings = run.config.benchmark
    timings = {name: Timings() for name in peers}
    for name, fit in peers.items():
        logger.info("  warm-up of %s", name)
        model = fit(train, rank, _SHORT)
        _run(model.transform(test))
        _run(model.recommendForAllUsers(_LISTED))
    for number in range(settings.rounds):
        for name, fit in peers.items():
            noted = timings[name]
            with _watch_memory(noted):
                seconds, model = _seconds(fit, train, rank, settings.iterations)
                noted.fit.append(seconds)
                if isinstance(model, FactorModel):
                    halves = [row["seconds"] for row in model.history.collect()]
                    noted.iteration.append(sum(halves) / settings.iterations)
                else:
                    short = _seconds(fit, train, rank, _SHORT)[0]
                    noted.iteration.append((seconds - short) / (settings.iterations - _SHORT))
            noted.transform.append(_seconds(_run, model.transform(train))[0])
            noted.recommend.append(_seconds(_run, model.recommendForAllUsers(_LISTED))[0])
            noted.rmse = _rmse(model.transform(test))
            logger.info(
                "  round %d of %d, %s: fit %.1f s, transform %.1f s, top-%d lists %.1f s, "
                "RMSE %.4f", number + 1, settings.rounds, name, noted.fit[-1],
                noted.transform[-1], _LISTED, noted.recommend[-1], noted.rmse,
            )  # fmt: skip
    return timings


def _seconds(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def _run(table: DataFrame) -> None:
    """Compute every row and column, and keep nothing."""
    table.write.format("noop").mode("overwrite").save()


def _rmse(scored: DataFrame) -> float:
    row = scored.agg(F.sqrt(F.avg(F.pow(F.col(RATING) - F.col("prediction"), 2)))).first()
    assert row is not None
    return float(row[0])


@contextmanager
def _watch_memory(timings: Timings) -> Iterator[None]:
    """Note the peak resident memory of the JVM and of all Python workers together.

    A JVM keeps what it once took, so its figure is that of the hungriest work so far.
    """
    done = threading.Event()
    jvm = _jvm()

    def watch() -> None:
        while not done.wait(1 / _SAMPLES_PER_SECOND):
            workers = [p for p in jvm.children(recursive=True) if p.pid != os.getpid()]
            timings.jvm_mib = max(timings.jvm_mib, _resident_mib([jvm]))
            timings.workers_mib = max(timings.workers_mib, _resident_mib(workers))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _jvm() -> Any:
    """The driver's JVM: under spark-submit it started this process, otherwise it is a child."""
    own = psutil.Process()
    family = [*own.parents(), *own.children(recursive=True)]
    return next(process for process in family if process.name() == "java")


def _resident_mib(processes: list[Any]) -> float:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _table(results: list[dict[str, Any]]) -> str:
    """Rows of medians; with a peer, also how many times as long it takes."""
    head = (
        f"{'ratings':>11} {'rank':>4} {'':<8} {'fit s':>8} {'rest s':>8} {'iter. s':>8} "
        f"{'transf. s':>9} {'top-10 s':>8} {'RMSE':>7} {'JVM MiB':>8} {'Python MiB':>10}"
    )
    lines = ["", head]
    for row in results:
        lines.append(
            f"{row['n_train']:>11,} {row['rank']:>4} {row['peer']:<8} {row['fit']:>8.2f} "
            f"{row['rest']:>8.2f} {row['iteration']:>8.3f} {row['transform']:>9.2f} "
            f"{row['recommend']:>8.2f} {row['rmse']:>7.4f} {row['jvm_mib']:>8.0f} "
            f"{row['workers_mib']:>10.0f}"
        )
        if row["peer"] == "mfspark":
            ours = row
            continue
        ratios = [
            row[what] / ours[what]
            for what in ("fit", "rest", "iteration", "transform", "recommend")
        ]
        lines.append(
            f"{'':>16} {'  ratio':<8} {ratios[0]:>8.2f} {ratios[1]:>8.2f} {ratios[2]:>8.2f} "
            f"{ratios[3]:>9.2f} {ratios[4]:>8.2f}"
        )
    return "\n".join(lines)
