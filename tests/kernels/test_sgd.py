"""The SGD kernel against its readable twin, finite differences and the count of visits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels import reference
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.sgd import Entries, SGDSide, shuffle, visit


def random_entries(rng, n, n_users, n_items) -> Entries:
    return Entries(
        rng.integers(0, n_users, n).astype(np.int32),
        rng.integers(0, n_items, n).astype(np.int32),
        rng.integers(1, 11, n).astype(np.float32) / 2,
    )


def random_sides(rng, entries, n_users, n_items, rank, exponent=0.5, is_linked=False):
    def side(n, places):
        rows = rng.normal(0, 0.5, (n, rank + 1)).astype(np.float32)
        made = SGDSide.start(rows, np.bincount(places, minlength=n), exponent)
        offsets = rng.normal(0, 0.5, (n, rank + 1)).astype(np.float32)
        return made._replace(offsets=AlignedRows.of(offsets)) if is_linked else made

    return side(n_users, entries.rows), side(n_items, entries.columns)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 60),
    rank=st.sampled_from([1, 3, 16, 33]),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    fit_biases=st.booleans(),
    by_row=st.booleans(),
    is_linked=st.booleans(),
)
def test_visit_agrees_with_the_readable_twin(
    seed, n, rank, exponent, fit_biases, by_row, is_linked
):
    rng = np.random.default_rng(seed)
    entries = random_entries(rng, n, 7, 5)
    users, items = random_sides(rng, entries, 7, 5, rank, exponent, is_linked)
    objective = Objective(3.2, fit_biases, Penalty(0.4, 0.1, exponent), Penalty(0.3, 0.2, exponent))
    expected = reference.visit(entries, users, items, objective, 0.03, by_row)
    error = visit(entries, users, items, objective, 0.03, by_row)
    assert error == pytest.approx(expected.error, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(users.rows, expected.users, atol=1e-4)
    np.testing.assert_allclose(items.rows, expected.items, atol=1e-4)
    # The squares that later visits are slower for are those of the twin, too.
    again = reference.visit(entries, users, items, objective, 0.03, by_row)
    visit(entries, users, items, objective, 0.03, by_row)
    np.testing.assert_allclose(users.rows, again.users, atol=1e-4)


def test_one_step_goes_down_the_slope_of_the_objective(rng):
    """A tiny step on each rating from the same point adds up to minus half the gradient."""
    entries = random_entries(rng, 40, 6, 5)
    users, items = random_sides(rng, entries, 6, 5, 3)
    penalty = Penalty(0.5, 0.2, 0.5)

    def value(user_rows, item_rows):
        p, q = user_rows[entries.rows], item_rows[entries.columns]
        found = 3.0 + p[:, 3] + q[:, 3] + (p[:, :3] * q[:, :3]).sum(axis=1)
        total = np.square(entries.values - found).sum()
        for rows, places in ((user_rows, entries.rows), (item_rows, entries.columns)):
            counts = np.bincount(places, minlength=len(rows))
            ridge = 0.5 * (rows[:, :3] ** 2).sum(axis=1) + 0.2 * rows[:, 3] ** 2
            total += (np.sqrt(counts) * ridge).sum()
        return total

    before = users.rows.astype(float), items.rows.astype(float)
    slopes = []
    for side in (0, 1):
        slope = np.zeros_like(before[side])
        for place in np.ndindex(*slope.shape):
            ends = []
            for sign in (1, -1):
                moved = [part.copy() for part in before]
                moved[side][place] += sign * 1e-5
                ends.append(value(*moved))
            slope[place] = (ends[0] - ends[1]) / 2e-5
        slopes.append(slope)
    rate = 1e-4
    visit(entries, users, items, Objective(3.0, True, penalty, penalty), rate, by_row=False)
    # Rounding of float32 and the order of the visits are second to the slope.
    for side, slope in zip((users, items), slopes, strict=True):
        start = before[0] if side is users else before[1]
        np.testing.assert_allclose((side.rows - start) / rate, -slope / 2, rtol=0.02, atol=0.02)


def test_offsets_are_those_of_both_sides_or_of_none(rng):
    entries = random_entries(rng, 5, 6, 5)
    users, items = random_sides(rng, entries, 6, 5, 3, is_linked=True)
    penalty = Penalty(0.5, 0.2, 0.5)
    with pytest.raises(AssertionError):
        visit(
            entries, users, items._replace(offsets=None), Objective(0.0, True, penalty, penalty),
            0.1, True,
        )  # fmt: skip


@settings(deadline=None)
@given(n=st.integers(0, 200), key=st.integers(0, 2**63 - 1))
def test_shuffle_keeps_every_rating_once(n, key):
    places = np.arange(n, dtype=np.int32)
    entries = Entries(places.copy(), places.copy() + 1000, places.astype(np.float32) / 2)
    shuffle(entries, key)
    assert sorted(entries.rows) == list(places)
    np.testing.assert_array_equal(entries.columns, entries.rows + 1000)
    np.testing.assert_array_equal(entries.values, entries.rows / np.float32(2))


def test_shuffles_are_uniform():
    firsts = []
    for key in np.random.default_rng(0).integers(0, 2**63, 4000):
        places = np.arange(5, dtype=np.int32)
        entries = Entries(places, places.copy(), places.astype(np.float32))
        shuffle(entries, key)
        firsts.append(entries.rows[0])
    counts = np.bincount(firsts, minlength=5)
    # Five standard deviations of a binomial count.
    assert np.abs(counts - 800).max() < 5 * np.sqrt(4000 * 0.2 * 0.8)


@pytest.mark.parametrize("by_row", [False, True])
def test_no_penalty_is_too_high(rng, by_row):
    """Rows go to zero, not beyond it and back."""
    entries = random_entries(rng, 2000, 6, 5)
    users, items = random_sides(rng, entries, 6, 5, 4)
    before = np.abs(users.rows).max()
    penalty = Penalty(1e6, 1e6, 0.5)
    errors = [
        visit(entries, users, items, Objective(3.0, True, penalty, penalty), 0.1, by_row)
        for _ in range(5)
    ]
    assert np.abs(users.rows).max() < 1e-3 * before
    null_error = np.square(entries.values - 3.0).sum()
    assert errors[-1] == pytest.approx(null_error, rel=1e-3)


def test_too_high_a_rate_shows_in_the_error(rng):
    entries = random_entries(rng, 2000, 6, 5)
    users, items = random_sides(rng, entries, 6, 5, 4)
    penalty = Penalty(0.1, 0.1, 0.5)
    objective = Objective(3.0, True, penalty, penalty)
    errors = [visit(entries, users, items, objective, 5.0, False) for _ in range(3)]
    assert not np.isfinite(errors[-1])
