"""Time and memory of ``BiasedALS`` against its peers, in turn, in one Spark application."""

import json
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.ingest import checked_ratings
from mfspark.app.memory import IS_MEASURED, Memory, machine_bytes, watch_memory
from mfspark.app.peers import Data, Peer, make_peers
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER
from mfspark.data.split import fold
from mfspark.data.synthetic import synthetic_ratings
from mfspark.engine.machine import machine_of
from mfspark.errors import ConfigError
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist

logger = logging.getLogger("mfspark")

# A model without a history tells the cost of its iterations by a second fit of this length.
_SHORT = 2
_TEST_FOLDS = 50
_LISTED = 10


@dataclass
class Timings:
    """Seconds of each round, by what was timed; peak memory of the last; test RMSE.

    ``phases``: of each round, what :class:`mfspark.engine.phases.Phases` found, of our own fits.
    What a peer does not do, or what cannot be told apart, stays empty.
    """

    fit: list[float] = field(default_factory=list)
    iteration: list[float] = field(default_factory=list)
    transform: list[float] = field(default_factory=list)
    recommend: list[float] = field(default_factory=list)
    phases: list[Mapping[str, float]] = field(default_factory=list)
    rmse: float = math.nan
    memory: Memory = field(default_factory=Memory)

    def figures(self, iterations: int, rounds: slice = slice(None)) -> dict[str, float | None]:
        """Medians over the given rounds."""

        def median(seconds: list[float]) -> float | None:
            return statistics.median(seconds[rounds]) if seconds else None

        rest = [fit - iterations * each for fit, each in zip(self.fit, self.iteration, strict=True)]
        return {
            "fit": median(self.fit),
            "iteration": median(self.iteration),
            "rest": median(rest),
            "transform": median(self.transform),
            "recommend": median(self.recommend),
            "rmse": self.rmse,
            "jvm_mib": self.memory.jvm_mib or None,
            "workers_mib": self.memory.workers_mib or None,
        }

    def phase_figures(self) -> dict[str, float]:
        """Median seconds of each phase."""
        names = self.phases[0] if self.phases else ()
        return {name: statistics.median(seconds[name] for seconds in self.phases) for name in names}


def benchmark(spark: SparkSession, run: RunDirectory) -> None:
    """Fit, predict and recommend with every peer; writes benchmark.json and prints a table."""
    if not IS_MEASURED:
        raise ConfigError("memory is measured with psutil, which is not here; pip install psutil")
    settings = run.config.benchmark
    results = []
    with run.step("benchmark"):
        for name, ratings in _datasets(spark, run):
            cached = persist(ratings.withColumn(IS_VALIDATION, fold(0, _TEST_FOLDS) == 0))
            data = Data(
                cached.where(~F.col(IS_VALIDATION)).drop(IS_VALIDATION),
                cached.where(IS_VALIDATION).drop(IS_VALIDATION),
            )
            n_train, n_test = data.train.count(), data.test.count()
            peers = make_peers(
                settings, run.config.als, run.config.sgd, data, machine_of(spark).cores
            )
            for rank in settings.ranks:
                logger.info("%s: %d ratings, rank %d", name, n_train, rank)
                measured = _measure(peers, data, rank, run)
                for peer, timings in measured.items():
                    results.append(
                        {
                            "data": name,
                            "n_train": n_train,
                            "n_test": n_test,
                            "rank": rank,
                            "peer": peer,
                            **timings.figures(settings.iterations),
                            "phases": timings.phase_figures(),
                        }
                    )
            unpersist(cached)
        content = {"machine": _machine(), "iterations": settings.iterations}
        content |= {"rounds": settings.rounds, "results": results}
        files.write_text(run.of("benchmark.json"), json.dumps(content, indent=2) + "\n")
    print(_table(results))
    print(_phase_table(results))
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


def _measure(
    peers: dict[str, Peer], data: Data, rank: int, run: RunDirectory
) -> dict[str, Timings]:
    """Rounds of all peers in turn, after a short fit and lists of each that warm up."""
    settings = run.config.benchmark
    timings = {name: Timings() for name in peers}
    for name, peer in peers.items():
        logger.info("  warm-up of %s", name)
        model = peer.fit(rank, _SHORT)
        if peer.on_spark:
            _run(model.transform(data.test))
            _run(model.recommendForAllUsers(_LISTED))
    for number in range(settings.rounds):
        for name, peer in peers.items():
            noted = timings[name]
            with watch_memory() if peer.on_spark else nullcontext(Memory()) as noted.memory:
                seconds, model = _seconds(peer.fit, rank, settings.iterations)
                noted.fit.append(seconds)
                if isinstance(model, FactorModel):
                    halves = [row["seconds"] for row in model.history.collect()]
                    noted.iteration.append(sum(halves) / settings.iterations)
                    noted.phases.append(model.phases)
                else:
                    short = _seconds(peer.fit, rank, _SHORT)[0]
                    noted.iteration.append((seconds - short) / (settings.iterations - _SHORT))
            if peer.on_spark:
                noted.transform.append(_seconds(_run, model.transform(data.train))[0])
                noted.recommend.append(_seconds(_run, model.recommendForAllUsers(_LISTED))[0])
            noted.rmse = peer.rmse(model)
            figures = noted.figures(settings.iterations, slice(-1, None))
            logger.info(
                "  round %d of %d, %s: %s", number + 1, settings.rounds, name,
                ", ".join(f"{title} {_shown(figures[what], n)}" for what, title, n in _COLUMNS),
            )  # fmt: skip
    return timings


def _seconds(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def _run(table: DataFrame) -> None:
    """Compute every row and column, and keep nothing."""
    table.write.format("noop").mode("overwrite").save()


def _machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(machine_bytes() / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


# Figure, its heading in the table, and its digits.
_COLUMNS = (
    ("fit", "fit s", 2),
    ("rest", "rest s", 2),
    ("iteration", "iteration s", 3),
    ("transform", "transform s", 2),
    ("recommend", f"top-{_LISTED} s", 2),
    ("rmse", "RMSE", 4),
    ("jvm_mib", "JVM MiB", 0),
    ("workers_mib", "Python MiB", 0),
)
_TIMES = ("fit", "rest", "iteration", "transform", "recommend")


def _table(results: list[dict[str, Any]]) -> str:
    """A line of medians per fit; for a peer another one, how many times as long it takes."""
    lines = []
    for row in results:
        figures = {title: _shown(row[name], digits) for name, title, digits in _COLUMNS}
        size = {"ratings": f"{row['n_train']:,}", "rank": row["rank"]}
        lines.append({**size, "": row["peer"], **figures})
        if row["peer"] == "mfspark":
            ours = row
            continue
        ratios = {
            title: _shown(row[name] / ours[name], 2) if row[name] is not None else ""
            for name, title, _ in _COLUMNS
            if name in _TIMES
        }
        lines.append({"": "ratio", **ratios})
    table: str = pd.DataFrame(lines).fillna("").to_string(index=False)
    return f"\n{table}"


def _phase_table(results: list[dict[str, Any]]) -> str:
    """A line for each of our own fits: median seconds of its phases."""
    lines = [
        {"ratings": f"{row['n_train']:,}", "rank": row["rank"], "": row["peer"]}
        | {name: _shown(seconds, 2) for name, seconds in row["phases"].items()}
        for row in results
        if row["phases"]
    ]
    table = pd.DataFrame(lines).fillna("").to_string(index=False)
    return f"\nSeconds of a fit by phase:\n{table}\n"


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
