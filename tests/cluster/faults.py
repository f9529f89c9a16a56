"""Submitted to a cluster: fits with a fault in the middle of each, compared with undisturbed ones.

python faults.py CLUSTER_FILE RESULTS_FILE SCENARIO…

Faults follow on the progress of a fit: on the line that ends an iteration, or on a task's start.
"""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from standalone import Cluster, wait_for

from mfspark import BayesianMF, BiasedALS, BiasedSGD, FactorModel
from mfspark.engine import (
    als_half_step,
    blocks,
    gibbs_sweep,
    one_task,
    pilot,
    plan,
    sgd_epoch,
    user_blocks,
    workspace,
)
from mfspark.engine.block_files import BlockFormat, file_blocks, work_at_files
from mfspark.errors import FitError

ITERATIONS = 6
BLOCKS = {"numUserBlocks": 2, "numItemBlocks": 2}
GIVEN = {"regParam": 1.0, "biasRegParam": 0.25}
ALS = partial(
    BiasedALS, rank=4, maxIter=ITERATIONS, tol=0.0, seed=1, execution="distributed", **GIVEN
)
ESTIMATORS = {
    "broadcast": partial(ALS, exchange="broadcast", **BLOCKS),
    "routed": partial(ALS, exchange="routed", **BLOCKS),
    "moments": partial(ALS, exchange="moments", **BLOCKS),
    "many_blocks": partial(ALS, exchange="broadcast", numUserBlocks=6, numItemBlocks=1, maxIter=2),
    "sgd": partial(
        BiasedSGD,
        rank=4,
        maxIter=ITERATIONS,
        tol=0.0,
        seed=1,
        execution="distributed",
        numBlocks=2,
        **GIVEN,
    ),
    "one_task": partial(BiasedALS, rank=4, maxIter=ITERATIONS, tol=0.0, seed=1),
    "linked": partial(
        BiasedALS, rank=4, maxIter=ITERATIONS, tol=0.0, seed=1, implicitFeatures=True
    ),
    "bayes": lambda: BayesianMF(rank=4, maxIter=30, tol=0.0, seed=1).setFeatures(
        # Some of them have features alone.
        items=SparkSession.active().range(150).selectExpr("id AS item", "id % 7 AS kind")
    ),
    "chain": partial(
        BayesianMF,
        rank=4,
        maxIter=9,
        burnIn=2,
        tol=0.0,
        seed=1,
        execution="distributed",
        implicitFeatures=False,
    ),
}


class AfterIteration(logging.Handler):
    """Does something when the fit says that an iteration is over."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self.actions = dict(actions)
        self.done: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) > 2:
            number = record.args[1]
            if number in self.actions:
                self.done.append(number)
                self.actions.pop(number)()


@dataclass
class Bench:
    """What the scenarios share."""

    spark: SparkSession
    cluster: Cluster
    ratings: DataFrame
    folder: Path
    expected: dict[str, pd.DataFrame] = field(default_factory=dict)
    has_killed: bool = False

    def marks(self) -> Path:
        """A new folder in which tasks mark what they have done."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def ready(self) -> None:
        """Wait until both Workers have an executor that runs tasks."""
        n = len(self.cluster.workers)
        tasks = self.spark.range(0, 2 * n, 1, 2 * n).mapInArrow(executor_of_task, "pid int")
        wait_for(lambda: tasks.distinct().count() == n, "the executors")

    def undisturbed(self, kind: str) -> pd.DataFrame:
        if kind not in self.expected:
            model = ESTIMATORS[kind]().fit(self.ratings)
            self.expected[kind] = tables(model)
            model.unpersist()
        return self.expected[kind]

    def disturbed(
        self, kind: str, actions: dict[int, Callable[[], None]], ratings: DataFrame | None = None
    ) -> FactorModel:
        """A fit with ``actions`` after some of its iterations."""
        self.undisturbed(kind)
        self.ready()
        self.has_killed = ratings is not None
        handler = AfterIteration(actions)
        logging.getLogger("mfspark").addHandler(handler)
        try:
            model = ESTIMATORS[kind]().fit(self.ratings if ratings is None else ratings)
        finally:
            logging.getLogger("mfspark").removeHandler(handler)
        assert sorted(handler.done) == sorted(actions), "a fault was not triggered"
        return model

    def outcome(self, kind: str, model: FactorModel) -> dict:
        found, expected = tables(model), self.undisturbed(kind)
        assert list(found["id"]) == list(expected["id"])
        model.unpersist()
        return {
            "difference": float(np.abs(np.stack(found["x"]) - np.stack(expected["x"])).max()),
            "persistent": self.n_persistent(),
            "block_files": [str(path) for path in self.left_files()],
        }

    def n_persistent(self) -> int:
        """Persisted tables; without checkpoints of big factors on the executors, which Spark drops
        some time after nothing refers to them."""
        return self.spark._jsparkSession.sharedState().cacheManager().numCachedEntries()

    def left_files(self) -> list[Path]:
        """Block files after a fit. It may end before the node of a killed executor has another
        one; then the next fit removes them."""
        if self.has_killed and self.block_files():
            self.ready()
            ESTIMATORS["broadcast"]().fit(self.ratings).unpersist()
        return self.block_files()

    def block_files(self) -> list[Path]:
        """Files of blocks in the folders of this application, those of killed executors too."""
        found = []
        for pid in self.cluster.executors():
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            folders = next(e for e in environment if e.startswith("SPARK_EXECUTOR_DIRS="))
            for top in folders.partition("=")[2].split(":"):
                # Unlike rglob, walk does not mind what disappears under its feet.
                for folder, _, names in os.walk(top):
                    found += [Path(folder) / n for n in names if n.startswith("mfspark-block-")]
        return found

    def kill_executors(self, *workers: int) -> None:
        self.has_killed = True
        for worker in workers:
            for pid in self.cluster.executors(worker):
                os.kill(pid, signal.SIGKILL)

    def kill_first_executor(self) -> None:
        self.kill_executors(0)

    def kill_second_executor(self) -> None:
        self.kill_executors(1)

    def kill_both_executors(self) -> None:
        self.kill_executors(0, 1)

    def decommission_first_executor(self) -> None:
        """The notice that a machine will be taken away."""
        self.has_killed = True
        (victim,) = self.cluster.executors(0)
        os.kill(victim, signal.SIGPWR)
        # Its tables move before it goes.
        wait_for(lambda: victim not in self.cluster.executors(), "the end of the executor")

    def kill_python_workers(self) -> None:
        victims = self.cluster.python_workers()
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        self.has_killed = True
        self.cluster.kill_worker(1)

    def delete_files(self) -> None:
        for path in self.block_files():
            path.unlink()

    def truncate_files(self) -> None:
        files = self.block_files()
        assert files
        for path in files:
            os.truncate(path, path.stat().st_size // 2)

    def remove_scratch(self) -> None:
        """Of the executor that has a file of a block."""
        shutil.rmtree(self.block_files()[0].parent)

    def fill_scratch(self) -> None:
        with (self.cluster.scratch(1) / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(2**16)):
                    pass
            except OSError:
                return


def tables(model: FactorModel) -> pd.DataFrame:
    """A row per user and item: id, and bias and factors in one array."""
    parts = []
    for side, table in (("user", model.user_factors), ("item", model.item_factors)):
        frame = table.toPandas().rename(columns={side: "id"})
        frame["id"] = side + frame["id"].astype(str)
        frame["x"] = [
            np.append(factors, bias)
            for factors, bias in zip(frame["factors"], frame["bias"], strict=True)
        ]
        parts.append(frame[["id", "x"]])
    return pd.concat(parts).sort_values("id")


def planted(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(0)
    n_users, n_items = 300, 120
    p, q = rng.normal(0, 0.7, (n_users, 3)), rng.normal(0, 0.7, (n_items, 3))
    truth = 3.5 + p @ q.T + rng.normal(0, 0.3, (n_users, n_items))
    users, items = np.nonzero(rng.random(truth.shape) < 0.4)
    frame = pd.DataFrame({"user": users, "item": items, "rating": truth[users, items]})
    return spark.createDataFrame(frame).repartition(4)


def after_iterations(kind: str, *actions: str) -> Callable[[Bench], dict]:
    """A fit with the named methods of ``Bench`` called after iterations 2, 3, …"""

    def run(bench: Bench) -> dict:
        calls = {n: getattr(bench, name) for n, name in enumerate(actions, 2)}
        return bench.outcome(kind, bench.disturbed(kind, calls))

    return run


def lost_worker(bench: Bench) -> dict:
    try:
        return after_iterations("broadcast", "kill_worker")(bench)
    finally:
        bench.cluster.restart_worker(1)


def full_disk(kind: str) -> Callable[[Bench], dict]:
    def run(bench: Bench) -> dict:
        try:
            return after_iterations(kind, "fill_scratch")(bench)
        finally:
            (bench.cluster.scratch(1) / "filler").unlink(missing_ok=True)

    return run


def call_number(marks: Path) -> int:
    """The number of this call, from 0, among those of all processes together."""
    for number in count():
        try:
            (marks / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError


def own_executor() -> int:
    """Called by a task: the process of its executor."""
    with open(f"/proc/{os.getppid()}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def executor_of_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        yield pa.RecordBatch.from_pydict({"pid": pa.array([own_executor()], pa.int32())})


def kill_own_executor() -> None:
    """Called by a task: it ends with its executor."""
    os.kill(own_executor(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def remove_own_scratch() -> None:
    """Called by a task: its executor has no folder for temporary files any more."""
    for folder in os.environ["SPARK_LOCAL_DIRS"].split(","):
        shutil.rmtree(folder)


def lose_own_executor() -> None:
    """Called by a task: it ends with its executor and all that is on that one's disk."""
    remove_own_scratch()
    kill_own_executor()


def dying_tasks(ratings: DataFrame, marks: Path, n_deaths: int) -> DataFrame:
    """``ratings`` whose first tasks kill the executor that they run on."""

    def die(batches):
        if call_number(marks) < n_deaths:
            kill_own_executor()
        yield from batches

    return ratings.mapInArrow(die, ratings.schema)


def in_another_order(ratings: DataFrame) -> DataFrame:
    """``ratings`` whose partitions have their rows in another order each time."""

    def shuffle(batches):
        rows = pa.Table.from_batches(list(batches))
        yield from rows.take(np.random.default_rng().permutation(rows.num_rows)).to_batches()

    return ratings.mapInArrow(shuffle, ratings.schema)


def spoilt(arrived, *others, do, spoil, marks: Path, number: int = 0, **named):
    """``do``, but the task that is the ``number``th to be about to do it spoils something."""
    if call_number(marks) == number:
        spoil()
    return do(arrived, *others, **named)


@dataclass(frozen=True)
class SpoiltFormat:
    """A format of block files; the ``number``th task that makes one spoils something before."""

    inner: BlockFormat
    spoil: Callable[[], None]
    marks: Path
    number: int

    @property
    def dtypes(self):
        return self.inner.dtypes

    @property
    def about_schema(self):
        return self.inner.about_schema

    def arrays(self, chunks, *others):
        return spoilt(
            chunks,
            *others,
            do=self.inner.arrays,
            spoil=self.spoil,
            marks=self.marks,
            number=self.number,
        )

    def counts(self, arrays):
        return self.inner.counts(arrays)

    def about(self, arrays):
        return self.inner.about(arrays)


@contextmanager
def in_a_step(bench: Bench, module, number: int) -> Iterator[None]:
    """In the ``number``th pass that ``module`` makes over the files of blocks, a task kills its
    executor."""
    numbers, marks = count(), bench.marks()

    def work(workspace, blocks, delivery, work, *others):
        if next(numbers) == number:
            bench.has_killed = True
            work = partial(spoilt, do=work, spoil=kill_own_executor, marks=marks)
        return work_at_files(workspace, blocks, delivery, work, *others)

    with patch.object(module, "work_at_files", work):
        yield
    assert any(marks.iterdir())


@contextmanager
def while_blocks_are_built(
    bench: Bench, module, spoil: Callable[[], None], number: int = 0
) -> Iterator[None]:
    """The ``number``th task that is about to make a file spoils something."""
    marks = bench.marks()

    def build(workspace, packed, files, n_ratings):
        spoiling = SpoiltFormat(files.format, spoil, marks, number)
        return file_blocks(workspace, packed, replace(files, format=spoiling), n_ratings)

    with patch.object(module, "file_blocks", build):
        yield
    assert any(marks.iterdir())


@contextmanager
def big_factors() -> Iterator[None]:
    """Factors are kept as if they were too big for the driver."""
    with (
        patch.object(plan, "BROADCAST_LIMIT", 0),
        patch.object(plan, "CHEAP_BYTES", 0),
        patch.object(workspace, "BROADCAST_LIMIT", 0),
    ):
        yield


def death_in_a_step(kind: str, module, number: int, *actions: str) -> Callable[[Bench], dict]:
    def run(bench: Bench) -> dict:
        bench.undisturbed(kind)
        with in_a_step(bench, module, number):
            return after_iterations(kind, *actions)(bench)

    return run


def with_big_factors(run: Callable[[Bench], dict]) -> Callable[[Bench], dict]:
    def run_with_them(bench: Bench) -> dict:
        with big_factors():
            return run(bench)

    return run_with_them


def lost_scratch_while_blocks_are_built(kind: str, module) -> Callable[[Bench], dict]:
    def run(bench: Bench) -> dict:
        bench.undisturbed(kind)
        with while_blocks_are_built(bench, module, remove_own_scratch):
            return after_iterations(kind)(bench)

    return run


def rows_in_another_order(bench: Bench) -> dict:
    """What is computed again after the death of an executor differs from what was there, when some
    blocks have been made of that already."""
    bench.undisturbed("many_blocks")
    ratings = in_another_order(bench.ratings)
    with while_blocks_are_built(bench, blocks, lose_own_executor, number=3):
        model = bench.disturbed("many_blocks", {}, ratings)
    return bench.outcome("many_blocks", model)


def ratings_in_one_partition(bench: Bench) -> dict:
    """Both executors have a block of either side, though one has encoded all ratings."""
    found: list[Path] = []
    ratings = bench.ratings.coalesce(1)
    model = bench.disturbed("routed", {2: lambda: found.extend(bench.block_files())}, ratings)
    for side in ("user", "item"):
        folders = {path.parent for path in found if f"-{side}-" in path.name}
        assert len(folders) == len(bench.cluster.workers), (side, found)
    return bench.outcome("routed", model)


def death_in_the_task(kind: str, module, work: str) -> Callable[[Bench], dict]:
    """The task that does ``work`` of ``module`` kills its executor when it is about to begin."""

    def run(bench: Bench) -> dict:
        bench.undisturbed(kind)
        marks = bench.marks()
        done = getattr(module, work)
        spoiling = partial(spoilt, do=done, spoil=kill_own_executor, marks=marks)
        with patch.object(module, work, spoiling):
            outcome = after_iterations(kind)(bench)
        assert any(marks.iterdir())
        return outcome

    return run


def deaths_before_the_loop(bench: Bench) -> dict:
    ratings = dying_tasks(bench.ratings, bench.marks(), 1)
    return bench.outcome("broadcast", bench.disturbed("broadcast", {}, ratings))


def endless_deaths(bench: Bench) -> dict:
    ratings = dying_tasks(bench.ratings, bench.marks(), 100)
    try:
        bench.disturbed("broadcast", {}, ratings)
    except FitError as error:
        return {"error": str(error)}
    return {"error": None}


def models_after_the_fits(bench: Bench) -> dict:
    kinds = ("broadcast", "one_task")
    for kind in kinds:
        bench.undisturbed(kind)
    models = {kind: ESTIMATORS[kind]().fit(bench.ratings) for kind in kinds}
    bench.ready()
    for model in models.values():
        # Use fills the executors' memory with the tables.
        model.transform(bench.ratings).count()
    bench.kill_both_executors()
    outcomes = []
    for kind, model in models.items():
        path = str(bench.folder / f"model after {kind}")
        model.save(path)
        model.unpersist()
        outcomes.append(bench.outcome(kind, FactorModel.load(path)))
    return {**outcomes[-1], "difference": max(each["difference"] for each in outcomes)}


FILE_FAULTS = ("kill_python_workers", "delete_files", "truncate_files", "remove_scratch")

SCENARIOS: dict[str, Callable[[Bench], dict]] = {
    "broadcast, no fault": after_iterations("broadcast"),
    "routed, no fault": after_iterations("routed"),
    "ratings in one partition": ratings_in_one_partition,
    "an executor in a half-step, routed": death_in_a_step("routed", als_half_step, 4),
    "an executor in a sub-epoch, sgd": death_in_a_step("sgd", sgd_epoch, 5),
    "an executor in a half-step, then both one after the other, broadcast": death_in_a_step(
        "broadcast", als_half_step, 1, "kill_first_executor", "kill_second_executor"
    ),
    "both executors at once, routed": after_iterations("routed", "kill_both_executors"),
    "both executors at once, moments": after_iterations("moments", "kill_both_executors"),
    "big factors; an executor, later files, moments": with_big_factors(
        after_iterations("moments", "kill_first_executor", "delete_files")
    ),
    "a Worker": lost_worker,
    "an executor that is decommissioned, routed": after_iterations(
        "routed", "decommission_first_executor"
    ),
    "big factors; an executor that is decommissioned, broadcast": with_big_factors(
        after_iterations("broadcast", "decommission_first_executor")
    ),
    "Python workers, files, scratch; broadcast": after_iterations("broadcast", *FILE_FAULTS),
    "Python workers, files, scratch; routed": after_iterations("routed", *FILE_FAULTS),
    "Python workers, files, scratch; moments": after_iterations("moments", *FILE_FAULTS),
    "Python workers, files, scratch; sgd": after_iterations("sgd", *FILE_FAULTS),
    "big factors; an executor in a half-step, files, scratch; routed": with_big_factors(
        death_in_a_step("routed", als_half_step, 2, *FILE_FAULTS)
    ),
    "big factors; an executor in a sub-epoch, files; sgd": with_big_factors(
        death_in_a_step("sgd", sgd_epoch, 2, "delete_files")
    ),
    "an executor in a sweep, both later, chain": death_in_a_step(
        "chain", gibbs_sweep, 4, "kill_both_executors"
    ),
    "big factors; an executor in a sweep, files, scratch; chain": with_big_factors(
        death_in_a_step("chain", gibbs_sweep, 5, *FILE_FAULTS)
    ),
    "scratch while blocks are built, broadcast": lost_scratch_while_blocks_are_built(
        "broadcast", blocks
    ),
    "scratch while strata are built, sgd": lost_scratch_while_blocks_are_built("sgd", user_blocks),
    "an executor while blocks are built, rows in another order": rows_in_another_order,
    "big factors; an executor while blocks are built, rows in another order": with_big_factors(
        rows_in_another_order
    ),
    "full disk, broadcast": full_disk("broadcast"),
    "full disk, routed": full_disk("routed"),
    "an executor in the task, bayes": death_in_the_task("bayes", one_task, "learn_tables"),
    "an executor in the task, linked": death_in_the_task("linked", one_task, "learn_tables"),
    "an executor in the pilot, linked": death_in_the_task("linked", pilot, "choose_weights"),
    "an executor in the pilot": death_in_the_task("one_task", pilot, "choose_weights"),
    "executors die before the loop": deaths_before_the_loop,
    "both executors after the fits": models_after_the_fits,
    "executors die for ever": endless_deaths,
}


def main(cluster_file: str, results_file: str, *names: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    spark = SparkSession.builder.appName("faults").getOrCreate()
    folder = Path(results_file).parent
    bench = Bench(spark, Cluster.load(Path(cluster_file)), planted(spark), folder)
    results = {}
    for name in names:
        started = time.monotonic()
        try:
            results[name] = SCENARIOS[name](bench)
        except Exception as error:
            logging.exception(name)
            results[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        results[name]["seconds"] = round(time.monotonic() - started, 1)
        logging.info("scenario %s: %s", name, results[name])
        Path(results_file).write_text(json.dumps(results))
    bench.cluster.save(Path(cluster_file))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
