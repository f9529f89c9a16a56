"""Long fits do not grow, and broken-off ones leave nothing behind."""

import logging
import os
import re
import signal

import pytest
from scratch import scratch_folder

from mfspark import BiasedALS, BiasedSGD
from mfspark.engine import als_half_step


def heap_mib(spark) -> float:
    """Memory of the driver's JVM that is in use after a garbage collection."""
    runtime = spark._jvm.java.lang.Runtime.getRuntime()
    spark._jvm.java.lang.System.gc()
    return (runtime.totalMemory() - runtime.freeMemory()) / 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    "exchange", ["broadcast", pytest.param("routed", marks=pytest.mark.thorough)]
)
def test_a_hundred_iterations_do_not_grow(spark, ratings, monkeypatch, exchange):
    scratch, seen, n = scratch_folder(spark), [], 100
    run = als_half_step.run_half_step
    # Tables of earlier tests go when they are collected, at any time.
    earlier = persisted(spark)

    def watch(workspace, side, fixed):
        if len(seen) % 10 == 0:
            plan = re.sub(r"\d+", "", fixed.table._jdf.queryExecution().analyzed().toString())
            files = sum(1 for path in scratch.rglob("*") if path.is_file())
            persistent = len(persisted(spark) - earlier)
            seen.append((len(plan), files, persistent, heap_mib(spark)))
        else:
            seen.append(None)
        return run(workspace, side, fixed)

    monkeypatch.setattr("mfspark.engine.fit_als.run_half_step", watch)
    # Never better by enough would stop the fit, so every iteration counts as better.
    monkeypatch.setattr("mfspark.algorithms.history.History.end_iteration", never_stop)
    model = BiasedALS(
        rank=2, maxIter=n, seed=1, execution="distributed", exchange=exchange,
        numUserBlocks=2, numItemBlocks=2,
    ).fit(ratings)  # fmt: skip
    assert model.metadata.best_iteration == n
    figures = [row for row in seen if row is not None]
    assert len(figures) == 2 * n // 10
    early, late = figures[2], figures[-1]
    assert late[0] == early[0]
    # Spark removes files of finished shuffles some time after its garbage collector finds them
    # unused, so that their number goes up and down.
    assert min(files for _, files, _, _ in figures[-5:]) < early[1] + 100
    assert late[2] == early[2]
    assert late[3] < early[3] + 50


def never_stop(history):
    history.best_iteration = history.rows[-1].iteration
    return True


@pytest.mark.parametrize("estimator", [BiasedALS, BiasedSGD])
def test_a_fit_interrupted_from_the_keyboard_leaves_nothing(spark, ratings, estimator):
    class Interrupt(logging.Handler):
        def emit(self, record):
            if isinstance(record.args, tuple) and record.args[1:2] == (2,):
                os.kill(os.getpid(), signal.SIGINT)

    def left_behind():
        settings = spark.conf.get("spark.sql.adaptive.enabled")
        return settings, list(scratch.glob("mfspark-block-*"))

    scratch = scratch_folder(spark)
    logger, handler = logging.getLogger("mfspark"), Interrupt()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # The ratings themselves are persisted when they are first read.
    ratings.count()
    before, cached = left_behind(), persisted(spark)
    try:
        with pytest.raises(KeyboardInterrupt):
            estimator(rank=2, maxIter=6, tol=0.0, execution="distributed").fit(ratings)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert left_behind() == before
    # Tables of earlier tests may have gone meanwhile.
    assert persisted(spark) <= cached


def persisted(spark):
    """Numbers of the tables that Spark keeps."""
    return set(spark.sparkContext._jsc.getPersistentRDDs())


def test_only_the_model_s_own_tables_stay_in_memory(spark, ratings):
    before = persisted(spark)
    for execution in ("one_task", "distributed"):
        model = BiasedALS(
            rank=2, maxIter=2, regParam=0.2, biasRegParam=0.1, execution=execution
        ).fit(ratings)
        model.transform(ratings).count()
        assert len(persisted(spark) - before) == 2
        model.unpersist()
        assert persisted(spark) <= before
        assert model.transform(ratings).count() == ratings.count()
        model.unpersist()
