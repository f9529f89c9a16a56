"""One line per iteration: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from itertools import groupby
from types import TracebackType

from tqdm import tqdm

from mfspark.algorithms.history import FeatureCounts, HistoryRow
from mfspark.columns import Side

logger = logging.getLogger("mfspark")

_FIGURES = ("objective", "train_rmse", "validation_rmse")


class Progress:
    """Reports iterations with their figures and the time left; without a title, nothing."""

    def __init__(self, n_iterations: int, title: str | None) -> None:
        self._n_iterations = n_iterations
        self._title = title
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=n_iterations,
            desc=title,
            unit="iteration",
            disable=title is None or not sys.stderr.isatty(),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def report(self, row: HistoryRow) -> None:
        """Report the end of an iteration, by its last row of the history."""
        number = row.iteration
        if self._title is None:
            return
        if not self._bar.disable:
            self._bar.set_postfix(_figures(row), refresh=False)
            self._bar.update()
            return
        elapsed = time.perf_counter() - self._started
        left = elapsed / number * (self._n_iterations - number)
        logger.info(
            "%s %d/%d: %s; %.1f s, at most %.0f s left",
            self._title,
            number,
            self._n_iterations,
            _described(row),
            elapsed,
            left,
        )


def log_history(history: list[HistoryRow], title: str) -> None:
    """Report the iterations of a fit that has ended, from its history."""
    for iteration, rows in groupby(history, lambda row: row.iteration):
        halves = list(rows)
        seconds = sum(row.seconds for row in halves)
        logger.info("%s %d: %s; %.2g s", title, iteration, _described(halves[-1]), seconds)


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
