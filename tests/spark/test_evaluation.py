"""Metrics against plain pandas, with every test row accounted for."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BiasOnly
from mfspark.evaluation.ratings import add_baselines, evaluate, rating_metrics
from mfspark.evaluation.slices import add_slices


@pytest.fixture(scope="module")
def parts(spark, ratings_frame):
    rng = np.random.default_rng(2)
    frame = ratings_frame.assign(rating=ratings_frame["rating"].clip(1, 5).round(1))
    is_test = rng.random(len(frame)) < 0.3
    cold = pd.DataFrame({"user": [-1, 100, -1], "item": [5, -1, -1], "rating": [2.0, 3.0, 4.5]})
    train, test = frame[~is_test], pd.concat([frame[is_test], cold])
    return train, test, spark.createDataFrame(train), spark.createDataFrame(test)


def test_baselines_against_pandas(parts):
    train, test, train_table, test_table = parts
    found = add_baselines(test_table, train_table).toPandas().set_index(["user", "item"])
    mean = train["rating"].mean()
    by_item = train.groupby("item")["rating"]
    users, items = pd.get_dummies(train["user"]), pd.get_dummies(train["item"])
    design = np.column_stack([users, items]).astype(float)
    normal = design.T @ design + BiasOnly().settings().damping * np.eye(design.shape[1])
    joint = np.linalg.solve(normal, design.T @ (train["rating"] - mean))
    b_u = pd.Series(joint[: users.shape[1]], users.columns)
    b_i = pd.Series(joint[users.shape[1] :], items.columns)
    for row in test.itertuples():
        line = found.loc[(row.user, row.item)]
        assert line["global mean"] == pytest.approx(mean)
        assert line["item mean"] == pytest.approx(by_item.mean().get(row.item, mean))
        assert line["bias only"] == pytest.approx(
            mean + b_i.get(row.item, 0) + b_u.get(row.user, 0), abs=5e-4
        )


def test_overall_figures_against_pandas(model, parts):
    _, test, train_table, test_table = parts
    metrics = evaluate(model, train_table, test_table).metrics.toPandas()
    scored = model.transform(test_table).toPandas()
    error = scored["prediction"] - scored["rating"]
    row = metrics.query("predictor == 'model' and slice == 'all'").iloc[0]
    assert row["n"] == len(test)
    assert row["n_unscored"] == 0
    assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert row["mae"] == pytest.approx(error.abs().mean())
    # The interval of a mean of user sums, by its definition.
    squares = (error**2).groupby(scored["user"])
    sums, counts = squares.sum(), squares.size()
    mean = (error**2).mean()
    half = 1.959964 * np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum()
    assert row["rmse_low"] == pytest.approx(np.sqrt(mean - half))
    assert row["rmse_high"] == pytest.approx(np.sqrt(mean + half))
    assert set(metrics["predictor"]) == {"model", "bias only", "item mean", "global mean"}


def test_intervals_cover_the_truth_about_as_often_as_they_say(spark):
    """Users of very different size, errors that go together within a user: 95 of 100 is the aim."""
    rng = np.random.default_rng(0)
    rows = []
    for trial in range(300):
        n = rng.integers(1, 20, 60)
        user = np.repeat(np.arange(60), n)
        error = rng.normal(0, 0.7, 60)[user] + rng.normal(0, 0.7, len(user))
        rows.append(pd.DataFrame({"user": user, "predicted": error, "value": str(trial)}))
    frame = pd.concat(rows).assign(rating=0.0, slice="trial", predictor="model")
    found = rating_metrics(spark.createDataFrame(frame)).toPandas()
    truth = np.sqrt(2 * 0.7**2)
    covered = ((found["rmse_low"] <= truth) & (truth <= found["rmse_high"])).mean()
    assert 0.88 < covered < 0.98


def test_slices_partition_the_test_rows(parts, model):
    train, test, train_table, test_table = parts
    metrics = (
        evaluate(model, train_table, test_table).metrics.where("predictor = 'model'").toPandas()
    )
    for _, rows in metrics.groupby("slice"):
        assert rows["n"].sum() == len(test)
    cold = metrics[metrics["slice"] == "cold start"].set_index("value")["n"].to_dict()
    assert cold == {"warm": len(test) - 3, "cold user": 1, "cold item": 1, "cold user and item": 1}
    slices = add_slices(test_table, train_table).where("user = 100 and item = -1").first()["slices"]
    n = (train["user"] == 100).sum()
    assert n >= 10
    assert {entry["slice"]: entry["value"] for entry in slices} == {
        "all": "all test ratings", "user activity": "10–49" if n < 50 else "50–199",
        "item popularity": "0", "rating value": "3", "cold start": "cold item",
    }  # fmt: skip


@pytest.mark.parametrize("strategy", ["nan", "drop"])
def test_unscored_rows_are_counted_not_dropped(model, parts, strategy):
    _, test, train_table, test_table = parts
    stern = model.copy({model.coldStartStrategy: strategy})
    metrics = evaluate(stern, train_table, test_table).metrics
    row = metrics.where("predictor = 'model' and slice = 'all'").first()
    assert (row["n"], row["n_unscored"]) == (len(test) - 3, 3)
    cold = metrics.where("predictor = 'model' and value = 'cold user'").first()
    assert (cold["n"], cold["n_unscored"], cold["rmse"]) == (0, 1, None)


def test_histogram_counts_ratings_and_predictions(model, parts):
    _, test, train_table, test_table = parts
    histogram = evaluate(model, train_table, test_table).histogram
    sums = histogram.agg(F.sum("n_test"), F.sum("n_predicted")).first()
    assert tuple(sums) == (len(test), len(test))
