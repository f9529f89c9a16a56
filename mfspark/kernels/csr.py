"""Rating blocks: the rows of one side, in compressed sparse row (CSR) form.

Worked example. Users 0..2 of a block have rated items at the positions

    user 0: item 7 → 4.0, item 2 → 5.0
    user 1: nothing
    user 2: item 7 → 1.0

``needed`` lists the item positions that occur, ascending: [2, 7]. Columns are places in ``needed``,
not item positions, so a task only has to receive those two rows of the item factors:

    indptr  = [0, 2, 2, 3]      row u owns the entries indptr[u] .. indptr[u+1]-1
    columns = [0, 1, 1]         ascending within a row
    values  = [5.0, 4.0, 1.0]
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


class Csr(NamedTuple):
    """Sparse rows: ``indptr`` int64 [n_rows + 1], ``columns`` int32 [n], ``values`` float32 [n]."""

    indptr: Int64s
    columns: Int32s
    values: Float32s

    @property
    def n_rows(self) -> int:
        """Number of rows, empty ones included."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> Int64s:
        """Ratings per row, int64 [n_rows]."""
        return np.diff(self.indptr)


@dataclass(frozen=True)
class RatingBlock:
    """Training and validation ratings of the rows of one block of the solved side.

    ``needed`` int32 [m], ascending: positions on the fixed side that either part refers to;
    the columns of both parts are places in it.
    """

    train: Csr
    validation: Csr
    needed: Int32s


def build_block(
    rows: Int32s,
    positions: Int32s,
    values: Float32s,
    is_validation: npt.NDArray[np.bool_],
    n_rows: int,
) -> RatingBlock:
    """Build a block from unordered (row, fixed-side position, rating) entries.

    Entries are ordered by (row, position), so the sums of a half-step do not depend on the order in
    which ratings arrived. Repeated pairs stay separate observations.
    """
    needed = np.unique(positions)
    columns = np.searchsorted(needed, positions).astype(np.int32)
    order = np.argsort(rows.astype(np.int64) * max(len(needed), 1) + columns, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    is_validation = is_validation[order]

    def part(mask: npt.NDArray[np.bool_]) -> Csr:
        indptr = np.zeros(n_rows + 1, np.int64)
        np.cumsum(np.bincount(rows[mask], minlength=n_rows), out=indptr[1:])
        return Csr(indptr, columns[mask], values[mask])

    return RatingBlock(part(~is_validation), part(is_validation), needed.astype(np.int32))
