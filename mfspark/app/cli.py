"""What every job does around its step: arguments, logging, session, errors in one line."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from argparse import BooleanOptionalAction
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyspark.sql import SparkSession

from mfspark.app.config import load_config
from mfspark.app.config_reference import plain_reference
from mfspark.app.dry_run import describe_job
from mfspark.app.logs import LOG_FORMATS, log_to_stderr, placed
from mfspark.app.run_directory import RunDirectory
from mfspark.errors import INTERRUPTED, NO_SPACE, SPARK_LOST, UNEXPECTED, MfsparkError, one_line
from mfspark.shipping import ship
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")

_EXAMPLES = """examples:
  --config conf/demo.toml
  --config conf/custom.toml --set data.path=ratings.csv --set data.columns.user=customer
  --config conf/ml-1m.toml --set als.rank=64 --set run.name=rank64 --set run.overwrite=true

keys, with their defaults and [allowed values]:"""


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): like an interrupt, it lets everything be tidied."""


def main(step: Callable[[SparkSession, RunDirectory], object], description: str | None) -> None:
    """Run ``step`` as a job; an error is said in one line, and told by the exit code."""
    arguments = _parse(description)
    before = signal.getsignal(signal.SIGTERM)
    _on_sigterm(_terminate)
    log_to_stderr(arguments.log_format)
    # Workers must run the interpreter of the driver, where nothing else was asked for.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = None
    code, told = None, ""
    try:
        run = RunDirectory(load_config(arguments.config, arguments.set))
        if arguments.dry_run:
            print(describe_job(run))
            return
        spark = SparkSession.builder.appName(f"mfspark {run.config.run.name}").getOrCreate()
        ship(spark)
        with placed(run=run.config.run.name), run.lock():
            step(spark, run)
    except (Exception, KeyboardInterrupt) as error:
        code, told = _end(error)
    finally:
        # It ends anyway, and is to end tidily.
        _on_sigterm(signal.SIG_IGN)
        if spark is not None:
            with suppress(Exception):
                spark.stop()
        _on_sigterm(before)
    if code is not None:
        logger.error("mfspark: %s", told, extra={"exit_code": code})
        sys.exit(code)


def _end(error: BaseException) -> tuple[int, str]:
    """The exit code for an error, and the line about it."""
    if isinstance(error, MfsparkError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, (
            "interrupted; what was finished is there, and the same command goes on from it, a fit "
            "from its last snapshot"
        )
    logger.debug("the job failed", exc_info=error)
    if isinstance(error, SPARK_ERRORS):
        return SPARK_LOST, f"error: Spark failed: {one_line(error)}"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return SPARK_LOST, (
            f"error: a disk is full ({error.strerror}); make room: what was finished is there, and "
            "the same command goes on from it, a fit from its last snapshot"
        )
    place = traceback.extract_tb(error.__traceback__)[-1]
    return UNEXPECTED, (
        f"error: {type(error).__name__}: {one_line(error)} (unexpected, in "
        f"{place.name}, {place.filename}:{place.lineno}; please report it)"
    )


def _on_sigterm(handler: Any) -> None:
    # Python allows nothing else; a notebook's thread is ended by the notebook.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame: object) -> None:
    raise TerminatedError


def _parse(description: str | None) -> argparse.Namespace:
    """What the command line says; ``--resume`` as if it were set."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{_EXAMPLES}\n{plain_reference()}",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file, see conf/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one value of the file; may be given several times",
    )
    parser.add_argument(
        "--resume",
        action=BooleanOptionalAction,
        default=None,
        help="go on where a job that was broken off left (run.resume), or begin anew",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the configuration in force, what is found of its inputs and outputs, plan, "
        "memory and disk of the fit, and end: Spark is not started, nothing is written",
    )
    parser.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        default="text",
        help="of standard error: text, or json, an object per line (run, step, iteration, seconds, "
        "rows, …)",
    )
    arguments = parser.parse_args()
    if arguments.resume is not None:
        arguments.set.append(f"run.resume={str(arguments.resume).lower()}")
    return arguments
