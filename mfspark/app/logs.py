"""What a job says on standard error: lines for people, or a JSON object per line for machines."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from pythonjsonlogger.json import JsonFormatter

from mfspark.redact import redacted

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)

# Of this process, which runs one job: threads are at work in the same step.
_PLACE: dict[str, str] = {}


@contextmanager
def placed(**place: str) -> Iterator[None]:
    """Put ``run`` and ``step`` into the JSON of all that is said inside."""
    before = dict(_PLACE)
    _PLACE.update(place)
    try:
        yield
    finally:
        _PLACE.clear()
        _PLACE.update(before)


def log_to_stderr(log_format: LogFormat) -> None:
    """Let the loggers of this process write to standard error, without secrets of URIs."""
    formatter: logging.Formatter
    if log_format == "json":
        formatter = _JsonLines("%(levelname)s %(name)s %(message)s", timestamp="time")
        # A bar among lines of JSON would be none of them.
        os.environ["TQDM_DISABLE"] = "1"
    else:
        formatter = _Lines("%(asctime)s %(message)s", "%H:%M:%S")
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logger = logging.getLogger("mfspark")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # What others say. py4j shows a traceback where a job is interrupted or Spark is lost, which is
    # told in a line of ours.
    of_others = logging.StreamHandler()
    of_others.setFormatter(formatter if log_format == "json" else _Lines())
    of_others.addFilter(lambda record: "py4j" not in record.pathname)
    logging.getLogger().addHandler(of_others)


class _Lines(logging.Formatter):
    """Without a time where a job ends: that line is what somebody looks for."""

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "exit_code"):
            return redacted(record.getMessage())
        return redacted(super().format(record))


class _JsonLines(JsonFormatter):
    """time (ISO 8601, UTC), levelname, name, message, run, step, and the facts of a record
    (``extra``), such as iteration, seconds and rows."""

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        found = {**log_data, **_PLACE}
        return {
            key: redacted(value) if isinstance(value, str) else value
            for key, value in found.items()
        }
