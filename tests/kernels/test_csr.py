from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mfspark.kernels.csr import Csr, RowRuns, build_block, compact, group_by_row, join_runs


def test_the_worked_example_of_the_module():
    items = np.array([7, 7, 2], np.int32)
    needed, places = compact([items], 9)
    np.testing.assert_array_equal(needed, [2, 7])
    block = build_block(
        np.array([0, 2, 0], np.int32),
        places[items],
        np.array([4, 1, 5], np.float32),
        np.zeros(3, bool),
        3,
        len(needed),
    )
    np.testing.assert_array_equal(block.train.indptr, [0, 2, 2, 3])
    np.testing.assert_array_equal(block.train.columns, [0, 1, 1])
    np.testing.assert_array_equal(block.train.values, [5, 4, 1])
    assert len(block.validation.values) == 0


@given(
    counts=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20),
    ends=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_some_rows_have_their_own_entries(counts, ends):
    n = np.array([count for count, _ in counts])
    whole = Csr(
        np.concatenate([[0], np.cumsum(n)]),
        np.arange(n.sum(), dtype=np.int32),
        np.arange(n.sum(), dtype=np.float32),
    )
    first, last = sorted(min(end, len(n)) for end in ends)
    chosen = np.array([is_chosen for _, is_chosen in counts[first:last]], bool)
    some = whole.slice(first, last).some(chosen)
    rows = [
        list(range(whole.indptr[row], whole.indptr[row + 1]))
        for row in range(first, last)
        if counts[row][1]
    ]
    ends_of_rows = list(pairwise(some.indptr.tolist()))
    assert [some.columns[start:end].tolist() for start, end in ends_of_rows] == rows
    assert some.values.tolist() == some.columns.tolist()
    assert some.n_entries == len(some.columns) == sum(map(len, rows))


@given(
    entries=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 50), st.integers(1, 5), st.booleans()),
        max_size=60,
    )
)
def test_every_entry_is_kept_once_in_order(entries):
    rows, positions, values, is_validation = (
        [list(column) for column in zip(*entries, strict=True)] if entries else [[], [], [], []]
    )
    needed, places = compact([np.array(positions, np.int32)], 60)
    assert list(needed) == sorted(set(positions))
    block = build_block(
        np.array(rows, np.int32),
        places[np.array(positions, np.int32)],
        np.array(values, np.float32),
        np.array(is_validation, bool),
        6,
        len(needed),
    )
    found = []
    for part, flag in ((block.train, False), (block.validation, True)):
        of_row = np.repeat(np.arange(6), part.counts)
        pairs = list(zip(of_row, needed[part.columns], strict=True))
        assert pairs == sorted(pairs)
        found += [(r, p, v, flag) for (r, p), v in zip(pairs, part.values, strict=True)]
    assert sorted(found) == sorted(entries)


@given(
    n=st.integers(0, 2000),
    n_rows=st.sampled_from([1, 3, 200]),
    n_columns=st.sampled_from([1, 2, 255, 256, 257, 70_000]),
    seed=st.integers(0, 2**16),
)
def test_rows_of_any_length_are_sorted_by_column(n, n_rows, n_columns, seed):
    """Short and long rows take different ways; entries of repeated pairs stay in their order."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, n_rows, n).astype(np.int32)
    columns = rng.integers(0, n_columns, n).astype(np.int32)
    values = np.arange(n, dtype=np.float32) - 5
    train = build_block(rows, columns, values, np.zeros(n, bool), n_rows, n_columns).train
    order = np.lexsort([np.arange(n), columns, rows])
    np.testing.assert_array_equal(train.counts, np.bincount(rows, minlength=n_rows))
    np.testing.assert_array_equal(train.columns, columns[order])
    np.testing.assert_array_equal(train.values, values[order])


@given(
    n=st.integers(0, 500),
    n_parts=st.integers(1, 6),
    n_rows=st.sampled_from([1, 40]),
    seed=st.integers(0, 2**16),
)
def test_joined_runs_are_the_block_of_all_entries(n, n_parts, n_rows, seed):
    rng = np.random.default_rng(seed)
    rows, columns = (rng.integers(0, high, n).astype(np.int32) for high in (n_rows, 300))
    values = rng.normal(size=n).astype(np.float32)
    # In the order of the parts, as repeated pairs stay in theirs.
    part = np.sort(rng.integers(0, n_parts, n))
    runs = []
    for number in range(n_parts):
        own = part == number
        indptr, *grouped = group_by_row(rows[own], columns[own], values[own], n_rows)
        counts = np.diff(indptr).astype(np.int32)
        occurs = np.flatnonzero(counts).astype(np.int32)
        runs.append(RowRuns(occurs, counts[occurs], *grouped))
    expected = build_block(rows, columns, values, np.zeros(n, bool), n_rows, 300).train
    for found, array in zip(join_runs(runs, n_rows, 300), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_values_of_other_types_are_grouped_as_well():
    numbers = np.array([9, 8, 7], np.uint8)
    indptr, columns, values = group_by_row(
        np.array([1, 0, 1], np.int32), np.array([4, 5, 6], np.int32), numbers, 2
    )
    assert (indptr.tolist(), columns.tolist(), values.tolist()) == ([0, 1, 3], [5, 4, 6], [8, 9, 7])
    assert values.dtype == np.uint8
