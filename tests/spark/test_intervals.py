"""Coverage and reliability of intervals against NumPy, where they are right and where not."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F
from scipy import stats

from mfspark.evaluation.intervals import LEVELS, intervals_of


def predictions_of(rng, n=8000, claimed=1.0):
    """Errors that are normal, and claimed standard deviations that are too small or too large."""
    std = rng.uniform(0.5, 2.0, n)
    predicted = rng.normal(3, 1, n)
    group = np.where(np.arange(n) < 1000, "few", "many")
    return pd.DataFrame(
        {
            "rating": predicted + std * rng.normal(size=n), "predicted": predicted,
            "std": claimed * std, "group": group,
        }
    )  # fmt: skip


def measured(spark, frame):
    def member(name, value):
        return F.struct(F.lit(name).alias("slice"), value.alias("value"))

    slices = F.array(member("all", F.lit("all")), member("group", F.col("group")))
    return intervals_of(spark.createDataFrame(frame).withColumn("slices", slices).drop("group"))


@pytest.mark.parametrize("claimed", [1.0, 0.7, 1.5])
def test_coverage_is_that_of_the_normal_distribution(spark, rng, claimed):
    frame = predictions_of(rng, claimed=claimed)
    coverage = measured(spark, frame).coverage.toPandas()
    overall = coverage[coverage["slice"] == "all"].set_index("level")
    assert set(overall.index) == set(LEVELS)
    for level in LEVELS:
        expected = 2 * stats.norm.cdf(claimed * stats.norm.ppf(0.5 + level / 2)) - 1
        assert overall.loc[level, "covered"] == pytest.approx(expected, abs=0.02)
    few = coverage.query("value == 'few' and level == 0.8").iloc[0]
    part = frame[frame["group"] == "few"]
    within = abs(part["rating"] - part["predicted"]) <= stats.norm.ppf(0.9) * part["std"]
    assert (few["n"], few["covered"]) == (1000, pytest.approx(within.mean()))


def test_reliability_goes_by_tenths(spark, rng):
    frame = predictions_of(rng, claimed=0.5)
    found = measured(spark, frame).reliability.toPandas()
    assert found["class"].tolist() == list(range(1, 11))
    assert abs(found["n"] / 800 - 1).max() < 0.05
    assert found["std"].is_monotonic_increasing
    np.testing.assert_allclose(found["rmse"] / found["std"], 2, rtol=0.1)


def test_rows_without_a_prediction_are_left_out(spark, rng):
    frame = predictions_of(rng, n=100)
    frame.loc[:9, ["predicted", "std"]] = np.nan
    found = measured(spark, frame)
    assert found.coverage.where("slice = 'all'").first()["n"] == 90
    assert found.reliability.toPandas()["n"].sum() == 90
