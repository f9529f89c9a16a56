"""Spark's daemon of Python workers, quieter, and with less to do before and between tasks.

    spark.python.daemon.module   mfspark.app.quiet_daemon

When a session ends, Spark closes the sockets of idle workers, and those that notice before they are
killed print a ``BrokenPipeError``. No error of a task comes that way: these reach the driver.

Workers are forked from the daemon, and have what it has imported: else each, and again after a
minute without a task, would import numba, pandas and mfspark for a second.

After every task a worker collects garbage, which passes over all that is loaded: with numba, pandas
and pyarrow 0.06 s, more than many a task takes. What is there after a task is loaded for good.
"""

import gc
import sys
import traceback
from importlib import import_module
from types import SimpleNamespace

from pyspark import daemon

# Between them they import nearly all that tasks call.
_TASKS = (
    "mfspark.engine.fit_als",
    "mfspark.engine.fit_bayes",
    "mfspark.engine.fit_sgd",
    "mfspark.engine.find_neighbours",
    "mfspark.evaluation.ranking",
)

_print_error = traceback.print_exc


def print_unless_closed() -> None:
    """Print the error that is being handled, but for sockets that the other end has closed."""
    if not isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
        _print_error()


def collect_and_freeze() -> None:
    """Collect the garbage of a task, and have later collections leave out what is left."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    traceback.print_exc = print_unless_closed  # type: ignore[assignment]
    daemon.gc = SimpleNamespace(collect=collect_and_freeze)  # type: ignore[assignment,attr-defined]
    for name in _TASKS:
        import_module(name)
    gc.freeze()
    daemon.manager()
