import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mfspark.kernels.csr import build_block, compact


def test_the_worked_example_of_the_module():
    needed, columns = compact(np.array([7, 7, 2], np.int32), 9)
    np.testing.assert_array_equal(needed, [2, 7])
    block = build_block(
        np.array([0, 2, 0], np.int32),
        columns,
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
    entries=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 50), st.integers(1, 5), st.booleans()),
        max_size=60,
    )
)
def test_every_entry_is_kept_once_in_order(entries):
    rows, positions, values, is_validation = (
        [list(column) for column in zip(*entries, strict=True)] if entries else [[], [], [], []]
    )
    needed, columns = compact(np.array(positions, np.int32), 60)
    assert list(needed) == sorted(set(positions))
    block = build_block(
        np.array(rows, np.int32),
        columns,
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
