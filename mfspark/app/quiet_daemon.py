"""Spark's daemon of Python workers, which says nothing of sessions that end.

    spark.python.daemon.module   mfspark.app.quiet_daemon

When a session ends, Spark closes the sockets of idle workers, and those that notice before they are
killed print a ``BrokenPipeError``. No error of a task comes that way: these reach the driver.
"""

import sys
import traceback

from pyspark import daemon

_print_error = traceback.print_exc


def print_unless_closed() -> None:
    """Print the error that is being handled, but for sockets that the other end has closed."""
    if not isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
        _print_error()


if __name__ == "__main__":
    traceback.print_exc = print_unless_closed  # type: ignore[assignment]
    daemon.manager()
