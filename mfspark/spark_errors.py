"""The exceptions by which Spark's failures reach Python, and what to do about them."""

import re

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

# Most failures arrive as PySparkException, some (an unreadable Parquet footer) as bare Java errors.
SPARK_ERRORS = (PySparkException, Py4JError)

_SIGNS_OF_LOST_EXECUTORS = (
    "ExecutorLostFailure",
    "FetchFailed",
    "CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND",
)


def described(error: Exception) -> str:
    """Its kind and its text, in which an error of a task has the kind of that one."""
    return f"{type(error).__name__}: {error}"


def remedy(error: Exception) -> str:
    """What to do about a job that was given up."""
    text = described(error)
    if any(sign in text for sign in _SIGNS_OF_LOST_EXECUTORS):
        return (
            "executors were lost again and again, mostly for want of memory: raise "
            "spark.executor.memoryOverhead, or the numbers of blocks, and see the executors' logs"
        )
    if re.search("No module named '(mfspark|numba|numpy|pandas|pyarrow|scipy)", text):
        return (
            "Spark's workers run another Python than this one: import mfspark before the session "
            "is made, or set PYSPARK_PYTHON to a Python that has mfspark and what it needs; on "
            "Spark Connect call mfspark.ship(spark), which sends mfspark to the server, whose "
            "Python must have the rest"
        )
    if "ChangedRatingsError" in text:
        return (
            "the table of ratings has other rows each time it is computed, as with rand, limit or "
            "a source that others write to; write it to files or to a table, and fit that"
        )
    if "No space left" in text:
        return "make room on the executors' disks, or name others in spark.local.dir"
    if "Python worker exited unexpectedly" in text or "Python worker failed" in text:
        return (
            "a Python worker died, mostly for want of memory: raise spark.executor.memoryOverhead "
            "or the numbers of blocks"
        )
    return "if the cause lies outside of the ratings, the log of the executor tells more"
