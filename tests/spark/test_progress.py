"""Iterations of a fit in one task are told while the task works."""

import json
import logging
import os
import tempfile
import threading

import pytest

from mfspark import BiasedSGD
from mfspark.algorithms.history import HistoryRow
from mfspark.engine.progress import TaskProgress


def row(iteration: int, side: str = "both") -> HistoryRow:
    return HistoryRow(iteration, side, 100.0 / iteration, 0.9, None, 0.5, 0, None)


class Heard(logging.Handler):
    """Messages, and an event for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.events = [threading.Event() for _ in range(9)]

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.events[len(self.messages) - 1].set()


@pytest.fixture
def heard():
    handler, logger = Heard(), logging.getLogger("mfspark")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def write(journal: str, *rows: HistoryRow) -> None:
    with open(journal, "a", encoding="utf-8") as file:
        file.write(json.dumps(rows) + "\n")


def test_lines_are_told_when_they_are_written(heard):
    with TaskProgress(4, "Fit") as progress:
        write(progress.journal, row(1, "user"), row(1, "item"))
        assert heard.events[0].wait(30)
        assert heard.messages == ["Fit 1/4: objective 100, train rmse 0.9; 1 s, at most 3 s left"]
        # A half-written line, an attempt that began anew, and what never came through.
        with open(progress.journal, "a", encoding="utf-8") as file:
            line = json.dumps([row(2)])
            file.write(line[:9])
            file.flush()
            file.write(line[9:] + "\n")
        assert heard.events[1].wait(30)
        write(progress.journal, row(1))
        progress.report_rest([row(1, "user"), row(1, "item"), row(2), row(3)])
        assert [message[:7] for message in heard.messages] == ["Fit 1/4", "Fit 2/4", "Fit 3/4"]
    assert not os.path.exists(progress.journal)


def test_what_was_written_last_is_not_lost(heard):
    with TaskProgress(2, "Fit") as progress:
        write(progress.journal, row(1))
    assert len(heard.messages) == 1


def test_without_a_title_nothing_is_told(heard):
    with TaskProgress(2, None) as progress:
        assert progress.journal is None
        progress.report_rest([row(1)])
    assert heard.messages == []


def test_a_fit_tells_each_iteration_once_and_leaves_no_file(
    spark, ratings, heard, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    BiasedSGD(rank=2, maxIter=3, tol=0.0).fit(ratings)
    told = [message for message in heard.messages if message.startswith("SGD ")]
    assert [message[:8] for message in told] == ["SGD 1/3:", "SGD 2/3:", "SGD 3/3:"]
    assert not list(tmp_path.glob("mfspark-journal-*"))


def test_journals_of_fits_that_were_killed_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young = tmp_path / "mfspark-journal-old", tmp_path / "mfspark-journal-young"
    for path in (old, young):
        path.write_text("")
    two_days_ago = young.stat().st_mtime - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    with TaskProgress(2, "Fit"):
        assert not old.exists()
        assert young.exists()
