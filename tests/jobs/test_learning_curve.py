"""The learning curve: the job on planted factors, its figures by hand, and what it says of them."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F
from running import make_planted_ratings, run_job

from mfspark import BiasedALS, BiasOnly
from mfspark.data.split import uniform
from mfspark.report.learning_page import learning_verdict

CONFIG = """
[run]
name = "r"
[data]
path = "ratings.csv"
unit = "points"
[split]
test = 0.2
[als]
rank = 2
max_iter = 6
reg_param = 1.0
bias_reg_param = 1.0
cold_start_strategy = "drop"
[learning_curve]
shares = [0.5, 0.2]
"""


def test_error_falls_with_the_share_of_the_ratings(spark, tmp_path):
    make_planted_ratings(tmp_path / "ratings.csv", n_users=200, n_items=60)
    (tmp_path / "run.toml").write_text(CONFIG)
    result = run_job(spark, "learning_curve", tmp_path / "run.toml")
    assert result.returncode == 0, result.stdout[-3000:]
    table = pd.read_parquet(tmp_path / "runs/r/learning_curve/learning_curve")
    table = table.sort_values("share").set_index("share")
    assert list(table.index) == [0.2, 0.5, 1.0]
    assert table["rmse"].is_monotonic_decreasing
    assert table.loc[1.0, "rmse"] < 0.85 * table.loc[1.0, "bias_only_rmse"]
    # By hand: the same rows, fitted and measured outside the job.
    ratings = spark.read.parquet(str(tmp_path / "runs/r/ratings/train"))
    test = spark.read.parquet(str(tmp_path / "runs/r/ratings/test"))
    own = ratings.where(uniform(1_000_003) < 0.2)
    assert table.loc[0.2, "n_ratings"] == own.count()
    n = ratings.count()
    np.testing.assert_allclose(table["n_ratings"] / n, [0.2, 0.5, 1], atol=0.02)
    squares = {}
    for share in (0.2, 1.0):
        rows = ratings.where(uniform(1_000_003) < share)
        model = BiasedALS(rank=2, maxIter=6, regParam=1.0, biasRegParam=1.0).fit(rows)
        squares[share] = model.transform(test).toPandas().eval("(prediction - rating) ** 2")
        assert table.loc[share, "rmse"] == pytest.approx(np.sqrt(squares[share].mean()), rel=1e-4)
    gain = table.loc[0.2, "rmse"] - table.loc[1.0, "rmse"]
    assert table.loc[0.2, "gain"] == pytest.approx(gain)
    assert table.loc[0.2, "low"] < gain < table.loc[0.2, "high"]
    assert np.isnan(table.loc[1.0, "gain"])
    biases = BiasOnly(coldStartStrategy="baseline").fit(own).transform(test)
    error = (F.col("prediction") - F.col("rating")) ** 2
    assert table.loc[0.2, "bias_only_rmse"] == pytest.approx(
        biases.agg(F.sqrt(F.avg(error))).first()[0], rel=1e-4
    )
    page = (tmp_path / "runs/r/learning_curve/index.html").read_text(encoding="utf-8")
    assert "From 50% to all of the ratings RMSE falls by" in page
    assert "more ratings would help" in result.stdout
    again = run_job(spark, "learning_curve", tmp_path / "run.toml")
    assert again.returncode == 2
    assert "runs/r/learning_curve exists" in again.stdout


def test_what_is_said_of_a_curve():
    curve = pd.DataFrame(
        {"share": [0.5, 1.0], "n_ratings": [100, 200], "gain": [0.02, None], "low": [0.01, None],
         "high": [0.03, None]}
    )  # fmt: skip
    assert learning_verdict(curve, "points") == (
        "From 50% to all of the ratings RMSE falls by 0.0200 points (paired interval of the gain "
        "0.0100 to 0.0300), which is 0.0200 for twice as many: more ratings would help."
    )
    curve.loc[0, ["gain", "low"]] = [-0.002, -0.01]
    verdict = learning_verdict(curve, "points")
    assert "RMSE rises by 0.0020 points (paired interval of the gain −0.0100 to 0.0300)" in verdict
    assert "may be chance" in verdict
    assert learning_verdict(curve[1:], "points").startswith("There is one share")


def test_without_test_ratings(spark, tmp_path):
    make_planted_ratings(tmp_path / "ratings.csv", n_users=30, n_items=20)
    (tmp_path / "run.toml").write_text(CONFIG.replace("test = 0.2", "test = 0.0"))
    result = run_job(spark, "learning_curve", tmp_path / "run.toml")
    assert result.returncode == 3
    assert "ratings/test is empty: there is nothing to measure; raise split.test" in result.stdout
