"""A reason for every bad row, policies for duplicates, and limits."""

import logging

import pytest

from mfspark.data.read import RatingsSource, read_ratings
from mfspark.data.source import RawRatings
from mfspark.data.validate import DUPLICATE, Checks, check_ratings
from mfspark.errors import DataError

SCHEMA = (
    "user string, item string, rating string, timestamp string, origin string, malformed string"
)


def checked(spark, rows, has_timestamps=True, scale=None, **checks):
    full = [(*row, *(None,) * (4 - len(row)), "file", None) for row in rows]
    raw = RawRatings(spark.createDataFrame(full, SCHEMA), has_timestamps, scale)
    result = check_ratings(raw, Checks(**checks))
    result.release()
    return result


GOOD = [("u1", str(item), "3", "100") for item in range(40)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((None, "1", "3"), "null user"),
        (("", "1", "3"), "null user"),
        (("u", None, "3"), "null item"),
        (("u", "1", None), "null rating"),
        (("u", "1", "three"), "unparsable rating"),
        (("u", "1", "NaN"), "NaN or infinite rating"),
        (("u", "1", "-Infinity"), "NaN or infinite rating"),
        (("u", "1", "0.5"), "rating outside the scale 1 to 5"),
        (("u", "1", "5.1"), "rating outside the scale 1 to 5"),
        (("u", "1", "3", "yesterday"), "unparsable timestamp"),
        (("u", "1", "3", "NaN"), "unparsable timestamp"),
        (("u", "1", "3", "1e300"), "unparsable timestamp"),
    ],
)
def test_reasons(spark, row, reason):
    result = checked(spark, [*GOOD, row], scale=(1, 5))
    assert result.bad_rows == {reason: 1}
    bad = result.quarantine.collect()
    padded = (*row, *(None,) * (4 - len(row)))
    assert [(r["user"], r["item"], r["rating"], r["timestamp"]) for r in bad] == [padded]
    assert (bad[0]["reason"], bad[0]["origin"]) == (reason, "file")
    assert result.clean.count() == 40


def test_a_quote_in_an_id_is_odd_in_text_alone(spark, tmp_path):
    spark.createDataFrame(
        [('q"', "i", 1.0), ("r", "i", 2.0)], "user string, item string, rating double"
    ).write.parquet(str(tmp_path / "ratings.parquet"))
    raw = read_ratings(spark, RatingsSource(path=str(tmp_path / "ratings.parquet")))
    result = check_ratings(raw, Checks())
    assert (result.n_clean, result.bad_rows) == (2, {})
    assert {row["user"] for row in result.clean.collect()} == {'q"', "r"}


def test_half_stars_spaces_and_dates_are_fine(spark):
    result = checked(spark, [("u", "1", " 3.5 ", "2005-09-06"), ("u", "2", "1e0", "1126000000.0")])
    assert {(r["rating"], r["timestamp"]) for r in result.clean.collect()} == {
        (3.5, 1125964800),
        (1.0, 1126000000),
    }


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["1", "22", "-3", "0"], "bigint"),
        (["1", "007"], "string"),
        (["1", "+2"], "string"),
        (["1", "x"], "string"),
        (["12345678901234567890"], "string"),
        (["1", " 2"], "string"),
    ],
)
def test_ids_come_out_as_they_went_in(spark, ids, kind):
    clean = checked(spark, [(id_, "i", "3") for id_ in ids]).clean
    assert clean.schema["user"].dataType.simpleString() == kind
    assert sorted(str(row["user"]) for row in clean.collect()) == sorted(ids)


def test_declared_id_type_makes_others_bad(spark):
    rows = [(str(n), "1", "3") for n in range(30)]
    result = checked(spark, [*rows, ("x", "1", "3")], user_type="long")
    assert result.bad_rows == {"unparsable user": 1}
    assert (
        checked(spark, rows, user_type="string").clean.schema["user"].dataType.typeName()
        == "string"
    )


TWICE = [("a", "1", "2", "10"), ("a", "1", "4", "30"), ("a", "1", "3", "20"), ("b", "1", "5", "1")]


def test_duplicates_last(spark):
    result = checked(spark, TWICE)
    assert {(r["user"], r["rating"]) for r in result.clean.collect()} == {("a", 4.0), ("b", 5.0)}
    assert result.bad_rows == {DUPLICATE: 2}
    assert {r["rating"] for r in result.quarantine.collect()} == {"2", "3"}
    assert (result.n_read, result.n_clean) == (4, 2)


def test_duplicates_mean(spark):
    result = checked(spark, TWICE, duplicates="mean")
    assert {(r["user"], r["rating"], r["timestamp"]) for r in result.clean.collect()} == {
        ("a", 3.0, 30),
        ("b", 5.0, 1),
    }
    assert (result.bad_rows, result.n_merged) == ({}, 2)
    assert result.quarantine.count() == 0


def test_duplicates_error(spark):
    with pytest.raises(DataError, match=r"2 of 4 ratings repeat a pair.*data.duplicates"):
        checked(spark, TWICE, duplicates="error")


def test_last_needs_timestamps_only_where_ratings_differ(spark):
    same = [("a", "1", "2"), ("a", "1", "2"), ("b", "1", "1")]
    assert checked(spark, same, has_timestamps=False).clean.count() == 2
    with pytest.raises(DataError, match=r"1 pairs .*no timestamp"):
        checked(spark, [*same, ("a", "1", "5")], has_timestamps=False)


def test_too_many_bad_rows(spark):
    bad = [("u", "i", "x")] * 3
    with pytest.raises(
        DataError, match=r"3 of 43 rows are bad \(3 × unparsable rating\).*rating=x"
    ):
        checked(spark, [*GOOD, *bad])
    assert checked(spark, [*GOOD, *bad], max_bad_share=0.1).bad_rows == {"unparsable rating": 3}
    with pytest.raises(DataError, match="3 of 3 rows are bad"):
        checked(spark, bad, max_bad_share=1.0)
    with pytest.raises(DataError, match="no rows"):
        checked(spark, [])


def test_typed_columns_keep_their_types(spark):
    rows = [(1, "x", 3, None, "file", None)]
    schema = (
        "user int, item string, rating int, timestamp timestamp, origin string, malformed string"
    )
    raw = RawRatings(spark.createDataFrame(rows, schema), False)
    result = check_ratings(raw, Checks())
    result.release()
    assert result.clean.schema.simpleString() == (
        "struct<user:int,item:string,rating:double,timestamp:bigint>"
    )


def typed(spark, schema, rows, **checks):
    table = spark.createDataFrame(rows, schema).selectExpr(
        "user", "item", "rating", "timestamp", "'file' origin", "cast(null as string) malformed"
    )
    result = check_ratings(RawRatings(table, True, None), Checks(max_bad_share=0.5, **checks))
    result.release()
    return result


def test_numeric_timestamps_that_are_no_times_are_bad_rows(spark):
    rows = [("u", n, 3.0, 1e9) for n in range(5)]
    rows += [("u", 8, 3.0, float("nan")), ("u", 9, 3.0, 1e300)]
    result = typed(spark, "user string, item int, rating double, timestamp double", rows)
    assert result.n_clean == 5
    assert result.bad_rows == {"unparsable timestamp": 2}


def test_double_ids_become_long_and_gaps_are_missing_users(spark):
    rows = [(float(n), n, 3.0, 1) for n in range(6)]
    rows += [(float("nan"), 1, 3.0, 1), (None, 1, 3.0, 1), (1.5, 1, 3.0, 1)]
    result = typed(spark, "user double, item int, rating double, timestamp long", rows)
    assert dict(result.clean.dtypes)["user"] == "bigint"
    assert result.bad_rows == {"null user": 2, "unparsable user": 1}


@pytest.mark.parametrize("kind", ["date", "array<int>", "boolean"])
def test_ids_of_other_types_are_refused_at_once(spark, kind):
    table = spark.range(3).selectExpr(
        f"cast(null as {kind}) user", "id item", "3.0 rating", "1 timestamp", "'f' origin",
        "cast(null as string) malformed",
    )  # fmt: skip
    with pytest.raises(DataError, match=rf"user ids have type {kind}"):
        check_ratings(RawRatings(table, True, None), Checks())


def test_the_last_of_duplicates_must_be_known(spark):
    blank = [("u", "x", "3", None), ("u", "x", "4", None), *GOOD]
    with pytest.raises(DataError, match=r"1 pairs .* fill in the blank timestamps"):
        checked(spark, blank)
    # One blank is older than one with a time.
    result = checked(spark, [("u", "x", "3", None), ("u", "x", "2", "5"), *GOOD])
    assert result.bad_rows == {DUPLICATE: 1}


def test_a_tie_in_time_is_said(spark, caplog):
    rows = [("u", "x", "3", "7"), ("u", "x", "4", "7"), ("u", "x", "5", "1"), *GOOD]
    logging.getLogger("mfspark").propagate = True
    with caplog.at_level(logging.WARNING, "mfspark"):
        result = checked(spark, rows)
    assert result.n_clean == len(GOOD) + 1
    assert any(
        "1 pairs" in r.getMessage() and "same time" in r.getMessage() for r in caplog.records
    )
