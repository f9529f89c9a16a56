"""Workers are silent about sockets that Spark has closed, and about nothing else; and what they do
before and between tasks."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pyarrow as pa
import pytest

from mfspark.app.quiet_daemon import collect_and_freeze, print_unless_closed


@pytest.mark.parametrize(
    ("error", "is_printed"),
    [(BrokenPipeError(), False), (ConnectionResetError(), False), (ValueError("why"), True)],
)
def test_errors_but_those_of_closed_sockets_are_printed(capsys, error, is_printed):
    try:
        raise error
    except type(error):
        print_unless_closed()
    assert ("Traceback" in capsys.readouterr().err) == is_printed


class Circle:
    def __init__(self) -> None:
        self.own = self


def test_garbage_goes_and_what_is_left_is_not_looked_at_again():
    kept, thrown_away = Circle(), Circle()
    gone = weakref.ref(thrown_away)
    del thrown_away
    before = gc.get_freeze_count()
    try:
        collect_and_freeze()
        assert gone() is None
        assert gc.get_freeze_count() > before + 1000
        assert not any(found is kept for found in gc.get_objects())
    finally:
        gc.unfreeze()


# Of a daemon that has no workers: what it would fork them with.
DAEMON = """
import runpy, sys
from pyspark import daemon
daemon.manager = lambda: print(*sorted(sys.modules))
runpy.run_module("mfspark.app.quiet_daemon", run_name="__main__")
"""


def test_workers_begin_with_what_tasks_import():
    run = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, check=True)
    found = set(run.stdout.split())
    assert {"numba", "pandas", "pyarrow"} <= found
    assert {"mfspark.engine.als_half_step", "mfspark.engine.sgd_epoch", "mfspark.models.prediction",
            "mfspark.kernels.neighbours", "mfspark.evaluation.ranking"} <= found  # fmt: skip
    # A second that only the reading of factors and the diagnosis of chains have need of.
    assert "scipy.stats" not in found


@pytest.mark.classic
def test_workers_of_the_session_do_so_after_each_task(spark):
    def frozen(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"n": pa.array([gc.get_freeze_count()])})

    def counts() -> list[int]:
        found = spark.range(0, 2, 1, 2).mapInArrow(frozen, "n long").collect()
        return [row["n"] for row in found]

    # Whichever workers the tasks come to, some of them have had one before.
    assert max(number for _ in range(5) for number in counts()) > 1000
