"""Rows of a side, shared out to threads."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mfspark.algorithms.sharing import LEAST_WORK, row_ranges, share_rows

COUNTS = st.lists(st.integers(0, 4 * LEAST_WORK), max_size=60).map(
    lambda counts: np.sort(np.array(counts, np.int64))[::-1]
)


@given(counts=COUNTS, n_threads=st.integers(1, 9))
def test_every_row_is_in_one_range_or_hot(counts, n_threads):
    n_hot, ranges = share_rows(counts, n_threads)
    rows = [row for first, last in ranges for row in range(first, last)]
    assert rows == list(range(n_hot, len(counts)))
    assert all(first < last for first, last in ranges)


@given(counts=COUNTS, n_threads=st.integers(1, 9))
def test_there_are_no_more_ranges_than_there_is_work_for(counts, n_threads):
    """A row is taken for sixteen ratings and its own."""
    work = int(counts.sum() + 16 * len(counts))
    assert len(row_ranges(counts, n_threads)) <= max(1, work // LEAST_WORK)
    if work < 2 * LEAST_WORK:
        n_hot, ranges = share_rows(counts, n_threads)
        assert n_hot == 0
        assert len(ranges) == min(1, len(counts))


def test_much_work_goes_to_all_threads_in_equal_parts():
    counts = np.full(10_000, 300)
    n_hot, ranges = share_rows(counts, 4)
    assert n_hot == 0
    sizes = [last - first for first, last in ranges]
    assert len(sizes) == 32
    assert max(sizes) - min(sizes) <= 2


def test_a_row_of_half_of_what_a_thread_gets_is_hot():
    counts = np.array([300_000, *20_000 * [50]])
    assert share_rows(counts, 1)[0] == 0
    assert share_rows(counts, 2)[0] == 0
    assert share_rows(counts, 4)[0] == 1
