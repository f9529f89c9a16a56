"""Errors that a user can act on: what was found, why it matters, what to do."""

import errno
import re
from typing import ClassVar

# How a job ends, for those who start it; README lists all codes.
UNEXPECTED, CONFIGURATION, DATA, SPARK_LOST, INTERRUPTED = range(1, 6)

# Numbers of an OSError: a full disk, a quota that is used up.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class MfsparkError(Exception):
    """Base of all errors that mfspark raises on purpose; jobs print it as one line.

    ``exit_code``: that of the job.
    """

    exit_code: ClassVar[int] = UNEXPECTED


class ConfigError(MfsparkError):
    """The configuration names an unknown key or holds a value that is not allowed."""

    exit_code = CONFIGURATION


class DataError(MfsparkError):
    """The ratings, or a file that should hold them, cannot be used."""

    exit_code = DATA


class DiskError(DataError):
    """A disk has not room for what is to be written."""

    exit_code = SPARK_LOST


class DivergenceError(MfsparkError):
    """The objective left all bounds: of gradient descent at whatever learning rate."""

    exit_code = DATA


class FitError(MfsparkError):
    """Spark gave up in the middle of a fit; the message names the cause and the remedy."""

    exit_code = SPARK_LOST


class ModelFormatError(MfsparkError):
    """A model directory is missing, corrupt, or of another schema version."""

    exit_code = DATA


class OutputExistsError(MfsparkError):
    """The target of a write exists and overwriting was not asked for."""

    exit_code = CONFIGURATION


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A Java error reached through py4j says on its second line what happened.
    telling = [line for line in lines if not line.startswith("An error occurred while calling")]
    first = (telling or lines or [repr(error)])[0].removeprefix(": ")
    causes = [line.partition(": ")[2] for line in lines if line.startswith("Caused by: ")]
    if causes and "awaitResult" in first:
        first = causes[0]
    if broken := re.search(r"FAILED_READ_FILE.*? (file:\S+|\w+://\S+)", first):
        path = re.sub("^file:(//)?", "", broken[1]).rstrip(".")
        # Of types Spark tells behind the file, of other columns in the cause.
        types = re.search(r"Data type mismatch.*?\. (?=SQLSTATE)", first)
        header = next((cause for cause in causes if "header" in cause), "")
        reason = (types[0] if types else re.sub(r"^\S+Exception: ", "", header)).strip()
        told = f" (Spark says: {reason[:150]})"
        return (
            f"{path} cannot be read: it is cut off, damaged, or of another format or other columns "
            f"than the files beside it{told if types or header else ''}; replace or remove it"
        )
    # Of a Python error in a worker the last line of the traceback tells.
    if "Traceback (most recent call last)" in str(error):
        start = next(n for n, line in enumerate(telling) if "Traceback (most recent" in line)
        python = [line for line in telling[start:] if re.match(r"[\w.]+(Error|Exception)\b", line)]
        if python:
            first = f"{first.partition('An exception was thrown')[0]}{python[-1]}"
    return first.removeprefix("org.apache.spark.SparkException: ").strip()[:300]
