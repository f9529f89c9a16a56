"""Packs: what rows come to, what is found out about them, and what is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from mfspark import BiasedALS
from mfspark.algorithms.indexed_ratings import index_ratings
from mfspark.columns import ITEM, USER, Side
from mfspark.engine import packed
from mfspark.engine.cells import from_cell, values
from mfspark.engine.packed import Unit, pack_of, pack_ratings, pack_rows, ratings_of, summarise
from mfspark.engine.pilot import sample
from mfspark.engine.workspace import BATCH_BYTES, Workspace
from mfspark.errors import DataError

FIT = {"rank": 3, "maxIter": 3, "regParam": 0.1, "biasRegParam": 0.1, "seed": 4, "tol": 0.0}


def table_of(rng, n=5000, n_values=9, has_validation=True):
    """Ratings of which the later ones are of fewer users."""
    n_users = np.where(np.arange(n) < 3 * n // 5, 2000, 20)
    table = pa.table(
        {
            "user": [f"u{number}" for number in rng.integers(0, n_users)],
            "item": rng.integers(-30, 30, n),
            "rating": rng.integers(0, n_values, n) / 7,
            "is_validation": rng.random(n) < 0.2,
        }
    )
    return table if has_validation else table.drop_columns("is_validation")


def cells_of_packs(table, batch=500):
    rows = pack_rows(iter(table.to_batches(max_chunksize=batch)))
    return [value for row in rows for value in values(row["cell"])]


def plain(table):
    """Lists by column, of columns that may be dictionary-encoded."""
    return {name: table[name].to_pylist() for name in table.column_names}


@pytest.mark.parametrize("n_values", [9, 5000])
@pytest.mark.parametrize("has_validation", [False, True])
def test_ratings_come_out_as_they_went_in(monkeypatch, rng, n_values, has_validation):
    """Of packs whose numbers are of different widths, and with ids that the other has not."""
    monkeypatch.setattr(packed, "ROWS_PER_PACK", 3000)
    table = table_of(rng, n_values=n_values, has_validation=has_validation)
    cells = cells_of_packs(table)
    schemas = [from_cell(cell).schema for cell in cells]
    kinds = [[schema.field(side).type.index_type for side in Side] for schema in schemas]
    assert kinds == [[pa.uint16(), pa.uint8()], [pa.uint8(), pa.uint8()]]
    is_narrow = [pa.types.is_dictionary(schema.field("rating").type) for schema in schemas]
    assert is_narrow == [n_values == 9] * 2
    parts = [plain(ratings_of(cell, Unit(mean=2.0, scale=3.0))) for cell in cells]
    found = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    standardised = ((table["rating"].to_numpy() - 2.0) / 3.0).astype(np.float32)
    assert found == {
        "is_validation": [False] * 5000,
        **plain(table),
        "rating": standardised.tolist(),
    }


@pytest.mark.parametrize("n_values", [9, 5000])
def test_packs_are_indexed_as_their_rows_are(monkeypatch, rng, n_values):
    """Packs have dictionaries of their own; some ids have no training rating."""
    monkeypatch.setattr(packed, "ROWS_PER_PACK", 700)
    table = table_of(rng, n_values=n_values)
    packs = index_ratings([ratings_of(cell, Unit()) for cell in cells_of_packs(table)])
    rows = index_ratings(table)
    assert rows.n_cold > 0
    assert packs.n_cold == rows.n_cold
    np.testing.assert_array_equal(packs.rating, rows.rating)
    np.testing.assert_array_equal(packs.is_validation, rows.is_validation)
    for side in Side:
        assert packs.ids[side].equals(rows.ids[side])
        np.testing.assert_array_equal(packs.n_ratings[side], rows.n_ratings[side])
        np.testing.assert_array_equal(packs.positions[side], rows.positions[side])


def test_ratings_beyond_single_precision_keep_their_differences():
    """A unit that is known only later must not come too late."""
    stamps = 1.7e9 + np.arange(1000) * 0.5
    table = pa.table({"user": [1] * 1000, "item": np.arange(1000), "rating": stamps})
    (cell,) = cells_of_packs(table)
    found = ratings_of(cell, Unit(mean=1.7e9, scale=2.0))
    assert found["rating"].to_pylist() == (np.arange(1000) / 4).tolist()
    single = pa.table({**{side: table[side] for side in Side}, "rating": np.arange(1000) / 2})
    (narrow,) = cells_of_packs(single)
    assert from_cell(narrow)["rating"].type == pa.float32()


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_sums_do_not_depend_on_the_packs(spark, data):
    n = data.draw(st.integers(1, 60))
    number = st.integers(-4, 4) | st.floats(-1e6, 1e6, width=32)
    frame = pd.DataFrame(
        {
            "user": data.draw(st.lists(st.integers(-9, 9), min_size=n, max_size=n)),
            "item": [f"i{k % 5}" for k in range(n)],
            "rating": data.draw(st.lists(number.map(float), min_size=n, max_size=n)),
            "is_validation": [False, *data.draw(st.lists(st.booleans(), min_size=n - 1,
                                                         max_size=n - 1))],
        }
    )  # fmt: skip
    train = frame[~frame["is_validation"]]["rating"]
    for n_partitions in (1, 3):
        found = summarise(spark.createDataFrame(frame).repartition(n_partitions))
        assert (found.n_ratings, found.n_validation) == (len(train), n - len(train))
        assert (found.lowest, found.highest) == (train.min(), train.max())
        assert found.mean == pytest.approx(train.mean(), rel=1e-12, abs=1e-9)
        assert found.variance == pytest.approx(train.var(ddof=0), rel=1e-9, abs=1e-9)
        span = frame["user"].max() - frame["user"].min() + 1
        assert (found.n_users, found.n_items) == (min(span, len(train)), len(train))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("user", "null", "found 2 user ids that are null"),
        ("item", "null", "found 2 item ids that are null"),
        ("rating", "null", "found 2 ratings that are null"),
        ("rating", "double('NaN')", "found 2 ratings that are NaN or infinite"),
        ("rating", "double('-Infinity')", "found 2 ratings that are NaN or infinite"),
    ],
)
def test_unfit_rows_are_counted_over_all_packs(spark, name, value, message):
    rows = spark.range(0, 40, numPartitions=4).selectExpr(
        "id % 7 as user", "id % 5 as item", "double(id % 3) as rating", "id"
    )
    unfit = rows.withColumn(name, F.expr(f"if(id in (3, 33), {value}, {name})")).drop("id")
    with pytest.raises(DataError, match=message):
        summarise(unfit)
    with Workspace(spark) as workspace, pytest.raises(DataError, match=message):
        pack_ratings(workspace, unfit, rank=2)


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_a_fit_reads_its_ratings_once(spark, tmp_path, execution):
    """What they are made of may be slow, or other rows each time."""
    place = str(tmp_path)

    def told(batches):
        for batch in batches:
            with open(f"{place}/read", "a") as file:
                file.write(f"{batch.num_rows}\n")
            yield batch

    rows = spark.range(0, 600, numPartitions=2).selectExpr(
        "id % 31 as user", "id % 17 as item", "double(id % 5) as rating"
    )
    BiasedALS(rank=2, maxIter=2, execution=execution, exchange="broadcast").fit(
        rows.mapInArrow(told, rows.schema)
    )
    assert sum(map(int, (tmp_path / "read").read_text().split())) == 600


def test_a_sample_has_all_training_ratings_of_its_users(monkeypatch, rng):
    """Of packs of different ids, and of ids as text, int and long."""
    monkeypatch.setattr(packed, "ROWS_PER_PACK", 2500)
    table = table_of(rng)
    unit = Unit(1.0, 2.0)

    def sampled(table, share):
        batches = [
            pa.RecordBatch.from_arrays([pa.array([cell.to_pybytes()])], names=["cell"])
            for cell in cells_of_packs(table)
        ]
        rows = sample(iter(batches), unit, share)
        parts = [plain(from_cell(values(row["cell"])[0])) for row in rows]
        return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)

    train = table.filter(pa.array(~table["is_validation"].to_numpy())).to_pandas()
    train["rating"] = ((train["rating"] - 1.0) / 2.0).astype(np.float32).astype(float)
    pd.testing.assert_frame_equal(sampled(table, 1.5), train)
    some = sampled(table, 0.3)
    of_them = train[train["user"].isin(some["user"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, of_them)
    assert 0.2 < some["user"].nunique() / train["user"].nunique() < 0.4
    numbers = pa.array(rng.integers(0, 500, table.num_rows))
    users = [
        set(sampled(table.set_column(0, "user", numbers.cast(kind)), 0.5)["user"])
        for kind in (pa.int32(), pa.int64())
    ]
    assert users[0] == users[1]


def test_a_part_of_a_pack_has_no_ids_that_do_not_occur(rng):
    (cell,) = cells_of_packs(table_of(rng))
    ratings = ratings_of(cell, Unit())
    some = from_cell(pa.py_buffer(pack_of(ratings.slice(4000, 30))))
    for side in (USER, ITEM):
        dictionary = some[side].chunk(0).dictionary
        assert sorted(dictionary.to_pylist()) == sorted(set(some[side].to_pylist()))


@pytest.mark.parametrize(
    "how",
    [
        {"execution": "one_task"},
        {"execution": "distributed", "exchange": "broadcast"},
        {"execution": "distributed", "exchange": "routed"},
        {"execution": "distributed", "exchange": "moments"},
    ],
    ids=["one task", "broadcast", "routed", "moments"],
)
def test_a_fit_does_not_depend_on_how_many_cells_come_at_once(spark, monkeypatch, how):
    """Spark hands over tables in batches of as many bytes as a fit says; here a row at a time."""
    ratings = spark.range(0, 4000, numPartitions=3).selectExpr(
        "pmod(xxhash64(id), 90) as user", "pmod(hash(id), 40) as item", "double(id % 5) as rating",
        "id % 9 = 0 as held",
    )  # fmt: skip

    def fitted():
        model = BiasedALS(**FIT, **how, validationIndicatorCol="held", numUserBlocks=3).fit(ratings)
        return model.history.drop("seconds").toPandas()

    whole = fitted()
    monkeypatch.setitem(BATCH_BYTES, "cells", 1)
    pd.testing.assert_frame_equal(fitted(), whole)
