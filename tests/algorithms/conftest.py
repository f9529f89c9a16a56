"""Fixtures of fits in one process."""

import pytest

from mfspark.algorithms import sharing


@pytest.fixture
def every_row_shared_out(monkeypatch) -> None:
    """Have the threads share work that is otherwise too little for that."""
    monkeypatch.setattr(sharing, "LEAST_WORK", 1)
