"""Rating blocks: the rows of one side, in compressed sparse row (CSR) form.

Worked example. Users 0..2 of a block have rated items at the positions

    user 0: item 7 → 4.0, item 2 → 5.0
    user 1: nothing
    user 2: item 7 → 1.0

``compact`` lists the item positions that occur, ascending. Columns are places in this list, not
item positions, so a task only has to receive those rows of the item factors:

>>> items = np.array([7, 2, 7], np.int32)
>>> needed, places = compact([items], n_fixed=10)
>>> needed.tolist()
[2, 7]
>>> columns = places[items]
>>> users, ratings = np.array([0, 0, 2], np.int32), np.array([4, 5, 1], np.float32)
>>> block = build_block(users, columns, ratings, np.zeros(3, bool), n_rows=3, n_columns=2)
>>> block.train.indptr.tolist()  # row u owns the entries indptr[u] .. indptr[u+1]-1
[0, 2, 2, 3]
>>> block.train.columns.tolist(), block.train.values.tolist()  # columns ascend within a row
([0, 1, 1], [5.0, 4.0, 1.0])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mfspark.kernels.arrays import Array, Bools, Float32s, Int32s, Int64s
from mfspark.kernels.compiled import compiled

ScalarT = TypeVar("ScalarT", bound=np.generic)

# Up to so many entries a row is sorted by insertion, a longer one by the digits of its columns.
_SHORT_ROW = 48
_DIGIT_BITS = 8


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

    def some(self, chosen: Bools) -> "Csr":
        """Rows by a mask, and their entries alone; a copy, unless all are chosen."""
        entries = slice(self.indptr[0], self.indptr[-1])
        columns, values = self.columns[entries], self.values[entries]
        if chosen.all():
            return Csr(self.indptr - self.indptr[0], columns, values)
        of_some = np.repeat(chosen, self.counts)
        indptr = np.concatenate([[0], np.cumsum(self.counts[chosen], dtype=np.int64)])
        return Csr(indptr, columns[of_some], values[of_some])

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
    which ratings arrived. Repeated pairs stay separate observations. Cost: O(n + rows).
    ``rows`` and ``columns`` int32 [n], ``values`` float32 [n], ``is_validation`` boolean [n].
    """
    assert rows.shape == is_validation.shape
    assert values.dtype == np.float32
    assert is_validation.dtype == np.bool_

    def part(chosen: Bools | slice) -> Csr:
        grouped = group_by_row(rows[chosen], columns[chosen], values[chosen], n_rows)
        return _in_order(Csr(*grouped), n_columns)

    # One copy of a long array less in the usual case.
    if not is_validation.any():
        return RatingBlock(part(slice(None)), part(slice(0)))
    return RatingBlock(part(~is_validation), part(is_validation))


def group_by_row(
    rows: Int32s, columns: Int32s, values: npt.NDArray[ScalarT], n_rows: int
) -> tuple[Int64s, Int32s, npt.NDArray[ScalarT]]:
    """indptr int64 [n_rows + 1], and columns and values in the order of their rows; those of one
    row stay as they were. ``rows``, ``columns`` int32 [n], ``values`` float32 or uint8 [n]."""
    assert rows.shape == columns.shape == values.shape
    assert rows.dtype == columns.dtype == np.int32
    assert not len(rows) or (rows.min() >= 0 and rows.max() < n_rows)
    indptr, grouped_columns, grouped_values = _group_by_row(rows, columns, values, n_rows)
    return indptr, grouped_columns, grouped_values


class RowRuns(NamedTuple):
    """Some entries of a block, row after row: ``rows`` int32 [m], each once, ``counts`` int32 [m]
    of its entries, and ``columns`` int32 [n] and ``values`` float32 [n] of all of them."""

    rows: Int32s
    counts: Int32s
    columns: Int32s
    values: Float32s


def join_runs(parts: Sequence[RowRuns], n_rows: int, n_columns: int) -> Csr:
    """The CSR of all entries, as ``build_block`` would make it. Cost: O(n + rows)."""
    counts = np.zeros(n_rows, np.int64)
    for part in parts:
        assert part.rows.shape == part.counts.shape
        assert part.rows.dtype == part.counts.dtype == part.columns.dtype == np.int32
        assert part.values.dtype == np.float32
        assert part.columns.shape == part.values.shape == (part.counts.sum(),)
        counts[part.rows] += part.counts
    indptr = np.concatenate([[0], np.cumsum(counts)])
    joined = Csr(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
    free = indptr[:-1].copy()
    for part in parts:
        assert not len(part.rows) or part.rows.min() >= 0
        _add_run(free, *part, joined.columns, joined.values)
    return _in_order(joined, n_columns)


def transposed(block: Csr, n_columns: int) -> Csr:
    """The same entries by column: row c has those of column c, in the order of their rows."""
    rows = np.repeat(np.arange(block.n_rows, dtype=np.int32), block.counts)
    return Csr(*group_by_row(block.columns, rows, block.values, n_columns))


def compact(parts: Sequence[Array], n_fixed: int) -> tuple[Int32s, Int32s]:
    """``needed`` int32 [m], the positions (integers below ``n_fixed``) that occur in some of the
    parts, ascending; and int32 [n_fixed], for each of them its place in ``needed``."""
    occurs = np.zeros(n_fixed, np.bool_)
    for positions in parts:
        occurs[positions] = True
    places = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(occurs).astype(np.int32), places


def _in_order(block: Csr, n_columns: int) -> Csr:
    """``block`` with the entries of each row in the order of their columns; in place."""
    columns = block.columns
    assert not len(columns) or (columns.min() >= 0 and columns.max() < n_columns)
    n_digits = -(-max(n_columns - 1, 1).bit_length() // _DIGIT_BITS)
    _sort_rows(block.indptr, columns, block.values.view(np.uint32), n_digits)
    return block


@compiled()
def _group_by_row(  # type: ignore[no-untyped-def]
    rows: Int32s, columns: Int32s, values: Array, n_rows: int
):
    """By counting."""
    indptr = np.zeros(n_rows + 1, np.int64)
    for row in rows:
        indptr[row + 1] += 1
    for row in range(n_rows):
        indptr[row + 1] += indptr[row]
    free = indptr[:-1].copy()
    grouped_columns, grouped_values = np.empty_like(columns), np.empty_like(values)
    for entry, row in enumerate(rows):
        place = free[row]
        free[row] = place + 1
        grouped_columns[place] = columns[entry]
        grouped_values[place] = values[entry]
    return indptr, grouped_columns, grouped_values


@compiled()
def _add_run(
    free: Int64s,
    rows: Int32s,
    counts: Int32s,
    columns: Int32s,
    values: Float32s,
    joined_columns: Int32s,
    joined_values: Float32s,
) -> None:
    """Put the entries of each row where the row has its next ``free`` place."""
    entry = 0
    for number, row in enumerate(rows):
        place = free[row]
        for _ in range(counts[number]):
            joined_columns[place] = columns[entry]
            joined_values[place] = values[entry]
            place += 1
            entry += 1
        free[row] = place


@compiled()
def _sort_rows(
    indptr: Int64s, columns: Int32s, values: npt.NDArray[np.uint32], n_digits: int
) -> None:
    """Sort each row by column, stably, in place; ``values``: the bits of the ratings."""
    longest = 0
    for row in range(len(indptr) - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    entries, moved = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    starts = np.empty(1 << _DIGIT_BITS, np.int64)
    mask = np.uint64((1 << _DIGIT_BITS) - 1)
    bits_of_value = np.uint64(32)
    for row in range(len(indptr) - 1):
        first, last = indptr[row], indptr[row + 1]
        n = last - first
        if n <= _SHORT_ROW:
            for entry in range(first + 1, last):
                column, value = columns[entry], values[entry]
                place = entry
                while place > first and columns[place - 1] > column:
                    columns[place], values[place] = columns[place - 1], values[place - 1]
                    place -= 1
                columns[place], values[place] = column, value
            continue
        for entry in range(n):
            column = np.uint64(columns[first + entry])
            entries[entry] = (column << bits_of_value) | np.uint64(values[first + entry])
        for digit in range(n_digits):
            shift = np.uint64(32 + _DIGIT_BITS * digit)
            starts[:] = 0
            for entry in range(n):
                starts[(entries[entry] >> shift) & mask] += 1
            total = 0
            for number in range(len(starts)):
                total, starts[number] = total + starts[number], total
            for entry in range(n):
                number = (entries[entry] >> shift) & mask
                moved[starts[number]] = entries[entry]
                starts[number] += 1
            entries, moved = moved, entries
        for entry in range(n):
            columns[first + entry] = np.int32(entries[entry] >> bits_of_value)
            values[first + entry] = np.uint32(entries[entry] & np.uint64(0xFFFFFFFF))
