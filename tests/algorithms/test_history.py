"""When a fit stops, which iteration it keeps, and what is told of it."""

import json
import math
from unittest.mock import patch

import pytest

from mfspark.algorithms.history import History, HistoryRow, Learnt
from mfspark.columns import ITEM, USER
from mfspark.errors import DivergenceError
from mfspark.kernels.objective import PassSums


def run(history: History, objectives, validation=None) -> list[bool]:
    """Iterations of one pass each; whether each was the best so far."""
    best = []
    for iteration in history.iterations():
        n = 0 if validation is None else 4
        missed = 0.0 if validation is None else 4 * validation[iteration - 1] ** 2
        history.add("both", PassSums(objectives[iteration - 1], 10, 0.0, missed, n), 0)
        best.append(history.end_iteration())
    return best


def test_validation_decides_when_there_is_any():
    history = History(max_iter=9, tol=0.01, scale=1.0)
    best = run(history, [100.0] * 5, [1.0, 0.9, 0.85, 0.849, 0.7])
    assert best == [True] * 4
    assert (history.stopped, history.best_iteration) == ("validation", 4)


def test_the_best_iteration_is_kept_when_validation_rises():
    history = History(max_iter=9, tol=0.0, scale=1.0)
    assert run(history, [1.0] * 3, [1.0, 0.9, 0.95]) == [True, True, False]
    assert (history.stopped, history.best_iteration) == ("validation", 2)


def test_the_objective_decides_without_validation():
    history = History(max_iter=9, tol=0.1, scale=1.0)
    assert run(history, [100.0, 80.0, 79.0]) == [True, True, True]
    assert (history.stopped, history.best_iteration) == ("converged", 3)


def test_patience_counts_iterations_in_a_row():
    history = History(max_iter=9, tol=0.1, scale=1.0, patience=2)
    run(history, [100.0, 95.0, 70.0, 69.0, 68.0])
    assert (history.stopped, history.best_iteration) == ("converged", 5)


def test_the_last_iteration_ends_the_fit():
    history = History(max_iter=2, tol=0.0, scale=1.0)
    run(history, [3.0, 2.0])
    assert (history.reason, [row.iteration for row in history.rows]) == ("max_iter", [1, 2])


def test_an_iteration_that_is_repeated_does_not_count():
    history, tries = History(max_iter=2, tol=0.0, scale=1.0), 0
    for iteration in history.iterations():
        tries += 1
        if tries == 2:
            assert iteration == 2
            history.repeat_iteration()
            continue
        history.add("both", PassSums(9.0 - tries, 1, 0.0, 0.0, 0), 0)
        history.end_iteration()
    assert tries == 3
    assert [row.iteration for row in history.rows] == [1, 2]


def test_figures_are_in_the_unit_of_the_ratings_and_count_both_penalties():
    history = History(max_iter=1, tol=0.0, scale=3.0, penalties={ITEM: 5.0})
    for _ in history.iterations():
        history.add(USER, PassSums(40.0, 10, 2.0, 8.0, 2), 70)
        history.add(ITEM, PassSums(30.0, 10, 4.0, 0.0, 0), 90, 0.5)
        history.end_iteration()
    users, items = history.rows
    assert users.objective == pytest.approx(9 * (40 + 2 + 5))
    assert items.objective == pytest.approx(9 * (30 + 2 + 4))
    assert users.train_rmse == pytest.approx(3 * 2.0)
    assert users.validation_rmse == pytest.approx(3 * 2.0)
    assert items.validation_rmse is None
    assert (users.side, users.bytes, items.learning_rate) == ("user", 70, 0.5)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_an_objective_that_is_no_number_ends_the_loop(error):
    history = History(max_iter=5, tol=0.0, scale=1.0)
    with pytest.raises(DivergenceError, match=r"objective of iteration 2 is (nan|inf)"):
        run(history, [1.0, error])


def test_what_was_learnt_comes_back_from_json():
    history = History(max_iter=1, tol=0.0, scale=1.0)
    run(history, [2.0])
    learnt = Learnt(
        n_users=3,
        n_items=2,
        n_cold_validation=1,
        singular_values=[0.1, 1 / 3],
        history=history.rows,
        best_iteration=1,
        stopped=history.reason,
        execution="one_task",
        exchange={USER: "routed", ITEM: "broadcast"},
    )
    assert Learnt.from_json(learnt.to_json()) == learnt


def test_a_journal_has_a_line_for_each_iteration(tmp_path):
    journal = tmp_path / "journal"
    journal.touch()
    history = History(max_iter=3, tol=0.0, scale=1.0, journal=str(journal))
    for iteration in history.iterations():
        assert len(journal.read_text().splitlines()) == iteration - 1
        for side in (USER, ITEM):
            history.add(side, PassSums(9.0 - iteration, 10, 0.0, 0.0, 0), 0)
        history.end_iteration()
    lines = [[HistoryRow(*row) for row in json.loads(line)] for line in journal.open()]
    assert [len(rows) for rows in lines] == [2, 2, 2]
    assert [row for rows in lines for row in rows] == history.rows
    # One that may not write, goes on.
    with patch("mfspark.algorithms.history.open", side_effect=PermissionError, create=True):
        kept = History(max_iter=2, tol=0.0, scale=1.0, journal=str(journal))
        assert run(kept, [2.0, 1.0]) == [True, True]
    assert len(journal.read_text().splitlines()) == 3
    # A task that does not see the driver's file makes none.
    elsewhere = tmp_path / "elsewhere"
    run(History(max_iter=2, tol=0.0, scale=1.0, journal=str(elsewhere)), [2.0, 1.0])
    assert not elsewhere.exists()
