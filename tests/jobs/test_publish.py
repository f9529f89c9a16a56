"""Outputs of a run as tables of the catalog."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrameWriter
from running import run_job

INTO = "publish.into=shelf"


@pytest.fixture
def shelf(spark):
    spark.sql("CREATE DATABASE shelf")
    yield "shelf"
    spark.sql("DROP DATABASE shelf CASCADE")


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "copy")


def names(spark) -> set[str]:
    return {row["tableName"] for row in spark.sql("SHOW TABLES IN shelf").collect()}


def publish(spark, folder: Path, *settings: str):
    return run_job(spark, "publish", folder / "run.toml", INTO, *settings)


def rows_of(table) -> list[dict]:
    return table.sort_values("item")[["item", "bias"]].to_dict("records")


def test_views_stand_for_tables_that_are_whole(spark, shelf, folder):
    first = publish(spark, folder)
    assert first.returncode == 0, first.stdout[-3000:]
    assert "the catalog of this session is in memory" in first.stdout
    expected = pd.read_parquet(folder / "runs/mine/model/item_factors")
    found = spark.table("shelf.mine_model_item_factors").toPandas()
    assert rows_of(found) == rows_of(expected)
    assert spark.table("shelf.mine_model_user_factors").count() == 101
    versions = names(spark)

    # A reader in the middle of the first version is not disturbed by the second, but by the third.
    reader = spark.table("shelf.mine_model_item_factors")
    for _ in range(2):
        assert reader.count() == 61
        assert publish(spark, folder).returncode == 0
    assert len(names(spark)) == len(versions) * 3 // 2
    assert not [name for name in names(spark) & versions if re.search(r"_v\d{8}t", name)]
    assert rows_of(spark.table("shelf.mine_model_item_factors").toPandas()) == rows_of(expected)


def test_all_kinds_of_outputs(spark, shelf, folder):
    assert run_job(spark, "recommend", folder / "run.toml", "recommend.n=3").returncode == 0
    outputs = 'publish.outputs=["recommendations", "evaluation", "ratings"]'
    result = publish(spark, folder, outputs)
    assert result.returncode == 0, result.stdout[-3000:]
    assert spark.table("shelf.mine_recommendations").count() == 101
    assert {"mine_ratings_train", "mine_ratings_test", "mine_evaluation_metrics"} <= names(spark)


def test_a_publication_that_fails_changes_nothing(spark, shelf, folder, monkeypatch):
    assert publish(spark, folder).returncode == 0
    before = names(spark)
    write, written = DataFrameWriter.saveAsTable, []

    def fail_later(writer, name, *arguments, **more):
        if len(written) == 2:
            raise AnalysisException("no room on the shelf")
        written.append(name)
        write(writer, name, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(DataFrameWriter, "saveAsTable", fail_later)
        failed = publish(spark, folder)
    assert failed.returncode == 3
    assert "tables cannot be made in shelf (no room on the shelf)" in failed.stdout
    assert len(written) == 2
    assert names(spark) == before
    # What a killed one leaves is dropped by the next.
    left = "mine_model_history_v20200101t000000_01234567"
    spark.sql(f"CREATE TABLE shelf.{left} AS SELECT 1 AS one")
    assert publish(spark, folder).returncode == 0
    assert left not in names(spark)


def test_what_others_have_made_is_not_replaced(spark, shelf, folder):
    spark.sql("CREATE TABLE shelf.mine_model_history AS SELECT 1 AS one")
    refused = publish(spark, folder)
    assert refused.returncode == 2
    assert "shelf.mine_model_history is there and was not published by mfspark" in refused.stdout
    assert names(spark) == {"mine_model_history"}
    spark.sql("DROP TABLE shelf.mine_model_history")

    assert publish(spark, folder).returncode == 0
    other = shutil.copytree(folder, folder.parent / "it's another")
    refused = publish(spark, other)
    assert refused.returncode == 2
    assert f"was published from {folder}/runs/mine" in refused.stdout
    assert publish(spark, other, "run.overwrite=true").returncode == 0
    assert publish(spark, other).returncode == 0


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("publish.outputs=['vectors']", 3, "vectors is missing; run the export job"),
        ("publish.outputs=['anything']", 2, "publish.outputs"),
        ("publish.into=nowhere", 3, "tables cannot be made in nowhere .*check publish.into"),
    ],
)
def test_errors_say_what_to_do(spark, shelf, folder, setting, code, said):
    result = publish(spark, folder, setting)
    assert result.returncode == code
    assert pd.Series([result.stdout]).str.contains(said)[0], result.stdout


def test_a_schema_must_be_named(spark, folder):
    result = run_job(spark, "publish", folder / "run.toml")
    assert result.returncode == 2
    assert "publish.into is not set" in result.stdout
