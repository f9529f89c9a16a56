"""Comparisons against numpy: paired bootstrap, common rows, verdicts, the blend."""

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark.errors import DataError
from mfspark.evaluation.blend import fit_blend
from mfspark.evaluation.comparison import compare, resample

N_USERS = 150


@pytest.fixture(scope="module")
def wide() -> pd.DataFrame:
    """Test rows with the predictions of models that err together within a user."""
    rng = np.random.default_rng(4)
    user = np.repeat(np.arange(N_USERS), rng.integers(1, 30, N_USERS))
    n = len(user)
    truth = rng.normal(3.5, 1, n)
    own = rng.normal(0, 0.3, N_USERS)[user]
    good = truth + own + rng.normal(0, 0.8, n)
    frame = pd.DataFrame({"user": user, "item": np.arange(n), "rating": truth, "good": good})
    frame["same"] = frame["good"]
    frame["near"] = good + rng.normal(0, 0.06, n)
    frame["bad, with a comma"] = truth + own + rng.normal(0, 1.1, n)
    return frame


def long_form(spark, frame: pd.DataFrame):
    long = frame.melt(["user", "item", "rating"], var_name="predictor", value_name="predicted")
    return spark.createDataFrame(long.assign(fold=0))


def test_resamples_agree_with_the_bootstrap_by_its_definition(spark, wide):
    models = ["bad, with a comma", "good", "near"]
    squares = wide[models].sub(wide["rating"], axis=0) ** 2
    sums = squares.groupby(wide["user"]).sum()
    counts = wide.groupby("user").size()
    table = spark.createDataFrame(
        [(int(u), float(counts[u]), [float(v) for v in sums.loc[u]]) for u in sums.index],
        "user long, n double, squares array<double>",
    )
    found = resample(table.repartition(3), 3, 4000, seed=1)
    np.testing.assert_allclose(found, resample(table.coalesce(1), 3, 4000, seed=1), rtol=1e-12)
    assert not np.allclose(found, resample(table, 3, 4000, seed=2))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, N_USERS, (4000, N_USERS))
    expected = np.sqrt(
        sums.to_numpy()[drawn].sum(axis=1) / counts.to_numpy()[drawn].sum(axis=1)[:, None]
    )
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=2e-3)
    np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), rtol=0.06)
    difference = found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1]
    for quantile in (2.5, 97.5):
        ends = [np.percentile(each, quantile) for each in difference]
        assert ends[0] == pytest.approx(ends[1], abs=0.06 * difference[1].std() * 2)


def test_verdicts(spark, wide):
    found = compare(long_form(spark, wide), resamples=500, seed=0)
    metrics = found.metrics.toPandas().set_index("predictor")
    for name in metrics.index:
        error = wide[name] - wide["rating"]
        assert metrics.loc[name, "rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert metrics.loc[name, "mae"] == pytest.approx(error.abs().mean())
    rows = found.differences.toPandas()
    assert len(rows) == 6
    pairs = {frozenset((row.better, row.worse)): row for row in rows.itertuples()}
    clear = pairs[frozenset(("good", "bad, with a comma"))]
    assert (clear.better, clear.is_clear) == ("good", True)
    assert 0 < clear.low < clear.difference < clear.high
    assert clear.verdict.startswith("good is better than bad, with a comma: RMSE lower by 0.")
    equal = pairs[frozenset(("good", "same"))]
    assert (equal.difference, equal.low, equal.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert not equal.is_clear
    assert equal.verdict.startswith("no clear difference between ")
    # All six pairs together: 1.35 times as wide as that of one pair would be.
    squares = (wide[["good", "bad, with a comma"]].sub(wide["rating"], axis=0)) ** 2
    sums, n = squares.groupby(wide["user"]).sum(), wide.groupby("user").size()
    means = squares.mean()
    moved = (sums - np.outer(n, means)) / (2 * len(wide) * np.sqrt(means))
    alone = np.sqrt(((moved.iloc[:, 1] - moved.iloc[:, 0]) ** 2).sum())
    z = NormalDist().inv_cdf(1 - 0.025 / 6)
    assert clear.high - clear.low == pytest.approx(2 * z * alone, rel=0.15)
    # Paired: far narrower than the intervals of both models alone.
    near = pairs[frozenset(("good", "near"))]
    alone = metrics.loc["good", "rmse_high"] - metrics.loc["good", "rmse_low"]
    assert near.high - near.low < 0.2 * alone


def test_only_rows_that_all_models_score_are_compared(spark, wide):
    frame = wide[["user", "item", "rating", "good", "near"]].copy()
    frame.loc[frame.index[:40], "near"] = np.nan
    frame.loc[frame.index[:10], "good"] = 1000.0
    metrics = compare(long_form(spark, frame), 100, 0).metrics.toPandas().set_index("predictor")
    n, columns = len(frame), ["n", "n_unscored", "n_common"]
    assert list(metrics.loc["near", columns]) == [n - 40, 40, n - 40]
    assert list(metrics.loc["good", columns]) == [n, 0, n - 40]
    rest = frame[40:]
    assert metrics.loc["good", "rmse"] == pytest.approx(
        np.sqrt(((rest["good"] - rest["rating"]) ** 2).mean())
    )


@pytest.mark.parametrize("reg_param", [0.0, 0.05])
def test_blend_is_ridge_regression(spark, wide, reg_param):
    members = ["good", "bad, with a comma"]
    frame = wide.copy()
    frame.loc[frame.index[0], "good"] = np.nan
    blend = fit_blend(long_form(spark, frame), members, reg_param)
    rows = frame[1:]
    x, y = rows[members].to_numpy(), rows["rating"].to_numpy()
    scale, centred = x.std(axis=0, ddof=1), x - x.mean(axis=0)
    z = centred / scale
    # The penalty is on weights of predictions scaled to variance 1; ratings are scaled as well.
    spread = y.std(ddof=1)
    gram = z.T @ z / len(y) + reg_param / spread * np.eye(2)
    weights = np.linalg.solve(gram, z.T @ (y - y.mean()) / len(y)) / scale
    np.testing.assert_allclose(list(blend.weights.values()), weights, rtol=2e-3)
    assert blend.intercept == pytest.approx(y.mean() - x.mean(axis=0) @ weights, abs=0.02)
    found = blend.predict(long_form(spark, frame)).orderBy("item").toPandas()
    assert list(found.columns) == ["user", "item", "rating", "predicted"]
    expected = blend.intercept + frame[members].to_numpy() @ np.array(list(blend.weights.values()))
    np.testing.assert_allclose(found["predicted"], expected, rtol=1e-9)
    assert np.isnan(found["predicted"].iloc[0])


def test_blend_is_better_than_its_members(spark, wide):
    half = F.col("user") % 2 == 0
    rows = long_form(spark, wide)
    blend = fit_blend(rows.where(half), ["good", "bad, with a comma"], 0.001)
    found = blend.predict(rows.where(~half)).toPandas()
    best = wide[wide["user"] % 2 == 1]
    rmse = np.sqrt(((found["predicted"] - found["rating"]) ** 2).mean())
    assert rmse < 0.95 * np.sqrt(((best["good"] - best["rating"]) ** 2).mean())


def test_too_few_validation_ratings_for_a_blend(spark, wide):
    with pytest.raises(DataError, match=r"found 2 validation ratings .* raise split.validation"):
        fit_blend(long_form(spark, wide[:2]), ["good", "near"], 0.1)
