"""Binary cells: what goes in comes out, from whole, sliced and chunked columns."""

import pyarrow as pa

from mfspark.engine.cells import from_cell, packs, to_cell, values


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
