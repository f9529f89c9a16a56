"""Tables as binary cells: many rows travel through Spark as one value, and reach Python whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import Self

from mfspark.columns import RATING
from mfspark.kernels.arrays import Array, Float32s

# Rows of ratings that a task collects before it packs them: some 50 MB, enough to make cells worth
# their overhead, and far below the 2 GiB that an Arrow binary array can hold.
ROWS_PER_PACK = 4_000_000

# Ratings of no more distinct values than this travel as their numbers.
_MOST_VALUES = 256


def packs(
    batches: Iterator[pa.RecordBatch],
    most: int,
    size: Callable[[pa.RecordBatch], int] = lambda batch: batch.num_rows,
) -> Iterator[pa.Table]:
    """Batches joined to tables; one ends with the batch that brings its size to ``most``."""
    pending: list[pa.RecordBatch] = []
    total = 0
    for batch in batches:
        pending.append(batch)
        total += size(batch)
        if total >= most:
            yield pa.Table.from_batches(pending)
            pending, total = [], 0
    if any(batch.num_rows for batch in pending):
        yield pa.Table.from_batches(pending)


def to_cell(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_cell(cell: pa.Buffer) -> pa.Table:
    """The table in a cell, without a copy."""
    return pa.ipc.open_stream(cell).read_all()


class ChangedRatingsError(Exception):
    """Ratings that were computed again are others than before, or come in another order."""


class LostCellError(Exception):
    """A cell is null: a task computed it again on a node that had not what it is made of."""


def values(column: pa.Array | pa.ChunkedArray) -> list[pa.Buffer]:
    """The values of a binary column where they lie (a pyarrow scalar is a copy); null is empty."""
    found = []
    for part in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        _, offsets, data = part.buffers()
        ends = np.frombuffer(offsets, np.int32)[part.offset : part.offset + len(part) + 1]
        whole = data or pa.py_buffer(b"")
        found += [whole.slice(start, end - start) for start, end in pairwise(ends)]
    return found


def kept_values(column: pa.Array | pa.ChunkedArray) -> list[pa.Buffer]:
    """``values`` of cells that a fit keeps between its steps; ``LostCellError`` for null."""
    if column.null_count:
        raise LostCellError(f"{column.null_count} of {len(column)} cells are null")
    return values(column)


def cell(batch: pa.RecordBatch, name: str, row: int, dtype: type) -> Any:
    """A binary cell as an array of ``dtype``, without a copy."""
    return np.frombuffer(values(batch.column(name))[row], dtype)


def index_type(n: int) -> type:
    """The narrowest type of integers from 0 to n − 1 that cells hold."""
    return next((kind for kind in (np.uint8, np.uint16) if n <= np.iinfo(kind).max + 1), np.int32)


@dataclass(frozen=True)
class NarrowRatings:
    """Ratings as narrow as their values allow.

    Those of few values are ``rating`` uint8 [n], places in ``palette``; the palette of others is
    empty, and ``rating`` are the values. Values are float32 in cells, and may be float64 elsewhere.
    """

    rating: Array
    palette: Array

    @classmethod
    def of(cls, rating: Array) -> Self:
        """From plain ones."""
        if len(np.unique(rating[: 4 * _MOST_VALUES])) <= _MOST_VALUES:
            encoded = pc.dictionary_encode(pa.array(rating))
            if len(encoded.dictionary) <= _MOST_VALUES:
                numbers = encoded.indices.to_numpy().astype(np.uint8)
                return cls(numbers, encoded.dictionary.to_numpy())
        return cls(rating, rating[:0])

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> Self:
        """From plain ones, or from such as are dictionary-encoded by uint8."""
        if not pa.types.is_dictionary(column.type):
            return cls.of(column.to_numpy())
        whole = column.combine_chunks()
        return cls(whole.indices.to_numpy(), whole.dictionary.to_numpy())

    @classmethod
    def in_row(cls, row: pa.RecordBatch) -> Self:
        """From the one row that has them as ``cells``."""
        palette = cell(row, "palette", 0, np.float32)
        return cls(cell(row, RATING, 0, np.uint8 if len(palette) else np.float32), palette)

    @property
    def values(self) -> Float32s:
        """Plain ones, of float32; a copy."""
        return self.palette[self.rating] if len(self.palette) else self.rating.copy()

    def cells(self, rows: slice = slice(None)) -> dict[str, bytes]:
        """Columns of a row that has some of them, of float32."""
        return {RATING: self.rating[rows].tobytes(), "palette": self.palette.tobytes()}


def narrow_integers(cell: pa.Buffer, n: int) -> npt.NDArray[Any]:
    """The ``n`` > 0 integers of a cell whose type is the ``index_type`` of some number."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.int32}[cell.size // n]
    return np.frombuffer(cell, kind)


def cells_of(values: npt.NDArray[Any], starts: npt.NDArray[Any]) -> pa.Array:
    """Values as binary cells that begin at ``starts``, ascending from 0, without a copy.

    Raises ``ValueError`` beyond the 2 GiB that an Arrow binary array holds.
    """
    ends = np.append(starts, len(values)).astype(np.int64) * values.itemsize
    if ends[-1] >= 2**31:
        raise ValueError(f"{ends[-1]} bytes of cells are more than an Arrow array holds (2 GiB)")
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(
        pa.binary(), len(starts), [None, pa.py_buffer(ends.astype(np.int32)), data]
    )
