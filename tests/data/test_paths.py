"""Characters of a path mean themselves, for every read, write, rename and delete."""

import os
import time

import pandas as pd
import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from mfspark import FactorModel, files
from mfspark.app.config import RunSettings
from mfspark.data.read import RatingsSource, read_items, read_ratings
from mfspark.errors import DataError, OutputExistsError

CHARACTERS = [
    " ",
    "ü",
    "#",
    "%",
    "%20",
    "?",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "+",
    "&",
    "'",
    "*",
    "\\",
]


@pytest.mark.parametrize("character", CHARACTERS)
def test_documents_and_directories(tmp_path, character):
    folder = str(tmp_path / f"a{character}b")
    files.write_text(f"{folder}/x{character}.json", "{}")
    assert os.listdir(folder) == [f"x{character}.json"]
    assert files.read_text(f"{folder}/x{character}.json") == "{}"
    assert files.names_in(folder) == [f"x{character}.json"]
    target = f"{folder}/out{character}"
    for content in ("one", "two"):
        with files.staged_directory(target, overwrite=True) as stage:
            files.write_text(f"{stage}/content", content)
        assert files.read_text(f"{target}/content") == content
    assert sorted(os.listdir(folder)) == sorted([f"x{character}.json", f"out{character}"])
    files.remove(folder)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("character", CHARACTERS)
def test_spark_reads_and_writes_the_very_path(spark, tmp_path, character):
    folder = tmp_path / f"a{character}b"
    folder.mkdir()
    # What a pattern would also match.
    (tmp_path / "aXb").mkdir()
    (tmp_path / "aXb" / "ratings.csv").write_text("user,item,rating\n9,9,9\n9,9,9\n")
    (folder / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    source = RatingsSource(path=str(folder / "ratings.csv"))
    row = read_ratings(spark, source).table.first()
    assert row["user"] == "1"
    assert row["origin"] == str(folder / "ratings.csv")
    named = folder / f"r{character}.csv"
    named.write_text("user,item,rating\n4,5,3\n")
    assert read_ratings(spark, RatingsSource(path=str(named))).table.first()["user"] == "4"
    files.write_parquet(spark.range(3), str(folder / f"t{character}"))
    assert files.read_parquet(spark, str(folder / f"t{character}")).count() == 3
    assert len(files.read_pandas(str(folder / f"t{character}"))) == 3
    assert pd.read_parquet(folder / f"t{character}")["id"].sum() == 3


def test_tables_are_written_side_by_side_each_as_one_file(spark, tmp_path):
    tables = {f"t{n}": spark.range(n, n + 40, 1, 4) for n in range(9)}
    files.write_tables(tables, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(tables)
    for n, name in enumerate(tables):
        assert len(list((tmp_path / name).iterdir())) == 1
        assert pd.read_parquet(tmp_path / name)["id"].tolist() == list(range(n, n + 40))
    files.write_tables({}, str(tmp_path / "none"))


def test_a_table_that_cannot_be_written_is_an_error(spark, tmp_path):
    broken = spark.range(3).select(F.raise_error(F.lit("this one")).alias("id"))
    with pytest.raises(PySparkException, match="this one"):
        files.write_tables({"a": spark.range(3), "b": broken, "c": spark.range(3)}, str(tmp_path))


@pytest.mark.parametrize("character", [" ", "#", "%", "[", ":", "&"])
def test_a_model_in_such_a_folder(spark, tmp_path, character):
    from mfspark import BiasedALS

    pairs = [(u, i, 3.0) for u in range(3) for i in range(3)]
    rows = spark.createDataFrame(pairs, "user int, item int, rating double")
    model = BiasedALS(rank=1, maxIter=1).fit(rows)
    path = str(tmp_path / f"my{character}model")
    model.save(path)
    assert sorted(os.listdir(tmp_path)) == [f"my{character}model"]
    assert FactorModel.load(path).user_factors.count() == 3
    model.save(path, overwrite=True)
    assert FactorModel.load(path).user_factors.count() == 3


def test_what_was_there_survives_a_failed_replacement(tmp_path):
    target = str(tmp_path / "out")
    with files.staged_directory(target, overwrite=False) as stage:
        files.write_text(f"{stage}/content", "old")

    def replace():
        with files.staged_directory(target, overwrite=True) as stage:
            files.write_text(f"{stage}/content", "new")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        replace()
    assert files.read_text(f"{target}/content") == "old"
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(OutputExistsError), files.staged_directory(target, overwrite=False):
        pass


def test_what_killed_writers_left_is_settled(tmp_path):
    for name in (
        ".model-0123abcd.partial",
        ".ratings-0123abcd.replaced",
        ".items-0123abcd.replaced",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    (tmp_path / "items").mkdir()
    (tmp_path / ".hidden").touch()
    files.settle_replacements(str(tmp_path))
    # The successor of items arrived, that of ratings did not.
    assert sorted(os.listdir(tmp_path)) == [".hidden", "items", "ratings"]
    assert (tmp_path / "ratings/content").read_text() == ".ratings-0123abcd.replaced"


def test_only_what_is_old_is_abandoned(tmp_path):
    for name in ("mfspark-fit-1", "mfspark-fit-2", "other"):
        (tmp_path / name).mkdir()
    old = time.time() - 2 * 24 * 3600
    for name in ("mfspark-fit-1", "other"):
        os.utime(tmp_path / name, (old, old))
    files.remove_abandoned(str(tmp_path), "mfspark-fit-", 24 * 3600)
    assert sorted(os.listdir(tmp_path)) == ["mfspark-fit-2", "other"]


@pytest.mark.parametrize(
    "path", ["foo://bar/x", "http://localhost/ratings.csv", "hdfs://nowhere/x"]
)
def test_what_cannot_be_reached_is_said_in_a_line(path):
    with pytest.raises(DataError, match="cannot be reached") as raised:
        files.exists(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "../x", "a\nb", "a\\b"])
def test_a_run_stays_in_its_directory(name):
    with pytest.raises(ValueError, match="may not be empty"):
        RunSettings(name=name)
    assert RunSettings(name="My Runs [2024] 100%").name


@pytest.mark.parametrize("suffix", ["csv.gz", "csv.bz2", "csv.zst", "json.gz"])
def test_compressed_files_are_known_by_name(spark, tmp_path, suffix):
    path = tmp_path / f"ratings.{suffix}"
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [1.0, 2.0]})
    if suffix == "csv.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as compressed:
            compressed.write(frame.to_csv(index=False).encode())
    elif suffix.startswith("csv"):
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert read_ratings(spark, RatingsSource(path=str(path))).table.count() == 2
    assert read_items(spark, RatingsSource(path=str(path))) is None
