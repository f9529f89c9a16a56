"""Every format through the one entry point, with the oddities of real files."""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from mfspark.data.read import RatingsSource, read_items, read_ratings, read_users
from mfspark.data.source import ColumnMapping
from mfspark.data.validate import Checks, check_ratings
from mfspark.errors import DataError, one_line
from mfspark.spark_errors import SPARK_ERRORS


def rows(spark, path, **source):
    raw = read_ratings(spark, RatingsSource(path=str(path), **source))
    table = raw.table.toPandas()
    return raw, [tuple(row) for row in table[["user", "item", "rating", "timestamp"]].to_numpy()]


def items(spark, path, **source):
    table = read_items(spark, RatingsSource(path=str(path), **source))
    assert table is not None
    return [(row["item"], row["title"], row["year"], row["genres"]) for row in table.collect()]


def test_movielens_100k(spark, tmp_path):
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    flags = "|".join("1" if n in (3, 4) else "0" for n in range(19))
    line = f"1|Café Story, The (1995)|01-Jan-1995||http://example.org|{flags}\n"
    (tmp_path / "u.item").write_bytes((line + line.replace("1|Caf", "2|Caf")).encode("latin-1"))
    raw, found = rows(spark, tmp_path)
    assert raw.scale == (1, 5)
    assert found == [("196", "242", "3", "881250949"), ("186", "302", "3", "891717742")]
    assert items(spark, tmp_path)[0] == ("1", "Café Story, The", 1995, ["Animation", "Children's"])
    assert rows(spark, tmp_path / "u.data")[1] == found
    assert len(items(spark, tmp_path / "u.data")) == 2


def test_movielens_dat_in_latin_1_and_utf_8(spark, tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::4.5::978300760\r\n1::661::3::978302109\r\n")
    text = '1::Misérables, Les (1995)::Drama|Musical\n2::Untitled "B"::(no genres listed)\n'
    for encoding in ("latin-1", "utf-8"):
        (tmp_path / "movies.dat").write_bytes(text.encode(encoding))
        _, found = rows(spark, tmp_path)
        assert found[0] == ("1", "1193", "4.5", "978300760")
        assert items(spark, tmp_path) == [
            ("1", "Misérables, Les", 1995, ["Drama", "Musical"]),
            ("2", 'Untitled "B"', None, []),
        ]


def test_movielens_csv_with_windows_line_ends_and_quotes(spark, tmp_path):
    (tmp_path / "ratings.csv").write_bytes(
        b"userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n2,11,0.5,964981247\r\n"
    )
    (tmp_path / "movies.csv").write_bytes(
        'movieId,title,genres\r\n11,"American President, The (1995)",Comedy|Drama\r\n'
        '12,"He said ""hi"" (2006–2007)",(no genres listed)\r\n'.encode()
    )
    _, found = rows(spark, tmp_path)
    assert found == [("1", "1", "4.0", "964982703"), ("2", "11", "0.5", "964981247")]
    assert items(spark, tmp_path) == [
        ("11", "American President, The", 1995, ["Comedy", "Drama"]),
        ("12", 'He said "hi"', 2006, []),
    ]


def test_recbole_copy(spark, tmp_path):
    (tmp_path / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"
    )
    (tmp_path / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n267\tunkonwn\tV\t\n"
    )
    _, found = rows(spark, tmp_path)
    assert found == [("196", "242", "3", "881250949")]
    assert items(spark, tmp_path) == [
        ("1", "Toy Story", 1995, ["Animation", "Children's", "Comedy"]),
        ("267", "unkonwn", None, []),
    ]


@pytest.mark.parametrize("split_bytes", ["128m", "150"])
def test_netflix_films_across_splits(spark, tmp_path, split_bytes):
    """Splits of 150 bytes cut inside films, and some hold no film line at all."""
    expected, text = [], ""
    for film, n in ((3, 2), (7, 30), (12, 1), (13, 25)):
        text += f"{film}:\n"
        for user in range(n):
            text += f"{1000 + user},{user % 5 + 1},2005-09-{user % 28 + 1:02d}\n"
            expected.append(
                (str(1000 + user), str(film), str(user % 5 + 1), f"2005-09-{user % 28 + 1:02d}")
            )
    (tmp_path / "combined_data_1.txt").write_text(text + "broken line\n")
    (tmp_path / "mv_0000099.txt").write_text("99:\n1,4,2001-01-01\n")
    (tmp_path / "movie_titles.csv").write_bytes(
        "3,1999,Où, quand\n7,NULL,Seven\n".encode("latin-1")
    )
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", split_bytes)
    try:
        raw, found = rows(spark, tmp_path)
        broken = raw.table.where("malformed is not null").collect()
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", before)
    assert sorted(row for row in found if row[0]) == sorted(
        [*expected, ("1", "99", "4", "2001-01-01")]
    )
    assert [row["malformed"] for row in broken] == ["broken line"]
    assert items(spark, tmp_path) == [("3", "Où, quand", 1999, []), ("7", "Seven", None, [])]


def test_generic_csv_and_tsv_with_other_names(spark, tmp_path):
    mapping = ColumnMapping(user="who", item="what", rating="stars")
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"ratings{suffix}"
        lines = [["stars", "what", "who", "note"], ["3.5", "a b", "Zoë", "x"]]
        path.write_bytes("".join(separator.join(line) + "\r\n" for line in lines).encode())
        raw, found = rows(spark, path, columns=mapping)
        assert found == [("Zoë", "a b", "3.5", None)]
        assert not raw.has_timestamps
        assert raw.table.first()["origin"].endswith(path.name)


def test_lines_with_a_wrong_number_of_fields_are_kept_aside(spark, tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating\n1,2,3\n4,5\n6,7,8,9\n")
    raw, _ = rows(spark, path)
    malformed = {row["malformed"] for row in raw.table.collect()}
    assert malformed == {None, "4,5", "6,7,8,9"}


def test_parquet_and_json_keep_their_types(spark, tmp_path):
    frame = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "rating": [1.0, 2.5]})
    spark.createDataFrame(frame).write.parquet(str(tmp_path / "r.parquet"))
    spark.createDataFrame(frame).write.json(str(tmp_path / "r.json"))
    for name in ("r.parquet", "r.json"):
        raw, found = rows(spark, tmp_path / name)
        assert sorted(found) == [("a", 1, 1.0, None), ("b", 2, 2.5, None)]
        assert raw.table.schema["item"].dataType.simpleString() == "bigint"


def test_item_table_for_any_format(spark, tmp_path):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    (tmp_path / "items.csv").write_text("item,title,year,genres\n2,Two,2002,A|B\n")
    path = tmp_path / "ratings.csv"
    assert items(spark, path, items_path=str(tmp_path / "items.csv")) == [
        ("2", "Two", 2002, ["A", "B"])
    ]
    assert read_items(spark, RatingsSource(path=str(path))) is None
    (tmp_path / "items.csv").write_text("id,name\n2,Two\n")
    with pytest.raises(
        DataError,
        match=(
            r"the item table .*items.csv has no column 'item' for the item; it has id, name; "
            r"pass --set data.item_columns.item=id --set data.item_columns.title=name"
        ),
    ):
        items(spark, path, items_path=str(tmp_path / "items.csv"))


def test_further_columns_of_items_are_kept(spark, tmp_path):
    """Of text files those that hold only numbers are numbers."""
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    (tmp_path / "items.csv").write_text(
        "price,item,title,colour.of\r\n3.5,02,Two,red\r\n,3,Three,7\r\n1e2,4,3,\r\n"
    )
    source = RatingsSource(
        path=str(tmp_path / "ratings.csv"), items_path=str(tmp_path / "items.csv")
    )
    table = read_items(spark, source)
    assert table.columns == ["item", "title", "year", "genres", "price", "colour.of"]
    found = [(row[0], row[1], row[4], row[5]) for row in table.collect()]
    assert found == [("02", "Two", 3.5, "red"), ("3", "Three", None, "7"), ("4", "3", 100.0, None)]


def test_users_of_movielens(spark, tmp_path):
    (tmp_path / "100k").mkdir()
    (tmp_path / "100k/u.data").write_text("1\t2\t3\t4\n")
    (tmp_path / "100k/u.user").write_text("1|24|M|technician|85711\n2|53|F|other|T8H1N\n")
    (tmp_path / "1m").mkdir()
    (tmp_path / "1m/ratings.dat").write_text("1::2::3::4\n")
    assert read_users(spark, RatingsSource(path=str(tmp_path / "1m"))) is None
    (tmp_path / "1m/users.dat").write_text("1::F::18::10::48067-1\n")
    (tmp_path / "atomic").mkdir()
    (tmp_path / "atomic/x.inter").write_text("user_id:token\titem_id:token\trating:float\n")
    (tmp_path / "atomic/x.user").write_text(
        "user_id:token\tage:token\tgender:token\n7\t24\tM\n8\t9\tF\n"
    )
    found = {}
    for name in ("100k", "1m", "atomic"):
        table = read_users(spark, RatingsSource(path=str(tmp_path / name)))
        found[name] = [row.asDict() for row in table.collect()]
    assert found["100k"] == [
        {"user": "1", "age": 24, "gender": "M", "occupation": "technician", "zip_code": "85711"},
        {"user": "2", "age": 53, "gender": "F", "occupation": "other", "zip_code": "T8H1N"},
    ]
    assert found["1m"] == [
        {"user": "1", "age": 18, "gender": "F", "occupation": "10", "zip_code": "48067-1"}
    ]
    assert found["atomic"] == [
        {"user": "7", "age": 24.0, "gender": "M"}, {"user": "8", "age": 9.0, "gender": "F"}
    ]  # fmt: skip


def test_user_tables_of_any_format(spark, tmp_path):
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")

    def users(name):
        source = RatingsSource(path=str(tmp_path / "ratings.csv"), users_path=str(tmp_path / name))
        return read_users(spark, source)

    assert read_users(spark, RatingsSource(path=str(tmp_path / "ratings.csv"))) is None
    (tmp_path / "users.json").write_text('{"user": 5, "tags": ["a", "b"]}\n')
    assert users("users.json").select("user", "tags").collect() == [(5, ["a", "b"])]
    (tmp_path / "users.csv").write_text("id,age\n1,2\n")
    with pytest.raises(
        DataError,
        match=r"user table .* no column 'user' .* --set data.user_columns.user=id",
    ):
        users("users.csv")
    with pytest.raises(DataError, match=r"no user table .*set data.users_path"):
        users("nowhere.csv")
    (tmp_path / "broken.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"user table .* cannot be read .*data.users_path"):
        users("broken.parquet")


def test_errors_name_the_culprit_and_the_remedy(spark, tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*nowhere.csv; set data.path"):
        rows(spark, tmp_path / "nowhere.csv")
    (tmp_path / "ratings.csv").write_text("userId,item,rating\n1,2,3\n")
    with pytest.raises(
        DataError,
        match=r"no column 'user' for the user; it has userId, item, rating; pass --set "
        r"data.columns.user=userId",
    ):
        rows(spark, tmp_path / "ratings.csv")
    (tmp_path / "odd.bin").write_text("")
    with pytest.raises(DataError, match=r"set data\.format"):
        rows(spark, tmp_path / "odd.bin")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        rows(spark, tmp_path / "empty.csv")
    (tmp_path / "not.parquet").write_text("text")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        rows(spark, tmp_path / "not.parquet")[0].table.count()


def test_a_json_array_and_nested_fields(spark, tmp_path):
    path = tmp_path / "ratings.json"
    objects = [
        {"r": {"user": "a", "stars": 4}, "item": "x"},
        {"r": {"user": "b", "stars": 2}, "item": "y"},
    ]
    path.write_text(json.dumps(objects, indent=1))
    mapping = ColumnMapping(user="r.user", rating="r.stars")
    _, found = rows(spark, path, columns=mapping)
    assert found == [("a", "x", 4, None), ("b", "y", 2, None)]
    with pytest.raises(DataError, match=r"has no column 'r.name' for the user; it has"):
        rows(spark, path, columns=ColumnMapping(user="r.name"))


def test_another_character_set(spark, tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes("user,item,rating\nJosé,x,3\nJosè,x,4\n".encode("latin-1"))
    _, found = rows(spark, path, encoding="ISO-8859-1")
    assert [row[0] for row in found] == ["José", "Josè"]
    assert rows(spark, path)[1] == found
    raw = read_ratings(spark, RatingsSource(path=str(path), encoding="UTF-8"))
    with pytest.raises(DataError, match=r"set data.encoding"):
        check_ratings(raw, Checks())


def test_a_line_break_inside_a_field_invents_no_user(spark, tmp_path):
    path = tmp_path / "ratings.csv"
    good = "".join(f"u,i{n},3\n" for n in range(50))
    path.write_text(f'user,item,rating\n"an\nna",x,3\n{good}')
    result = check_ratings(read_ratings(spark, RatingsSource(path=str(path))), Checks())
    assert {row["user"] for row in result.clean.select("user").distinct().collect()} == {"u"}
    assert result.n_read == result.n_clean + sum(result.bad_rows.values())
    result.release()


def test_an_item_table_that_is_none(spark, tmp_path):
    (tmp_path / "items.parquet").write_text("no table")
    (tmp_path / "ratings.csv").write_text("user,item,rating\n1,2,3\n")
    source = RatingsSource(
        path=str(tmp_path / "ratings.csv"), items_path=str(tmp_path / "items.parquet")
    )
    with pytest.raises(DataError, match=r"item table .* cannot be read") as raised:
        read_items(spark, source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["cut", "none"])
def test_a_damaged_file_is_named(spark, tmp_path, content):
    whole = gzip.compress(b"user,item,rating\n" + b"1,2,3\n" * 20_000)
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2] if content == "cut" else b"x" * 99)
    with pytest.raises((DataError, *SPARK_ERRORS)) as raised:
        check_ratings(read_ratings(spark, RatingsSource(path=str(tmp_path / "a.csv.gz"))), Checks())
    assert "a.csv.gz" in one_line(raised.value)


@pytest.mark.parametrize("odd", ["README", "order of columns", "types", "README among Parquet"])
def test_a_file_among_parts_that_is_none_of_them_is_named(spark, tmp_path, odd):
    frame = pd.DataFrame({"user": range(50), "item": range(50), "rating": 3.0})
    kind = "csv" if odd in ("README", "order of columns") else "parquet"
    getattr(frame, f"to_{kind}")(tmp_path / f"a.{kind}", index=False)
    if odd.startswith("README"):
        (tmp_path / "README.md").write_text("These are ratings.\nEnjoy them, and cite us.\n")
    elif odd == "types":
        frame.astype({"user": str}).to_parquet(tmp_path / "b.parquet", index=False)
    else:
        frame[["item", "user", "rating"]].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises((DataError, *SPARK_ERRORS)) as raised:
        check_ratings(read_ratings(spark, RatingsSource(path=str(tmp_path), format=kind)), Checks())
    assert str(tmp_path) in one_line(raised.value)
    assert "than the files beside it" in one_line(raised.value)
    if odd == "types":
        assert "[user]" in one_line(raised.value)


def test_a_file_that_may_not_be_read_says_so():
    """As a user that is not root, who may read everything."""
    script = (
        "import os, sys; from mfspark.data.read import detect_format, RatingsSource\n"
        "os.getuid() or os.setuid(65534)\n"
        "detect_format(RatingsSource(path=sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "ratings.csv"
        path.write_text("user,item,rating\n1,2,3\n")
        path.chmod(0)
        command = [sys.executable, "-c", script, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"{path} may not be read by this user; change its permissions" in run.stderr
