"""Gains over baselines: figures against pandas, intervals against the truth."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark.evaluation.gains import gains_by_slice, overall_gains


def scored(rng, n_users=200, gain=0.1, slices=("a",)):
    """Ratings of users of different size whose errors go together, by two predictors."""
    user = np.repeat(np.arange(n_users), rng.integers(1, 20, n_users))
    n = len(user)
    shared = rng.normal(0, 0.6, n_users)[user] + rng.normal(0, 0.8, n)
    return pd.DataFrame(
        {"user": user, "rating": 0.0, "slice": "kind", "value": rng.choice(slices, n),
         "model": shared, "bias only": shared * (1 + gain) + rng.normal(0, 0.1, n),
         "item mean": shared * 1.3}
    )  # fmt: skip


def test_overall_gains(spark, rng):
    frame = scored(rng)
    frame.loc[3, "model"] = np.nan
    found = overall_gains(spark.createDataFrame(frame), "model", ["bias only", "item mean"])
    rows = found.toPandas().set_index("baseline")
    known = frame.drop(index=3)
    rmse = np.sqrt((known[["model", "bias only", "item mean"]] ** 2).mean())
    for name in ("bias only", "item mean"):
        row = rows.loc[name]
        assert row["n"] == len(known)
        assert row["rmse"] == pytest.approx(rmse["model"])
        assert row["gain"] == pytest.approx(rmse[name] - rmse["model"])
        assert 0 < row["low"] < row["gain"] < row["high"]
    nothing = spark.createDataFrame(frame.assign(model=np.nan))
    assert overall_gains(nothing, "model", ["bias only"]).isEmpty()


def test_slice_gains_by_hand_and_as_the_bootstrap_has_them(spark, rng):
    frame = scored(rng, slices=("a",))
    table = spark.createDataFrame(frame)
    row = gains_by_slice(table, "model", "bias only").toPandas().iloc[0]
    squares = frame[["model", "bias only"]] ** 2
    sums, n = squares.groupby(frame["user"]).sum(), frame.groupby("user").size()
    means = squares.mean()
    moved = {
        name: (sums[name] - means[name] * n) / (2 * len(frame) * np.sqrt(means[name]))
        for name in squares
    }
    half = 1.959964 * np.sqrt(((moved["bias only"] - moved["model"]) ** 2).sum())
    gain = np.sqrt(means["bias only"]) - np.sqrt(means["model"])
    assert row["gain"] == pytest.approx(gain)
    assert (row["low"], row["high"]) == pytest.approx((gain - half, gain + half), abs=1e-7)
    assert (row["n"], row["n_users"]) == (len(frame), 200)
    drawn = overall_gains(table, "model", ["bias only"]).first()
    assert row["high"] - row["low"] == pytest.approx(drawn["high"] - drawn["low"], rel=0.15)


def test_intervals_hold_the_truth_of_all_slices_together(spark):
    """Of a hundred worlds with ten slices each some five may have one interval beside the truth."""
    rng = np.random.default_rng(3)
    worlds = []
    for world in range(100):
        frame = scored(rng, 150, gain=0.0, slices=list("abcdefghij"))
        # In truth none is better: one predictor's error is the other's with a coin thrown.
        swap = rng.random(len(frame)) < 0.5
        both = frame[["model", "bias only"]].to_numpy(copy=True)
        both[swap] = both[swap][:, ::-1]
        worlds.append(frame.assign(**{"model": both[:, 0], "bias only": both[:, 1]}, world=world))
    everything = pd.concat(worlds)
    table = spark.createDataFrame(
        everything.assign(value=everything["value"] + everything["world"].astype(str))
    )
    # Intervals of a thousand slices are wider than those of ten: made narrower by what that is.
    found = gains_by_slice(table, "model", "bias only").toPandas()
    z = NormalDist().inv_cdf
    narrower = z(1 - 0.025 / 10) / z(1 - 0.025 / 1000)
    half = (found["high"] - found["low"]) / 2 * narrower
    outside = (found["gain"].abs() > half).groupby(found["value"].str[1:]).any()
    assert outside.sum() <= 12


def test_slices_of_few_users_have_no_interval(spark, rng):
    frame = scored(rng, n_users=10)
    row = gains_by_slice(spark.createDataFrame(frame), "model", "bias only").first()
    assert row["n_users"] == 10
    assert row["low"] is None
    assert row["high"] is None
    same = spark.createDataFrame(scored(rng)).withColumn("bias only", F.col("model"))
    row = gains_by_slice(same, "model", "bias only").first()
    assert (row["gain"], row["low"], row["high"]) == (0.0, 0.0, 0.0)
