"""Binary cells: what goes in comes out, from whole, sliced and chunked columns."""

import numpy as np
import pyarrow as pa
import pytest

from mfspark.engine.cells import (
    cells_of,
    from_cell,
    index_type,
    narrow_integers,
    packs,
    to_cell,
    values,
)


def test_values_are_the_bytes_of_each_row_without_a_copy():
    column = pa.array([b"first", b"", None, b"last one"])
    found = values(column)
    assert [bytes(value) for value in found] == [b"first", b"", b"", b"last one"]
    assert found[3].address == column.buffers()[2].address + 5
    assert [bytes(value) for value in values(column.slice(2, 2))] == [b"", b"last one"]
    chunked = pa.chunked_array([column.slice(0, 1), column.slice(3)])
    assert [bytes(value) for value in values(chunked)] == [b"first", b"last one"]
    assert [bytes(value) for value in values(pa.array([None], pa.binary()))] == [b""]


def test_packs_and_cells_keep_every_row():
    batches = pa.table({"n": list(range(25))}).to_batches(max_chunksize=4)
    tables = list(packs(iter(batches), 10))
    assert [table.num_rows for table in tables] == [12, 12, 1]
    again = [from_cell(values(pa.array([to_cell(table)]))[0]) for table in tables]
    assert pa.concat_tables(again)["n"].to_pylist() == list(range(25))


def test_parts_of_an_array_are_cells():
    numbers = np.arange(7, dtype=np.int64)[::-1]
    found = cells_of(numbers, np.array([0, 3, 3]))
    parts = [np.frombuffer(part, np.int64).tolist() for part in values(found)]
    assert parts == [[6, 5, 4], [], [3, 2, 1, 0]]
    assert found.to_pylist()[1] == b""
    assert cells_of(numbers[:0], np.zeros(1, np.int64)).to_pylist() == [b""]


def test_more_than_an_arrow_array_holds_is_refused():
    # Zeros that nobody touches take no memory.
    with pytest.raises(ValueError, match="more than an Arrow array holds"):
        cells_of(np.zeros(2**28, np.int64), np.zeros(1, np.int64))


@pytest.mark.parametrize("n", [1, 2, 256, 257, 65_536, 65_537, 2**31])
def test_integers_travel_as_narrow_as_they_are(n):
    found = np.array([0, n - 1]).astype(index_type(n))
    assert found.tolist() == [0, n - 1]
    assert found.itemsize == (1 if n <= 256 else 2 if n <= 65_536 else 4)
    read = narrow_integers(pa.py_buffer(found.tobytes()), 2)
    assert read.dtype == found.dtype
    assert read.tolist() == found.tolist()
