"""Types of the arrays of kernels, and rows laid out as vector registers want them."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

# float32 values of one vector: what a register of AVX-512 holds.
LANES = 16
_PAIR_OF_LINES = 128


class AlignedRows(NamedTuple):
    """Rows of factors in whole vectors, zeros behind the last factor, and their biases.

    ``factors`` float32 [n, width], C-contiguous, width = rank rounded up to a multiple of 16;
    ``bias`` float32 [n].
    """

    factors: Float32s
    bias: Float32s
    rank: int

    @classmethod
    def zeros(cls, n: int, rank: int) -> "AlignedRows":
        """``n`` rows to be filled."""
        # At least one vector: the kernels do not ask whether there is any.
        width = max(1, -(-rank // LANES)) * LANES
        # Rows begin with a cache line (with a pair of them, which some processors fetch together).
        place = np.zeros(n * width + _PAIR_OF_LINES // 4, np.float32)
        first = -place.ctypes.data % _PAIR_OF_LINES // 4
        factors = place[first : first + n * width].reshape(n, width)
        return cls(factors, np.zeros(n, np.float32), rank)

    @classmethod
    def of(cls, rows: Float32s) -> "AlignedRows":
        """From rows [factors, bias], float32 [n, rank + 1]."""
        aligned = cls.zeros(len(rows), rows.shape[1] - 1)
        aligned.fill(0, rows)
        return aligned

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.bias)

    def copy(self) -> "AlignedRows":
        """The same rows elsewhere."""
        copied = AlignedRows.zeros(self.n_rows, self.rank)
        copied.factors[:], copied.bias[:] = self.factors, self.bias
        return copied

    def fill(self, first: int, rows: Float32s) -> None:
        """Set the rows from ``first`` on to [factors, bias], float32 [n, rank + 1]."""
        places = slice(first, first + len(rows))
        self.factors[places, : self.rank] = rows[:, : self.rank]
        self.bias[places] = rows[:, self.rank]

    def check(self) -> None:
        """Assert what compiled code relies on."""
        n, width = self.factors.shape
        assert self.factors.dtype == np.float32
        assert self.factors.flags.c_contiguous
        assert width % LANES == 0
        assert self.rank <= width
        assert self.bias.shape == (n,)
        assert self.bias.dtype == np.float32
