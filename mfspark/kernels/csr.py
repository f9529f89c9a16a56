"""Rating blocks: the rows of one side, in compressed sparse row (CSR) form.

Worked example. Users 0..2 of a block have rated items at the positions

    user 0: item 7 → 4.0, item 2 → 5.0
    user 1: nothing
    user 2: item 7 → 1.0

``compact`` lists the item positions that occur, ascending. Columns are places in this list, not
item positions, so a task only has to receive those rows of the item factors:

>>> needed, columns = compact(np.array([7, 2, 7], np.int32), n_fixed=10)
>>> needed.tolist()
[2, 7]
>>> users, ratings = np.array([0, 0, 2], np.int32), np.array([4, 5, 1], np.float32)
>>> block = build_block(users, columns, ratings, np.zeros(3, bool), n_rows=3, n_columns=2)
>>> block.train.indptr.tolist()  # row u owns the entries indptr[u] .. indptr[u+1]-1
[0, 2, 2, 3]
>>> block.train.columns.tolist(), block.train.values.tolist()  # columns ascend within a row
([0, 1, 1], [5.0, 4.0, 1.0])
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import Bools, Float32s, Int32s, Int64s
from mfspark.kernels.compiled import compiled


class Csr(NamedTuple):
    """Sparse rows: ``indptr`` int64 [n_rows + 1], ``columns`` int32 [n], ``values`` float32 [n].

    ``indptr`` may start above 0 and end below n: then these are some rows of a longer matrix.
    """

    indptr: Int64s
    columns: Int32s
    values: Float32s

    @property
    def n_rows(self) -> int:
        """Number of rows, empty ones included."""
        return len(self.indptr) - 1

    @property
    def n_entries(self) -> int:
        """Number of ratings in these rows."""
        return int(self.indptr[-1] - self.indptr[0])

    @property
    def counts(self) -> Int64s:
        """Ratings per row, int64 [n_rows]."""
        return np.diff(self.indptr)

    def slice(self, first: int, last: int) -> "Csr":
        """Rows ``first`` .. ``last`` − 1, without a copy."""
        return Csr(self.indptr[first : last + 1], self.columns, self.values)

    def check(self) -> None:
        """Assert what compiled code relies on, but for the range of the columns."""
        assert self.indptr.ndim == 1
        assert len(self.indptr)
        assert self.indptr.dtype == np.int64
        assert self.columns.dtype == np.int32
        assert self.values.dtype == np.float32
        assert self.columns.shape == self.values.shape
        assert self.indptr[0] >= 0
        assert self.indptr[-1] <= len(self.columns)


@dataclass(frozen=True)
class RatingBlock:
    """Training and validation ratings of the rows of one block of the solved side.

    Columns of both parts are places among the fixed rows that the block is given.
    """

    train: Csr
    validation: Csr

    def slice(self, first: int, last: int) -> "RatingBlock":
        """Rows ``first`` .. ``last`` − 1, without a copy."""
        return RatingBlock(self.train.slice(first, last), self.validation.slice(first, last))


def build_block(
    rows: Int32s,
    columns: Int32s,
    values: Float32s,
    is_validation: Bools,
    n_rows: int,
    n_columns: int,
) -> RatingBlock:
    """Build a block from unordered (row, column, rating) entries.

    Entries are ordered by (row, column), so the sums of a half-step do not depend on the order in
    which ratings arrived. Repeated pairs stay separate observations. Cost: O(n + rows + columns).
    ``rows`` and ``columns`` int32 [n], ``values`` float32 [n], ``is_validation`` boolean [n].
    """
    assert rows.shape == columns.shape == values.shape == is_validation.shape
    assert rows.dtype == columns.dtype == np.int32
    assert values.dtype == np.float32
    assert is_validation.dtype == np.bool_
    assert not len(rows) or (rows.min() >= 0 and rows.max() < n_rows)
    assert not len(rows) or (columns.min() >= 0 and columns.max() < n_columns)

    def part(chosen: Bools | slice) -> Csr:
        return Csr(*_sort_entries(rows[chosen], columns[chosen], values[chosen], n_rows, n_columns))

    # One copy of a long array less in the usual case.
    if not is_validation.any():
        return RatingBlock(part(slice(None)), part(slice(0)))
    return RatingBlock(part(~is_validation), part(is_validation))


def compact(positions: Int32s, n_fixed: int) -> tuple[Int32s, Int32s]:
    """``needed`` int32 [m], the positions (of ``n_fixed``) that occur, ascending, and the place of
    each entry's position in it, int32 [n]."""
    occurs = np.zeros(n_fixed, np.bool_)
    occurs[positions] = True
    places = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(occurs).astype(np.int32), places[positions]


@compiled()
def _sort_entries(  # type: ignore[no-untyped-def]
    rows: Int32s, columns: Int32s, values: Float32s, n_rows: int, n_columns: int
):
    """indptr, columns and values ordered by (row, column), by counting twice."""
    n = len(rows)
    starts = np.zeros(n_columns + 1, np.int64)
    for entry in range(n):
        starts[columns[entry] + 1] += 1
    for column in range(n_columns):
        starts[column + 1] += starts[column]
    # Copies, since to look entries up where they came from would miss the cache three times each.
    row_by_column, value_by_column = np.empty(n, np.int32), np.empty(n, np.float32)
    for entry in range(n):
        place = starts[columns[entry]]
        starts[columns[entry]] = place + 1
        row_by_column[place] = rows[entry]
        value_by_column[place] = values[entry]
    indptr = np.zeros(n_rows + 1, np.int64)
    for entry in range(n):
        indptr[rows[entry] + 1] += 1
    for row in range(n_rows):
        indptr[row + 1] += indptr[row]
    free = indptr[:-1].copy()
    sorted_columns, sorted_values = np.empty(n, np.int32), np.empty(n, np.float32)
    place = 0
    for column in range(n_columns):
        # Each has been moved to the end of its column.
        while place < starts[column]:
            target = free[row_by_column[place]]
            free[row_by_column[place]] = target + 1
            sorted_columns[target] = column
            sorted_values[target] = value_by_column[place]
            place += 1
    return indptr, sorted_columns, sorted_values
