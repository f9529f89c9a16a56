"""One line per iteration: a bar on a terminal, log lines elsewhere."""

import json
import logging
import os
import sys
import tempfile
import threading
from itertools import groupby
from types import TracebackType

from tqdm import tqdm

from mfspark import files
from mfspark.algorithms.history import FeatureCounts, HistoryRow
from mfspark.columns import Side
from mfspark.engine.telemetry import FitMetrics

logger = logging.getLogger("mfspark")

_SECONDS_BETWEEN_LOOKS = 0.2
_PREFIX = "mfspark-journal-"
# Nothing was added to such a journal for so long: its fit is dead.
_ABANDONED_SECONDS = 24 * 3600
_FIGURES = ("objective", "train_rmse", "validation_rmse")


class Progress:
    """Reports iterations with their figures and the time left; without a title, nothing."""

    def __init__(self, n_iterations: int, title: str | None) -> None:
        self._n_iterations = n_iterations
        self._title = title
        self._metrics = None if title is None else FitMetrics(title)
        has_bar = title is not None and sys.stderr.isatty() and "TQDM_DISABLE" not in os.environ
        self._bar = tqdm(total=n_iterations, desc=title, unit="iteration", disable=not has_bar)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def report(self, rows: list[HistoryRow]) -> None:
        """Report the end of an iteration, by all rows of the history up to it."""
        if self._metrics is None:
            return
        self._metrics.record(rows)
        last = rows[-1]
        if not self._bar.disable:
            self._bar.set_postfix(_figures(last), refresh=False)
            # The first one that is told of may be a later one: a fit that goes on.
            self._bar.update(last.iteration - self._bar.n)
            return
        elapsed = sum(row.seconds for row in rows)
        left = elapsed / last.iteration * (self._n_iterations - last.iteration)
        logger.info(
            "%s %d/%d: %s; %.3g s, at most %.2g s left",
            self._title,
            last.iteration,
            self._n_iterations,
            _described(last),
            elapsed,
            left,
            extra={
                "iteration": last.iteration,
                "n_iterations": self._n_iterations,
                "seconds": round(elapsed, 3),
                **{name: getattr(last, name) for name in _FIGURES},
            },
        )


class TaskProgress:
    """Reports the iterations of a fit in one task as they happen, from a journal that the task
    keeps (see :class:`mfspark.algorithms.history.History`), and those that did not come through
    when it has ended: a task on another machine does not see the file."""

    def __init__(self, n_iterations: int, title: str | None) -> None:
        self.journal: str | None = None
        self._progress = Progress(n_iterations, title)
        self._title = title
        self._rows: list[HistoryRow] = []
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "TaskProgress":
        if self._title is not None:
            files.remove_abandoned(tempfile.gettempdir(), _PREFIX, _ABANDONED_SECONDS)
            handle, self.journal = tempfile.mkstemp(prefix=_PREFIX)
            os.close(handle)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._progress.__exit__(kind, error, trace)

    def report_rest(self, history: list[HistoryRow]) -> None:
        """Report the iterations of the whole history that have not been reported."""
        self._stop()
        for _, rows in groupby(history[len(self._rows) :], lambda row: row.iteration):
            self._rows += rows
            self._progress.report(self._rows)

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._has_ended.set()
            self._thread.join()
        if self.journal is not None and os.path.exists(self.journal):
            os.unlink(self.journal)

    def _follow(self) -> None:
        assert self.journal is not None
        with open(self.journal, encoding="utf-8") as file:
            text = ""
            while True:
                # What is there after the end is the last of it.
                has_ended = self._has_ended.wait(_SECONDS_BETWEEN_LOOKS)
                *lines, text = (text + file.read()).split("\n")
                for line in lines:
                    self._take([HistoryRow(*row) for row in json.loads(line)])
                if has_ended:
                    return

    def _take(self, rows: list[HistoryRow]) -> None:
        """Report an iteration, unless it was reported: a task that failed is begun anew."""
        if not self._rows or rows[0].iteration > self._rows[-1].iteration:
            self._rows += rows
            self._progress.report(self._rows)


def log_features(counts: FeatureCounts, side: Side, n_rows: int, title: str) -> None:
    """Report how far features of users or items were of use to a fit."""
    logger.info(
        "%s: %d features of %ss; of %d that have ratings %d have features, %d have features alone",
        title, counts.n_features, side, n_rows - counts.n_unrated, counts.n_rated, counts.n_unrated,
    )  # fmt: skip
    if not counts.n_rated:
        logger.warning(
            "no %s with ratings is among those with features, so nothing can be learnt from them; "
            "check that both have the same ids",
            side,
        )


def _figures(row: HistoryRow) -> dict[str, str]:
    values = {name.replace("_", " "): getattr(row, name) for name in _FIGURES}
    return {name: f"{value:.5g}" for name, value in values.items() if value is not None}


def _described(row: HistoryRow) -> str:
    return ", ".join(f"{name} {value}" for name, value in _figures(row).items())
