"""Tables of what ratings there are, against pandas."""

import numpy as np
import pandas as pd
import pytest

from mfspark.data.description import describe
from mfspark.report.description_page import cumulative

DAY = 86_400


def rows(spark, rng, n=800, seconds=200 * DAY, **columns):
    frame = pd.DataFrame(
        {
            "user": rng.geometric(0.05, n),
            "item": rng.integers(0, 50, n),
            "rating": rng.integers(1, 6, n).astype(float),
            "timestamp": 1_600_000_000 + rng.integers(0, seconds, n),
        }
    ).assign(**columns)
    schema = "user long, item long, rating double, timestamp long"
    return frame, spark.createDataFrame(frame, schema)


def test_counts(spark, rng):
    frame, table = rows(spark, rng)
    found = describe(table)
    activity = found.activity.toPandas()
    for side in ("user", "item"):
        expected = frame[side].value_counts().value_counts().sort_index()
        own = activity[activity["side"] == side].set_index("n_ratings")["n_ids"].sort_index()
        assert own.to_dict() == expected.to_dict()
    values = found.rating_values.toPandas().set_index("rating")["n"]
    assert values.to_dict() == frame["rating"].value_counts().to_dict()
    assert list(values.index) == sorted(values.index)


def test_continuous_ratings_are_counted_in_classes(spark, rng):
    rating = rng.uniform(-10, 30, 800)
    _, table = rows(spark, rng, rating=rating)
    values = describe(table).rating_values.toPandas()
    n, edges = np.histogram(rating, 20)
    np.testing.assert_allclose(values["rating"], (edges[1:] + edges[:-1]) / 2, atol=1e-9)
    assert list(values["n"]) == list(n)


@pytest.mark.parametrize(
    ("days", "length", "period"),
    [
        (50, "day", "D"), (300, "week", "W-SUN"), (1700, "month", "M"), (5000, "quarter", "Q"),
        (15_000, "year", "Y"), (50_000, "year", "Y"),
    ],
)  # fmt: skip
def test_periods_are_those_of_the_calendar_in_utc(spark, rng, days, length, period):
    frame, table = rows(spark, rng, seconds=days * DAY)
    zone = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
    try:
        found = describe(table).over_time.toPandas()
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    start = pd.to_datetime(frame["timestamp"], unit="s").dt.to_period(period).dt.start_time
    expected = frame.groupby(start).agg(
        n=("rating", "size"), n_users=("user", "nunique"), mean_rating=("rating", "mean")
    )
    assert set(found["length"]) == {length}
    assert list(pd.to_datetime(found["period"])) == list(expected.index)
    for name in expected.columns:
        np.testing.assert_allclose(found[name], expected[name])


def test_without_times_and_with_one_rating(spark, rng):
    _, table = rows(spark, rng, timestamp=None)
    assert describe(table).over_time.isEmpty()
    _, single = rows(spark, rng, n=1)
    found = describe(single)
    assert found.rating_values.count() == found.over_time.count() == 1


def test_shares_of_the_most_rated():
    counts = pd.DataFrame({"n_ratings": [50, 10, 5], "n_ids": [1, 4, 2]})
    ids, ratings = cumulative(counts)
    np.testing.assert_allclose(ids, [0, 1 / 7, 5 / 7, 1])
    np.testing.assert_allclose(ratings, [0, 0.5, 0.9, 1])
