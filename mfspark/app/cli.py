"""What every job does around its step: arguments, logging, session, errors in one line."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable

from pyspark.sql import SparkSession

from mfspark.app.config import load_config
from mfspark.app.config_reference import plain_reference
from mfspark.app.run_directory import RunDirectory
from mfspark.errors import MfsparkError, one_line
from mfspark.spark_errors import SPARK_ERRORS

_EXAMPLES = """examples:
  --config conf/demo.toml
  --config conf/custom.toml --set data.path=ratings.csv --set data.columns.user=customer
  --config conf/ml-1m.toml --set als.rank=64 --set run.name=rank64 --set run.overwrite=true

keys, with their defaults and [allowed values]:"""


def main(step: Callable[[SparkSession, RunDirectory], object], description: str | None) -> None:
    """Run ``step`` as a job; exits 1 after an error, which it says in one line."""
    arguments = _parse(description)
    _log_to_stderr()
    # Workers must run the interpreter of the driver, where nothing else was asked for.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = None
    try:
        run = RunDirectory(load_config(arguments.config, arguments.set))
        spark = SparkSession.builder.appName(f"mfspark {run.config.run.name}").getOrCreate()
        with run.lock():
            step(spark, run)
    except MfsparkError as error:
        sys.exit(f"mfspark: error: {error}")
    except SPARK_ERRORS as error:
        logging.getLogger("mfspark").debug("Spark failed", exc_info=True)
        sys.exit(f"mfspark: error: Spark failed: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("mfspark: interrupted; what was unfinished is gone, what was finished is there")
    except Exception as error:
        logging.getLogger("mfspark").debug("unexpected", exc_info=True)
        place = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(
            f"mfspark: error: {type(error).__name__}: {one_line(error)} (unexpected, in "
            f"{place.name}, {place.filename}:{place.lineno}; please report it)"
        )
    finally:
        if spark is not None:
            spark.stop()


def _parse(description: str | None) -> argparse.Namespace:
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
    return parser.parse_args()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("mfspark")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
