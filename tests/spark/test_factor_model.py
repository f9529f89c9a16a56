"""What one does with a fitted model: predictions, cold start, lists, neighbours, files."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from chispa import assert_df_equality
from pyarrow import parquet as pq
from pyspark.sql import functions as F

from mfspark import BiasedALS, FactorModel
from mfspark.errors import ConfigError, DataError, ModelFormatError, OutputExistsError


@pytest.fixture(scope="module")
def cold_pairs(spark):
    return spark.createDataFrame(
        [(100, 5), (100, -1), (-1, 5), (-1, -1), (None, 5)], "user long, item long"
    )


def tables(model):
    users = model.user_factors.toPandas().set_index("user")
    items = model.item_factors.toPandas().set_index("item")
    return users, items


def dense_scores(model) -> pd.DataFrame:
    users, items = tables(model)
    scores = (
        model.global_mean
        + users["bias"].to_numpy()[:, None]
        + items["bias"].to_numpy()
        + np.stack(users["factors"]) @ np.stack(items["factors"]).T
    )
    return pd.DataFrame(scores, index=users.index, columns=items.index)


def test_cold_start_baseline_uses_whichever_bias_is_known(model, cold_pairs):
    users, items = tables(model)
    found = {
        (row["user"], row["item"]): row["prediction"]
        for row in model.transform(cold_pairs).collect()
    }
    mean, b_u, b_i = model.global_mean, users.loc[100, "bias"], items.loc[5, "bias"]
    assert found[100, 5] == pytest.approx(dense_scores(model).loc[100, 5], abs=1e-5)
    assert found[100, -1] == pytest.approx(mean + b_u)
    assert found[-1, 5] == pytest.approx(mean + b_i)
    assert found[-1, -1] == mean
    assert found[None, 5] == pytest.approx(mean + b_i)


def test_cold_start_nan_and_drop(model, cold_pairs):
    as_nan = model.copy({model.coldStartStrategy: "nan"}).transform(cold_pairs)
    assert as_nan.where(F.isnan("prediction")).count() == 4
    dropped = model.copy({model.coldStartStrategy: "drop"}).transform(cold_pairs)
    assert [(row["user"], row["item"]) for row in dropped.collect()] == [(100, 5)]
    assert model.transform(cold_pairs).count() == 5


def test_transform_keeps_columns_and_takes_other_names(model, cold_pairs):
    renamed = cold_pairs.select(
        F.col("item").alias("the.item"), F.lit("kept").alias("note"), F.col("user").alias("who")
    )
    other = model.copy(
        {model.userCol: "who", model.itemCol: "the.item", model.predictionCol: "score"}
    )
    result = other.transform(renamed)
    assert result.columns == ["the.item", "note", "who", "score"]
    assert_df_equality(
        result.select(F.col("score").alias("prediction")),
        model.transform(cold_pairs).select("prediction"),
        ignore_row_order=True,
    )


def test_clipping_unless_told_otherwise(model, ratings):
    every_pair = ratings.select("user").distinct().crossJoin(ratings.select("item").distinct())
    narrow = FactorModel(
        model.user_factors,
        model.item_factors,
        model.history,
        model.metadata.model_copy(update={"rating_scale": (lowest := 2.5, highest := 4.0)}),
    )
    row = narrow.transform(every_pair).agg(F.min("prediction"), F.max("prediction")).first()
    assert (row[0], row[1]) == (lowest, highest)
    free = narrow.setParams(clipPredictions=False).transform(every_pair)
    assert free.where(F.col("prediction") > highest).count() > 0


def test_ids_of_another_type_are_refused(model, cold_pairs):
    text = cold_pairs.withColumn("user", F.col("user").cast("string"))
    with pytest.raises(DataError, match=r"'user' has type string.*bigint.*cast the column"):
        model.transform(text)
    with pytest.raises(DataError, match=r"no column 'user' among item.*userCol"):
        model.transform(cold_pairs.drop("user"))


@pytest.fixture(params=["whole", "in blocks"])
def candidates(request, monkeypatch):
    """How candidates reach the tasks."""
    if request.param == "in blocks":
        monkeypatch.setattr("mfspark.models.matching.BROADCAST_LIMIT", 0)
        monkeypatch.setattr("mfspark.models.candidate_blocks.BLOCK_BYTES", 300)
    return request.param


@pytest.mark.usefixtures("candidates")
@pytest.mark.parametrize("n", [1, 5, 100])
def test_recommendations_are_the_best_unseen_items(model, ratings, ratings_frame, n):
    scores = dense_scores(model)
    seen = set(zip(ratings_frame["user"], ratings_frame["item"], strict=True))
    unclipped = model.copy({model.clipPredictions: False})
    lists = unclipped.recommendForAllUsers(n, seen=ratings, caution=0.0).collect()
    assert len(lists) == len(scores)
    for row in lists:
        unseen = [item for item in scores.columns if (row["user"], item) not in seen]
        expected = scores.loc[row["user"], unseen].sort_values(ascending=False)[:n]
        assert len(row["recommendations"]) == len(expected)
        found = [entry["rating"] for entry in row["recommendations"]]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert not {(row["user"], entry["item"]) for entry in row["recommendations"]} & seen


@pytest.mark.usefixtures("candidates")
def test_recommendations_of_the_other_direction_and_for_subsets(spark, model):
    scores = dense_scores(model)
    unclipped = model.copy({model.clipPredictions: False})
    for row in unclipped.recommendForAllItems(3, caution=0.0).collect():
        best = scores[row["item"]].sort_values(ascending=False)[:3]
        np.testing.assert_allclose([e["rating"] for e in row["recommendations"]], best, atol=1e-4)
    subset = spark.createDataFrame([(100,), (107,), (-1,), (100,)], "user long")
    lists = model.recommendForUserSubset(subset, 2)
    assert lists.schema.simpleString() == (
        "struct<user:bigint,recommendations:array<struct<item:bigint,rating:float>>>"
    )
    assert sorted(row["user"] for row in lists.collect()) == [100, 107]
    items = spark.createDataFrame([(5,)], "item long")
    assert [row["item"] for row in model.recommendForItemSubset(items, 2).collect()] == [5]


def test_lists_of_blocks_are_clipped_and_have_the_first_of_equal_scores(spark, model, monkeypatch):
    ids = [f"i{n:02}" for n in range(40)]
    alike = pd.DataFrame({"item": ids, "n_ratings": 1, "bias": np.repeat([0.0, 9.0], 20)})
    alike["factors"] = [[0.0, 0.0, 0.0]] * len(ids)
    table = spark.createDataFrame(
        alike, "item string, n_ratings long, bias float, factors array<float>"
    )
    many = FactorModel(model.user_factors, table.repartition(4), model.history, model.metadata)
    many = many.copy({many.clipPredictions: True})
    seen = spark.createDataFrame([(100, "i21"), (107, "i99")], "user long, item string")
    whole = many.recommendForAllUsers(30, seen, caution=0.0)
    monkeypatch.setattr("mfspark.models.matching.BROADCAST_LIMIT", 0)
    monkeypatch.setattr("mfspark.models.candidate_blocks.BLOCK_BYTES", 300)
    in_blocks = many.recommendForAllUsers(30, seen, caution=0.0)
    assert "i21" not in str(in_blocks.where("user = 100").first())
    expected = [*ids[20:], *ids[:10]]
    one = in_blocks.where("user = 107").first()["recommendations"]
    assert [entry["item"] for entry in one] == expected
    assert one[0]["rating"] == np.float32(model.metadata.rating_scale[1])
    assert_df_equality(in_blocks, whole, ignore_row_order=True, ignore_nullable=True)


def test_lists_for_more_users_than_go_through_python_at_a_time(spark, model, monkeypatch):
    n = 21_000
    bias = (F.col("id") % 2).cast("float").alias("bias")
    factors = F.array(F.lit(1.0), F.lit(0.0), F.lit(0.0)).cast("array<float>").alias("factors")
    users = (
        spark.range(n)
        .coalesce(1)
        .select(F.col("id").alias("user"), F.lit(1).cast("long").alias("n_ratings"), bias, factors)
    )
    metadata = model.metadata.model_copy(update={"n_users": n})
    many = FactorModel(users, model.item_factors, model.history, metadata)
    best = many.recommendForAllUsers(1, caution=0.0).first()["recommendations"][0]["item"]
    pairs = spark.range(n).select(F.col("id").alias("user"), F.lit(best).alias("item"))
    seen = pairs.where("user % 3 = 0")
    monkeypatch.setattr("mfspark.models.matching.QUERIES_PER_TASK", 4000)
    lists = many.recommendForAllUsers(1, seen, caution=0.0)
    assert lists.select(F.spark_partition_id()).distinct().count() == 6
    has_best = F.col("recommendations")[0]["item"] == best
    assert lists.count() == n
    assert lists.where(has_best == (F.col("user") % 3 == 0)).count() == 0


def test_saving_never_replaces_by_accident(model, tmp_path):
    path = tmp_path / "model"
    model.save(str(path))
    with pytest.raises(OutputExistsError, match="exists"):
        model.save(str(path))
    model.save(str(path), overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_params_survive_saving(model, tmp_path):
    model.copy({model.coldStartStrategy: "nan"}).save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model"))
    assert loaded.getOrDefault("coldStartStrategy") == "nan"


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model"
    model.save(str(path))
    return path


def test_load_names_what_is_wrong(saved, tmp_path):
    with pytest.raises(ModelFormatError, match=r"nowhere is not a model directory"):
        FactorModel.load(str(tmp_path / "nowhere"))
    metadata = json.loads((saved / "metadata.json").read_text())
    (saved / "metadata.json").write_text(json.dumps(metadata | {"schema_version": 99}))
    with pytest.raises(ModelFormatError, match=r"schema version 99.*reads version 1"):
        FactorModel.load(str(saved))
    (saved / "metadata.json").write_text("{")
    with pytest.raises(ModelFormatError, match=r"metadata.json is damaged"):
        FactorModel.load(str(saved))
    del metadata["rank"]
    (saved / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ModelFormatError, match=r"damaged at 'rank'"):
        FactorModel.load(str(saved))


def test_load_notices_missing_and_damaged_tables(saved):
    part = next((saved / "item_factors").glob("part-*.parquet"))
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    (saved / "item_factors" / f".{part.name}.crc").unlink(missing_ok=True)
    with pytest.raises(ModelFormatError, match=r"item_factors of model .* damaged"):
        FactorModel.load(str(saved))
    part.unlink()
    with pytest.raises(ModelFormatError, match=r"item_factors"):
        FactorModel.load(str(saved))


def damaged(frame, how):
    rows = frame.to_dict("records")
    first, second = rows[:2]
    if how == "another length":
        first["factors"] = first["factors"][:-1]
    elif how == "no factors":
        first["factors"] = None
    elif how == "NaN factor":
        first["factors"] = np.full(len(first["factors"]), np.nan, np.float32)
    elif how == "infinite bias":
        first["bias"] = float("inf")
    elif how == "id twice":
        first["item"] = second["item"]
    return rows


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another length", "1 rows whose list of factors has not the length 3"),
        ("no factors", "1 rows whose list of factors has not the length 3"),
        ("NaN factor", "1 rows with a bias or factors that are null, NaN"),
        ("infinite bias", "1 rows with a bias or factors that are null, NaN"),
        ("id twice", "1 ids that occur twice"),
    ],
)
def test_load_looks_at_every_row(saved, how, message):
    folder = saved / "item_factors"
    rows = damaged(pd.read_parquet(folder), how)
    shutil.rmtree(folder)
    folder.mkdir()
    schema = pa.schema(
        [("item", pa.int64()), ("n_ratings", pa.int64()), ("bias", pa.float32()),
         ("factors", pa.list_(pa.float32()))]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "part-0.parquet")
    with pytest.raises(ModelFormatError, match=message):
        FactorModel.load(str(saved))


def test_load_checks_the_rank_and_the_kind_of_path(saved):
    metadata = json.loads((saved / "metadata.json").read_text())
    other = {"rank": 7, "rotation": metadata["rotation"] | {"singular_values": [1.0] * 7}}
    other["rotation"]["user_penalty"] = []
    (saved / "metadata.json").write_text(json.dumps(metadata | other))
    with pytest.raises(ModelFormatError, match=r"has not the length 7 that metadata.json says"):
        FactorModel.load(str(saved))
    with pytest.raises(ModelFormatError, match="cannot be read as a model directory"):
        FactorModel.load(str(saved / "metadata.json"))


def test_a_loaded_model_may_be_saved_onto_itself(saved, ratings):
    loaded = FactorModel.load(str(saved))
    expected = loaded.transform(ratings).orderBy("user", "item").toPandas()
    loaded.save(str(saved), overwrite=True)
    for model in (loaded, FactorModel.load(str(saved))):
        found = model.transform(ratings).orderBy("user", "item").toPandas()
        pd.testing.assert_frame_equal(found, expected)
    assert not [entry for entry in saved.parent.iterdir() if entry.name.startswith(".")]


def test_an_initial_model_with_ids_of_another_kind_is_refused(saved, ratings):
    texts = ratings.withColumn("user", F.col("user").cast("string"))
    with pytest.raises(ConfigError, match=r"user ids of type bigint, these ratings of type string"):
        BiasedALS(rank=3, initialModel=str(saved)).fit(texts)
