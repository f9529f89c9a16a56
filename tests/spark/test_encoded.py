"""Ratings as packs with dictionaries of their ids, and the places of ids."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, USER, Side
from mfspark.engine import blocks
from mfspark.engine.blocks import LocatedRatings, locate_ratings
from mfspark.engine.cells import NarrowRatings, cell, from_cell, index_type, values
from mfspark.engine.encoded import (
    Hashing,
    encode_pack,
    encode_ratings,
    validation_in_row,
)
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.packed import Unit, hash_ids, pack_ratings
from mfspark.engine.workspace import Workspace

HASHING = {USER: Hashing(128, 3, 0), ITEM: Hashing(64, 3, 3)}
IDS = {
    "int": st.integers(-(2**31), 2**31 - 1).map(lambda n: n // 7 * 7),
    "long": st.integers(-(2**63), 2**63 - 1),
    "few": st.integers(0, 5),
    "string": st.text(max_size=4),
}


def encoded_of(workspace: Workspace, rows: DataFrame, *how):
    """``rows`` packed and encoded, in their own unit."""
    packs, _ = pack_ratings(workspace, rows, rank=1)
    return encode_ratings(workspace, packs, Unit(), *how)


def decoded(rows: list[pa.RecordBatch]) -> tuple[dict[Side, list], pa.Table, set[int]]:
    """The ids of each rating by side, its other columns, and the names of the packs."""
    table = pa.Table.from_batches(rows)
    dictionaries = {side: [] for side in Side}
    counts = {side: [] for side in Side}
    columns = {"rating": [], "is_validation": []}
    codes = {side: [] for side in Side}
    for row in rows:
        if not row["ids"].null_count:
            (side,) = (s for s, how in HASHING.items() if row["target"][0].as_py() in how.parts)
            dictionaries[side] += from_cell(values(row["ids"])[0])["id"].to_pylist()
            counts[side] += np.frombuffer(row["counts"][0].as_py(), np.int32).tolist()
    for row in rows:
        if row["ids"].null_count:
            for side in Side:
                kind = index_type(len(dictionaries[side]))
                codes[side] += cell(row, side, 0, kind).tolist()
            ratings = NarrowRatings.in_row(row).values.tolist()
            flags = validation_in_row(row, len(ratings))
            columns["rating"] += ratings
            columns["is_validation"] += [False] * len(ratings) if flags is None else flags.tolist()
    ids = {side: [dictionaries[side][code] for code in codes[side]] for side in Side}
    trained = ~np.array(columns["is_validation"], bool)
    for side in Side:
        found = np.bincount(np.array(codes[side], int)[trained], minlength=len(counts[side]))
        assert found.tolist() == counts[side]
    return ids, pa.table(columns), set(table["pack"].to_pylist())


@settings(deadline=None)
@given(data=st.data(), kinds=st.tuples(*2 * [st.sampled_from(sorted(IDS))]))
def test_a_pack_holds_its_ratings_whatever_their_order(data, kinds):
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(n)
    columns = {
        side: pa.array(data.draw(st.lists(IDS[kind], min_size=n, max_size=n)))
        for side, kind in zip(Side, kinds, strict=True)
    }
    table = pa.table(
        columns
        | {"rating": rng.normal(size=n).astype(np.float32), "is_validation": rng.random(n) < 0.3}
    )
    rows = list(encode_pack(table, HASHING, 4, 3))
    ids, others, names = decoded(rows)
    for side in Side:
        assert ids[side] == table[side].to_pylist()
    assert others.equals(table.select(["rating", "is_validation"]).cast(others.schema))
    assert [name % 4 for name in names] == [3]
    assert {row["target"][0].as_py() for row in rows if row["ids"].null_count} == {6 + 3}
    turned = list(encode_pack(table.take(pa.array(rng.permutation(n))), HASHING, 4, 3))
    assert [row for row in turned if not row["ids"].null_count] == [
        row for row in rows if not row["ids"].null_count
    ]


@given(
    n=st.integers(0, 3000),
    n_values=st.sampled_from([1, 5, 256, 257, 3000]),
    is_late=st.booleans(),
)
def test_ratings_travel_as_narrow_as_their_values_allow(n, n_values, is_late):
    rng = np.random.default_rng(n)
    rating = rng.integers(0, n_values, n).astype(np.float32) / 7
    if is_late:
        # What the first ratings look like says nothing of the others.
        rating.sort()
    cells = {k: pa.array([v], pa.binary()) for k, v in NarrowRatings.of(rating).cells().items()}
    found = NarrowRatings.in_row(pa.RecordBatch.from_pydict(cells))
    is_narrow = 0 < len(np.unique(rating)) <= 256
    assert found.rating.dtype == (np.uint8 if is_narrow else np.float32)
    np.testing.assert_array_equal(found.values, rating)


def test_hashes_fill_buckets_and_parts_evenly_and_in_order():
    how = Hashing(n_buckets=640, n_parts=7, first_part=14)
    for ids in (pa.array(np.arange(100_000) * 1000), pa.array([f"u{n}" for n in range(100_000)])):
        buckets = how.buckets(np.sort(hash_ids(ids)))
        assert (np.diff(buckets) >= 0).all()
        parts = how.part(buckets)
        assert set(parts) == set(how.parts)
        assert np.bincount(buckets, minlength=640).min() > 90
        assert np.bincount(parts - 14).max() < 1.05 * 100_000 / 7


def test_hashes_of_integers_do_not_depend_on_their_width():
    numbers = np.array([-5, 0, 7, 2**31 - 1])
    narrow, wide = (hash_ids(pa.array(numbers, kind)) for kind in (pa.int32(), pa.int64()))
    assert (narrow == wide).all()
    assert len(set(hash_ids(pa.array(np.arange(10_000))))) == 10_000


def test_packs_are_dealt_out_evenly(spark):
    """Of four tasks with a pack each, all of the same ids."""
    rows = spark.range(0, 400, numPartitions=4).select(
        (F.col("id") % 10).alias("user"), (F.col("id") % 5).alias("item"),
        F.lit(1.0).cast("float").alias("rating"),
    )  # fmt: skip
    with Workspace(spark) as workspace:
        encoded = encoded_of(workspace, rows, {USER: 1, ITEM: 1}, 400, 4)
        found = encoded.slices.withColumn("by_name", encoded.target_of(F.col("pack"))).toPandas()
    first = encoded.n_parts
    assert sorted(found["target"]) == [first, first + 1, first + 2, first + 3]
    assert found["by_name"].tolist() == found["target"].tolist()


@pytest.fixture(params=["in spark", "on the driver"])
def located(request, spark):
    """Ratings whose packs know where their ids are; the ids are text, and one item is hot."""
    has_few_ids = request.param == "on the driver"
    rows = spark.range(4000).select(
        F.concat(F.lit("u"), F.pmod(F.xxhash64("id"), F.lit(90))).alias("user"),
        F.when(F.col("id") % 3 == 0, "i0")
        .otherwise(F.concat(F.lit("i"), F.pmod(F.hash("id"), F.lit(50))))
        .alias("item"),
        (F.col("id") % 5).cast("float").alias("rating"),
        (F.col("id") % 9 == 0).alias("is_validation"),
    )
    train = rows.where("not is_validation")
    with Workspace(spark) as workspace:
        encoded = encoded_of(workspace, rows, {USER: 3, ITEM: 4}, 4000, 2, has_few_ids)
        counted = count_ids(workspace, encoded, train.count(), tuple(Side) if has_few_ids else ())
        indices = index_sides(workspace, counted, {USER: 3, ITEM: 4})
        yield train, counted, indices, locate_ratings(workspace, encoded, indices)


def test_ids_are_counted_and_have_places_of_their_own(located):
    train, counted, indices, _ = located
    for side in Side:
        expected = train.groupBy(side).count().toPandas().set_index(side)["count"]
        table = indices[side].table.toPandas().set_index("id")
        assert table["n_ratings"].sort_index().to_dict() == expected.to_dict()
        assert counted[side].n_ids == len(expected)
        assert sorted(table["position"]) == list(range(len(expected)))
        sizes = table.groupby("block").size().reindex(range(indices[side].layout.n_blocks + 1))
        assert sizes.fillna(0).tolist() == indices[side].layout.sizes.tolist()
    assert indices[ITEM].layout.n_hot == 1
    assert indices[ITEM].table.where("block = 4").first()["id"] == "i0"


def test_ids_on_the_driver_are_a_table_with_a_partition_per_block(located):
    _, _, indices, _ = located
    for index in indices.values():
        found = index.table.select(F.spark_partition_id().alias("partition"), "block").distinct()
        pairs = found.toPandas()
        assert pairs["partition"].is_unique
        assert pairs["block"].is_unique


@pytest.mark.parametrize("has_few_ids", [False, True])
def test_parts_may_have_ids_of_validation_ratings_alone(spark, has_few_ids):
    rows = spark.createDataFrame(
        [(u, i, 3.0, u > 1) for u in range(40) for i in range(3)],
        "user int, item int, rating float, is_validation boolean",
    )
    with Workspace(spark) as workspace:
        encoded = encoded_of(workspace, rows, {USER: 2, ITEM: 2}, 120, 8, has_few_ids)
        counted = count_ids(workspace, encoded, 6, tuple(Side) if has_few_ids else ())
        indices = index_sides(workspace, counted, {USER: 2, ITEM: 2})
        assert sorted(row["id"] for row in indices[USER].table.collect()) == [0, 1]
        packs = locate_ratings(workspace, encoded, indices)
        cells = [row["rating"] for row in packs.chunks(ITEM).collect()]
    assert sum(map(len, cells)) == 6


@pytest.mark.parametrize("located", ["on the driver"], indirect=True)
def test_long_ids_do_not_travel_with_code(located, monkeypatch):
    _, _, indices, packs = located
    assert packs.positions is None
    expected = sorted(packs.chunks(USER).collect())
    monkeypatch.setattr(blocks, "CLOSURE_BYTES", 0)
    with Workspace(packs.encoded.table.sparkSession) as workspace:
        others = locate_ratings(workspace, packs.encoded, indices)
        assert others.ids is None
        assert sorted(others.chunks(USER).collect()) == expected


@pytest.mark.parametrize("located", ["in spark"], indirect=True)
def test_a_pack_without_its_positions_is_noticed(located):
    *_, packs = located
    assert packs.chunks(USER).count() > 0
    some = F.filter("found", lambda part: part["part"] != 1).alias("found")
    lost = {
        "none": packs.positions.where("false"),
        "one part": packs.positions.select("target", "pack", some),
    }
    for positions in lost.values():
        damaged = LocatedRatings(packs.encoded, packs.placements, positions)
        with pytest.raises(Exception, match="ChangedRatingsError"):
            damaged.chunks(USER).count()
