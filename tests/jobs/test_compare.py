"""The compare job as users run it, on ratings with string ids and Windows line ends."""

import re

import pandas as pd
import pytest
from check_page import faults_of_page, find_browser
from running import make_ratings, run_job

CONFIG = """
[run]
name = "mine"
[data]
path = "ratings.csv"
users_path = "users.csv"
[split]
validation = 0.15
[train]
user_features = ["age"]
[als]
rank = 2
max_iter = 4
[bayes]
rank = 2
max_iter = 30
tol = 0.0
[compare]
resamples = 200
models = [
  "global_mean", "bias_only", "item_knn", "als", "bayes", "mllib", "blend",
  { kind = "sgd", name = "SGD, three epochs", rank = 2, max_iter = 3 },
]
[blend]
members = ["als", "item_knn", "mllib"]
"""


@pytest.fixture(scope="module")
def compared(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    make_ratings(folder / "ratings.csv")
    ages = [f"u{n},{20 + n % 40}" for n in range(101)]
    (folder / "users.csv").write_text("user,age\n" + "\n".join(ages) + "\n")
    (folder / "run.toml").write_text(CONFIG)
    return folder, run_job(spark, "compare", folder / "run.toml")


def test_tables_and_headline(compared):
    folder, result = compared
    assert result.returncode == 0, result.stdout[-3000:]
    assert "1 features of users; of 101 that have ratings 101 have features" in result.stdout
    comparison = folder / "runs/mine/comparison"
    left = {entry.name for entry in comparison.iterdir()}
    assert left == {
        "predictions", "models", "differences", "folds", "curves", "weights", "ranking",
        "ranking_users", "index.html",
    }  # fmt: skip
    models = pd.read_parquet(comparison / "models").set_index("predictor")
    alive = models[models["state"] == "succeeded"]
    assert set(alive.index) == {
        "global mean", "bias only", "item kNN", "ALS", "Bayesian MF", "SGD, three epochs", "blend",
    }  # fmt: skip
    assert (alive["n_common"] == len(pd.read_parquet(folder / "runs/mine/ratings/test"))).all()
    assert (alive[["fit_seconds", "predict_seconds", "parameters"]] > 0).all(axis=None)
    n_rows = models.loc["bias only", "parameters"] - 1
    assert models.loc["ALS", "parameters"] == 3 * n_rows + 1
    assert len(pd.read_parquet(comparison / "differences")) == 21
    predictions = pd.read_parquet(comparison / "predictions")
    assert (predictions.groupby("predictor").size() == alive["n"].iloc[0]).all()
    assert "Report: runs/mine/comparison/index.html" in result.stdout
    # The ratings have no structure that a model could find: a verdict for each pair of neighbours.
    verdicts = re.findall(r" is better than |no clear difference between ", result.stdout)
    assert len(verdicts) == len(alive) - 1


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH")
def test_the_page_in_a_browser(compared):
    page = compared[0] / "runs/mine/comparison/index.html"
    assert faults_of_page(page, find_browser()) == []


def test_lists_of_all_models_are_measured(compared):
    folder, result = compared
    ranking = pd.read_parquet(folder / "runs/mine/comparison/ranking")
    models = pd.read_parquet(folder / "runs/mine/comparison/models")
    alive = set(models.loc[models["state"] == "succeeded", "predictor"])
    assert set(ranking["predictor"]) == alive | {"popularity"}
    ndcg = ranking[(ranking["measure"] == "NDCG") & (ranking["k"] == 10)]
    assert ndcg.set_index("predictor").loc["ALS", ["low", "value", "high"]].is_monotonic_increasing
    assert ranking.loc[ranking["measure"] == "diversity", "value"].isna().all()
    assert "NDCG@10" in result.stdout
    assert set(ranking["candidates"]) == {"items of the test part and 100 others"}
    page = (folder / "runs/mine/comparison/index.html").read_text()
    assert "Lists of 10" in page
    assert "<td>popularity</td>" in page


def test_a_model_that_fails_says_why_and_takes_no_other_along(compared):
    folder, result = compared
    models = pd.read_parquet(folder / "runs/mine/comparison/models").set_index("predictor")
    # pyspark.ml ALS has no string ids.
    assert models.loc["pyspark.ml ALS", "state"] == "failed"
    reason = models.loc["pyspark.ml ALS", "reason"]
    assert "user" in reason
    assert pd.isna(models.loc["pyspark.ml ALS", "rmse"])
    assert f"pyspark.ml ALS failed: {reason}" in result.stdout
    weights = pd.read_parquet(folder / "runs/mine/comparison/weights")
    assert list(weights["member"]) == ["intercept", "item kNN", "ALS"]
    page = (folder / "runs/mine/comparison/index.html").read_text()
    assert "<b>pyspark.ml ALS failed.</b>" in page


def test_curves_count_passes_over_the_ratings(compared):
    folder, _ = compared
    curves = pd.read_parquet(folder / "runs/mine/comparison/curves")
    by_model = curves.groupby("predictor")
    passes = by_model["passes"].agg(list).to_dict()
    assert passes["SGD, three epochs"] == [1, 2, 3]
    # Two half-steps for each iteration, as many as validation allowed.
    assert passes["ALS"] == list(range(1, len(passes["ALS"]) + 1))
    assert len(passes["ALS"]) in (4, 6, 8)
    # Two passes for each sweep, measured after five of them each time.
    assert passes["Bayesian MF"] == [30, 40, 50, 60]
    assert set(curves["part"]) == {"validation"}
    assert by_model["seconds"].apply(lambda seconds: seconds.is_monotonic_increasing).all()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ('["als","als"]', "compare.models has 'ALS' more than once"),
        ('["blend","als"]', None),
        ('[{kind="alls"}]', "compare.models[0] has the kind 'alls'; known are als, sgd"),
        ('[{kind="als",rnk=3}]', "unknown key 'compare.models[0].rnk'; did you mean 'rank'?"),
        ('[{kind="als",name="popularity"}]', "a model with the name 'popularity'"),
        ('["blend","bias_only"]', "none of the members of 'blend'"),
    ],
)
def test_models_are_checked_before_anything_runs(tmp_path, models, message):
    from mfspark.app.compare import entries_of
    from mfspark.app.config import load_config
    from mfspark.app.run_directory import RunDirectory
    from mfspark.errors import ConfigError

    (tmp_path / "run.toml").write_text(CONFIG)
    run = RunDirectory(load_config(str(tmp_path / "run.toml"), [f"compare.models={models}"]))
    if message is None:
        assert [entry.name for entry in entries_of(run)] == ["ALS", "blend"]
        return
    with pytest.raises(ConfigError) as error:
        entries_of(run)
    assert message in str(error.value)
