"""The planner: its choices, and its estimates against what is measured."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mfspark import BiasedALS
from mfspark.columns import ITEM, USER
from mfspark.engine.packed import pack_ratings, pack_rows
from mfspark.engine.plan import (
    Machine,
    Workload,
    one_task_bytes,
    plan_als,
    plan_bayes,
    plan_sgd,
)
from mfspark.engine.workspace import Workspace
from mfspark.settings import ALSSettings, BayesianSettings, SGDSettings

LAPTOP = Machine(cores=4, task_cores=4)
CLUSTER = Machine(cores=40, task_cores=4)


def test_one_task_fits_what_it_has_the_memory_for_and_does_faster():
    small, big = Workload(10**6, 7000, 3000, 32), Workload(10**8, 700_000, 30_000, 32)
    middle = Workload(3 * 10**7, 200_000, 30_000, 32)
    settings = ALSSettings()
    for workload in (small, middle):
        assert plan_als(workload, settings, LAPTOP).in_one_task
    # The stages of a distributed iteration take longer than its threads need.
    assert plan_als(small, settings, CLUSTER).in_one_task
    assert not plan_als(middle, settings, CLUSTER).in_one_task
    # One stage for each sub-epoch of SGD.
    assert plan_sgd(middle, SGDSettings(), CLUSTER).in_one_task
    assert not plan_sgd(middle, SGDSettings(num_blocks=2), CLUSTER).in_one_task
    assert not plan_als(big, settings, LAPTOP).in_one_task
    assert plan_als(big, ALSSettings(execution="one_task"), CLUSTER).in_one_task
    assert not plan_als(small, ALSSettings(execution="distributed"), LAPTOP).in_one_task


def test_a_chain_is_distributed_when_it_must_be_and_may_be():
    small, big = Workload(10**6, 7000, 3000, 32), Workload(10**8, 700_000, 30_000, 32)
    auto, distributed = BayesianSettings(), BayesianSettings(execution="distributed")
    assert plan_bayes(small, auto, LAPTOP, False).in_one_task
    assert not plan_bayes(big, auto, LAPTOP, False).in_one_task
    # With features there is no other way, and the plan warns.
    with_features = plan_bayes(big, auto, LAPTOP, True)
    assert with_features.in_one_task
    assert "more than the" in with_features.warnings[0]
    assert not plan_bayes(small, distributed, LAPTOP, False).in_one_task
    assert plan_bayes(big, BayesianSettings(execution="one_task"), LAPTOP, False).in_one_task
    # What fits as ALS need not fit with stored draws beside it.
    many = BayesianSettings(keep_draws=500)
    assert not plan_bayes(small, many, Machine(4, 4, 2**30), False).in_one_task
    chain = plan_bayes(big, auto, CLUSTER, False)
    als = plan_als(big, ALSSettings(execution="distributed"), CLUSTER, may_sum=False)
    assert chain.bytes_shipped == als.bytes_shipped
    assert set(chain.keep.values()) == {"durable"}
    assert chain.task_bytes >= als.task_bytes
    # A draw is made of factored equations at any rank.
    wide = Workload(10**8, 700_000, 30_000, 128)
    exact = ALSSettings(execution="distributed", solver="exact")
    seconds = plan_bayes(wide, distributed, CLUSTER, False).iteration_seconds
    assert seconds == plan_als(wide, exact, CLUSTER).iteration_seconds


def test_the_time_of_high_ranks_is_that_of_their_solver():
    """Conjugate gradients grow with the rank, exact solutions with its square and cube."""

    def seconds(rank, solver):
        work = Workload(10**7, 70_000, 10_000, rank)
        return plan_als(
            work, ALSSettings(rank=rank, solver=solver), Machine(2, 2)
        ).iteration_seconds

    assert seconds(256, "cg") < 4 * seconds(64, "cg")
    assert seconds(256, "exact") > 8 * seconds(64, "exact")
    for rank, same in ((16, "exact"), (64, "cg"), (256, "cg")):
        assert seconds(rank, "auto") == seconds(rank, same)


def test_implicit_features_are_for_one_task():
    big = Workload(10**9, 5_000_000, 100_000, 64)
    for plan_of, kind in ((plan_als, ALSSettings), (plan_sgd, SGDSettings)):
        plan = plan_of(big, kind(implicit_features=True), CLUSTER)
        assert plan.in_one_task
        assert plan.task_bytes > one_task_bytes(big)
        assert "set execution to distributed, without" in plan.warnings[0]
        assert not plan_of(big, kind(), CLUSTER).in_one_task


def test_a_small_side_is_sent_moments_where_they_are_fewer_bytes():
    machine = Machine(40, 4)
    big = Workload(10**9, 5_000_000, 100_000, 64)
    plan, rows = (
        plan_als(big, settings, machine)
        for settings in (ALSSettings(), ALSSettings(exchange="routed"))
    )
    assert plan.exchange == {"user": "broadcast", "item": "moments"}
    assert plan.bytes_shipped[ITEM] < rows.bytes_shipped[ITEM] / 4
    assert plan.task_bytes <= machine.task_bytes
    # Of sides that are alike, or where a row is shorter than its moments, rows are sent.
    for workload in (Workload(10**9, 5_000_000, 4_000_000, 64), replace(big, rank=500)):
        assert plan_als(workload, ALSSettings(), machine).exchange[ITEM] == "routed"
    small = Workload(10**7, 70_000, 10_000, 32)
    assert plan_als(small, ALSSettings(), machine).exchange[ITEM] == "moments"
    # In place of a broadcast they spare a stage, unless rows are solved without any sums, or items
    # are many beside the ratings.
    for workload in (replace(small, rank=64), replace(small, n_items=100_000)):
        assert plan_als(workload, ALSSettings(), machine).exchange[ITEM] == "broadcast"
    # Chains need the rows themselves.
    assert plan_bayes(big, BayesianSettings(), machine, False).exchange[ITEM] == "routed"


def test_blocks_come_in_whole_rounds_and_big_sides_are_routed():
    work = Workload(10**9, 5_000_000, 100_000, 64)
    plan = plan_als(work, ALSSettings(), CLUSTER, may_sum=False)
    assert plan.exchange == {"user": "broadcast", "item": "routed"}
    assert all(n % 40 == 0 for n in plan.n_blocks.values())
    fixed = ALSSettings(num_user_blocks=7, exchange="broadcast", execution="distributed")
    plan = plan_als(Workload(10**6, 1000, 1000, 8), fixed, CLUSTER)
    assert plan.n_blocks == {"user": 7, "item": 40}
    assert plan.bytes_shipped["user"] == 7 * 1000 * 36


def test_sgd_has_as_many_blocks_as_cores_and_keeps_both_sides_together():
    wide = SGDSettings(execution="distributed")
    plan = plan_sgd(Workload(10**8, 700_000, 30_000, 16), wide, CLUSTER)
    assert plan.n_blocks == {USER: 40, ITEM: 40}
    assert plan.keep == {USER: "driver", ITEM: "driver"}
    # Every sub-epoch sends every row: factors, bias, two sums of AdaGrad, the number of ratings.
    assert plan.bytes_shipped[USER] == 40 * 730_000 * 20 * 4
    plan = plan_sgd(Workload(10**9, 5_000_000, 100_000, 64), wide, CLUSTER)
    assert plan.keep == {USER: "durable", ITEM: "durable"}
    plan = plan_sgd(Workload(10**6, 10**4, 10**3, 8), SGDSettings(num_blocks=3), CLUSTER)
    assert plan.n_blocks == {USER: 3, ITEM: 3}
    few = Machine(cores=2, task_cores=1, task_bytes=2**28)
    plan = plan_sgd(Workload(10**8, 10**6, 10**4, 16), wide, few)
    assert "raise spark.executor" in plan.warnings[0]


def test_users_and_items_are_known_before_a_fit_is_planned(spark, rng):
    n = 40_000
    frame = pd.DataFrame({"user": rng.integers(0, 9000, n), "item": rng.integers(0, 70, n)})
    frame = frame.assign(rating=3.0, is_validation=frame["item"] >= 60)
    train = frame[~frame["is_validation"]]
    actual = [train[side].nunique() for side in ("user", "item")]

    def counts(ratings, rank):
        with Workspace(spark) as workspace:
            _, summary = pack_ratings(workspace, spark.createDataFrame(ratings), rank)
        assert summary.n_ratings == len(train)
        return [summary.n_users, summary.n_items]

    # The ranges of integer ids tell enough where factors are few.
    assert counts(frame, rank=4) == [9000, 70]
    # Ids far apart, and text, of which only the number of ratings is known at first.
    apart = frame.assign(user=frame["user"] * 10**12)
    text = frame.assign(user="u" + frame["user"].astype(str))
    for ratings in (apart, text):
        assert counts(ratings, rank=4)[0] == len(train)
        assert counts(ratings, rank=400) == pytest.approx(actual, rel=0.15)


def test_a_fit_that_does_not_fit_is_announced_with_a_remedy():
    plan = plan_als(
        Workload(10**9, 5_000_000, 100_000, 64), ALSSettings(execution="one_task"), LAPTOP
    )
    assert "more than the 3.0 GiB it may take; set execution to distributed" in plan.warnings[0]
    plan = plan_als(
        Workload(10**9, 50_000_000, 10_000_000, 64), ALSSettings(exchange="broadcast"), CLUSTER
    )
    assert any("few times that; set exchange to auto" in warning for warning in plan.warnings)
    assert plan_als(Workload(10**6, 7000, 3000, 32), ALSSettings(), LAPTOP).warnings == ()


def test_it_is_usable_alone():
    command = "--ratings 1e9 --users 5e6 --items 1e5 --rank 64 --cores 40 --executor-cores 4"
    result = subprocess.run(
        [sys.executable, "-m", "mfspark.engine.plan", *command.split()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.startswith("plan: distributed, 40 user blocks (broadcast")


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PEAK = """
def peak():
    # Not getrusage: to that, what the parent had in memory belongs to the child.
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
"""

FIT = """
import sys
from dataclasses import replace
import pyarrow as pa
from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.history import Learnt
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.engine.one_task import learn_tables
from mfspark.engine.packed import Unit
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, SGDSettings
objective = Objective(0.0, True, Penalty(1.0, 0.2, 0.5), Penalty(1.0, 0.2, 0.5))
learners = {
    "als": ThreadedALS(objective, ALSSettings(rank=16, max_iter=2, tol=0.0)),
    "linked als": ThreadedALS(
        replace(objective, link_weight=8.0), ALSSettings(rank=16, max_iter=2, tol=0.0)
    ),
    "sgd": ThreadedSGD(objective, SGDSettings(rank=16, max_iter=2, tol=0.0)),
}
with pa.OSFile(sys.argv[1]) as source:
    rows = list(learn_tables(iter(pa.ipc.open_stream(source)), Unit(), learners[sys.argv[2]], 2))
learnt = Learnt.from_json(rows[-1].column("learnt")[0].as_py())
print(peak(), learnt.n_users, learnt.n_items)
"""


@LINUX
@pytest.mark.parametrize("learner", ["als", "sgd", "linked als"])
def test_memory_of_one_task_is_estimated_within_half(tmp_path, rng, learner):
    n = 3_000_000
    table = pa.table(
        {
            "user": (rng.random(n) ** 2 * 40_000).astype(np.int64),
            "item": (rng.random(n) ** 2 * 9_000).astype(np.int64),
            "rating": ((rng.integers(1, 6, n) - 3) / 2**0.5).astype(np.float32),
        }
    )
    cells = [row.select(["cell"]) for row in pack_rows(iter(table.to_batches(500_000)))]
    path = tmp_path / "cells.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, cells[0].schema) as writer:
        for cell in cells:
            writer.write_batch(cell)
    # A compiler would need more memory than the fit.
    subprocess.run([sys.executable, "-m", "mfspark.kernels.warm"], check=True)
    result = subprocess.run(
        [sys.executable, "-c", PEAK + FIT, str(path), learner],
        capture_output=True,
        text=True,
        check=True,
    )
    measured, n_users, n_items = map(int, result.stdout.split())
    estimate = one_task_bytes(Workload(n, n_users, n_items, 16), learner == "linked als")
    assert measured / 1.5 < estimate < 1.5 * measured


BLOCK = """
import sys
import numpy as np, pyarrow as pa
from mfspark.columns import USER
from mfspark.engine.als_half_step import solve_block
from mfspark.engine.block_files import BlockFiles
from mfspark.engine.blocks import RatingBlockFormat
from mfspark.engine.index import Layout
from mfspark.kernels.objective import Objective, Penalty
n_users, n_items, rank = map(int, sys.argv[2:])
layout = Layout(np.array([n_users, 0]), ())
files = BlockFiles("planned", USER, RatingBlockFormat(), layout, n_items)
with pa.OSFile(sys.argv[1]) as source:
    files.make(pa.ipc.open_stream(source).read_all())
fixed = np.random.default_rng(0).normal(0, 0.1, (n_items, rank + 1)).astype(np.float32)
arrived = pa.table({"block": pa.array([0], pa.int32()), "number": [0], "rows": [fixed.tobytes()]})
objective = Objective(3.0, True, Penalty(1.0, 0.2, 0.5), Penalty(1.0, 0.2, 0.5))
solve_block(
    arrived, side=USER, objective=objective, files=files, exchange="broadcast", rank=rank,
    solver="auto", dtype=np.float32,
)
print(peak())
"""


@LINUX
def test_memory_of_a_distributed_task_is_estimated_within_half(tmp_path, rng, monkeypatch):
    n, n_users, n_items, rank = 6_000_000, 60_000, 200_000, 16
    of_cells = ("rows", "counts", "others", "rating", "palette")
    schema = pa.schema(
        [
            ("block", pa.int32()),
            ("is_validation", pa.bool_()),
            *[(name, pa.binary()) for name in of_cells],
        ]
    )
    path = tmp_path / "chunks.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for _ in range(12):
            columns = [
                np.arange(n_users, dtype=np.uint16),
                rng.multinomial(n // 12, np.full(n_users, 1 / n_users)).astype(np.uint8),
                rng.integers(0, n_items, n // 12).astype(np.int32),
                rng.integers(0, 5, n // 12).astype(np.uint8),
                np.arange(1, 6, dtype=np.float32),
            ]
            cells = [pa.array([column.tobytes()], pa.binary()) for column in columns]
            flags = [pa.array([0], pa.int32()), pa.array([False])]
            writer.write_batch(pa.RecordBatch.from_arrays([*flags, *cells], schema=schema))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path))
    subprocess.run([sys.executable, "-m", "mfspark.kernels.warm"], check=True)
    result = subprocess.run(
        [sys.executable, "-c", PEAK + BLOCK, str(path), str(n_users), str(n_items), str(rank)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    settings = ALSSettings(
        execution="distributed", exchange="broadcast", num_user_blocks=1, num_item_blocks=1
    )
    plan = plan_als(Workload(n, n_users, n_items, rank), settings, LAPTOP)
    measured = int(result.stdout)
    assert measured / 1.5 < plan.task_bytes < 1.5 * measured


@pytest.mark.parametrize(
    ("exchange", "is_half"), [("broadcast", False), ("routed", False), ("routed", True)]
)
def test_bytes_shipped_are_estimated_within_half(spark, rng, exchange, is_half):
    n = 20_000
    frame = pd.DataFrame({"user": rng.integers(0, 2000, n), "item": rng.integers(0, 500, n)})
    ratings = spark.createDataFrame(frame.assign(rating=rng.integers(1, 6, n).astype(float)))
    settings = {"rank": 4, "maxIter": 1, "numUserBlocks": 3, "numItemBlocks": 4}
    settings |= {"exchange": exchange, "halfWidth": is_half}
    model = BiasedALS(execution="distributed", **settings).fit(ratings)
    workload = Workload(n, model.metadata.n_users, model.metadata.n_items, 4)
    plan = plan_als(
        workload,
        ALSSettings(
            execution="distributed",
            num_user_blocks=3,
            num_item_blocks=4,
            exchange=exchange,
            half_width=is_half,
        ),
        LAPTOP,
    )
    for row in model.history.collect():
        assert row["bytes"] / 1.5 < plan.bytes_shipped[row["side"]] < 1.5 * row["bytes"]


def test_items_that_are_sent_moments_are_kept_where_no_executor_can_lose_them():
    wide = Workload(10**8, 300_000, 20_000_000, 16)
    by_moments, routed = (
        plan_als(wide, ALSSettings(exchange=exchange), CLUSTER)
        for exchange in ("moments", "routed")
    )
    assert by_moments.keep[ITEM] == "durable"
    assert routed.keep == {USER: "driver", ITEM: "executors"}
