"""Synthetic ratings: reproducible, long-tailed, and made from the truth they claim."""

import numpy as np
import pytest

from mfspark.data.synthetic import (
    SyntheticSettings,
    planted,
    synthetic_items,
    synthetic_ratings,
)

SETTINGS = SyntheticSettings(n_ratings=20_000, n_users=400, n_items=300, rank=3, noise=0.3, seed=5)


@pytest.fixture(scope="module")
def frame(spark):
    return synthetic_ratings(spark, SETTINGS).toPandas()


def test_same_rows_whatever_the_partitioning(spark, frame):
    spark.conf.set("spark.sql.leafNodeDefaultParallelism", "5")
    try:
        again = synthetic_ratings(spark, SETTINGS).toPandas()
    finally:
        spark.conf.unset("spark.sql.leafNodeDefaultParallelism")
    key = ["user", "item"]
    assert (
        frame.sort_values(key)
        .reset_index(drop=True)
        .equals(again.sort_values(key).reset_index(drop=True))
    )


def test_pairs_are_unique_half_stars_and_long_tailed(frame):
    assert not frame.duplicated(["user", "item"]).any()
    assert set(frame["rating"]) <= {n / 2 for n in range(1, 11)}
    counts = frame.groupby("item").size().sort_values(ascending=False)
    assert counts.head(30).sum() > 0.2 * len(frame)
    assert 10_000 < len(frame) <= 20_000


def test_ratings_follow_the_planted_truth(frame):
    users = planted(SETTINGS, "user", frame["user"].to_numpy())
    items = planted(SETTINGS, "item", frame["item"].to_numpy())
    exact = 3.5 + users.bias + items.bias + (users.factors * items.factors).sum(axis=1)
    inside = (exact > 1) & (exact < 4.5)
    error = (frame["rating"] - exact)[inside]
    # Noise, and rounding to half stars (variance 1/48).
    assert np.sqrt((error**2).mean()) == pytest.approx(np.sqrt(0.3**2 + 1 / 48), rel=0.05)


def test_items_have_genres_of_their_factors(spark):
    items = synthetic_items(spark, SETTINGS).toPandas()
    assert len(items) == 300
    high = planted(SETTINGS, "item", items["item"].to_numpy()).factors[:, 0]
    has = items["genres"].apply(lambda genres: "Amber" in genres)
    assert high[has].min() > high[~has].max()
