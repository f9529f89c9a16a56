"""Metrics against plain pandas, with every test row accounted for."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BiasOnly
from mfspark.columns import Side
from mfspark.evaluation.metadata_slices import has_classes
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


def measured(model, train, test, **known):
    return evaluate(model, BiasOnly().fit(train), train, test, **known)


def rated(train):
    counts = F.count("*").alias("n_ratings")
    return {side: train.groupBy(side).agg(counts) for side in ("user", "item")}


def test_baselines_against_pandas(parts):
    train, test, train_table, test_table = parts
    found = (
        add_baselines(test_table, train_table, BiasOnly().fit(train_table))
        .toPandas()
        .set_index(["user", "item"])
    )
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
    metrics = measured(model, train_table, test_table).metrics.toPandas()
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
        measured(model, train_table, test_table).metrics.where("predictor = 'model'").toPandas()
    )
    for _, rows in metrics.groupby("slice"):
        assert rows["n"].sum() == len(test)
    cold = metrics[metrics["slice"] == "cold start"].set_index("value")["n"].to_dict()
    assert cold == {"warm": len(test) - 3, "cold user": 1, "cold item": 1, "cold user and item": 1}
    scored = test_table.withColumn("guess", F.lit(3.0)).withColumn("timestamp", F.lit(86400 * 365))
    slices = (
        add_slices(scored, rated(train_table), "guess").where("user = 100 and item = -1").first()
    )
    n = (train["user"] == 100).sum()
    assert n >= 10
    assert {entry["slice"]: entry["value"] for entry in slices["slices"]} == {
        "all": "all test ratings", "user activity": "10–49" if n < 50 else "50–199",
        "item popularity": "0", "predicted value": "3 to 3", "cold start": "cold item",
        "time": "1971-01-01 to 1971-01-01",
    }  # fmt: skip


def test_classes_of_predictions_and_of_time_are_of_equal_size(spark, parts):
    _, _, train_table, _ = parts
    rows = spark.range(1000).select(
        F.lit(1).alias("user"), F.col("id").alias("item"), F.lit(3.0).alias("rating"),
        F.when(F.col("id") < 900, F.col("id") / 100).otherwise(float("nan")).alias("guess"),
        (F.col("id") * 86400).alias("timestamp"),
    )  # fmt: skip
    members = add_slices(rows, rated(train_table), "guess").select(F.inline("slices"))
    counts = members.groupBy("slice", "value").count().toPandas()
    predicted = counts[counts["slice"] == "predicted value"].set_index("value")["count"]
    assert predicted["unknown"] == 100
    assert len(predicted) == 11
    assert predicted.drop("unknown").between(80, 100).all()
    assert predicted["0 to 0.89"] in range(80, 100)
    times = counts[counts["slice"] == "time"].set_index("value")["count"]
    assert times.between(195, 205).all()
    assert "1970-01-01 to 1970-07-19" in set(times.index)
    without = rows.withColumn("guess", F.lit(float("nan")))
    nothing = add_slices(without, rated(train_table), "guess")
    kinds = {row[0] for row in nothing.select(F.inline("slices")).select("slice").collect()}
    assert "predicted value" not in kinds


def test_calibration_against_pandas(model, parts):
    _, test, train_table, test_table = parts
    found = measured(model, train_table, test_table).calibration.toPandas()
    assert len(found) == 10
    assert found["n"].sum() == len(test)
    assert found["predicted"].is_monotonic_increasing
    scored = model.transform(test_table).toPandas()
    weights = found["n"] / found["n"].sum()
    assert (weights * found["predicted"]).sum() == pytest.approx(scored["prediction"].mean())
    assert (weights * found["rating"]).sum() == pytest.approx(scored["rating"].mean())
    np.testing.assert_allclose(found["bias"], found["predicted"] - found["rating"], atol=1e-12)


def test_residuals_against_pandas(model, parts):
    _, _, train_table, test_table = parts
    found = measured(model, train_table, test_table)
    scored = model.transform(test_table).toPandas()
    residual = scored["prediction"] - scored["rating"]
    counts = found.residuals.where("predictor = 'model'").toPandas().set_index("residual")["n"]
    expected = (residual / 0.25).round().mul(0.25).value_counts()
    assert counts.sum() == len(residual)
    # Halves may be rounded either way.
    assert abs(counts.sub(expected, fill_value=0)).sum() <= 0.02 * len(residual)
    misses = found.misses.toPandas().set_index(["predictor", "share"])["within"]
    assert set(misses.index.get_level_values(0)) == {"model", "bias only"}
    for share in (0.5, 0.8, 0.9, 0.95):
        covered = (residual.abs() <= misses["model", share]).mean()
        assert covered == pytest.approx(share, abs=0.02)


def test_slices_by_metadata(spark, parts, model):
    _, test, train_table, test_table = parts
    frame = pd.DataFrame({"item": sorted(set(test["item"]))})
    places = list(frame.index)
    frame["genres"] = [["odd", "all"] if n % 2 else ["all"] if n % 3 else None for n in places]
    frame["year"] = [1950 + n for n in places]
    frame["half.price"] = [n % 4 / 2 for n in places]
    frame["kind"] = [f"k{n % 3}" if n % 5 else None for n in places]
    frame["is_new"] = [n > 10 for n in places]
    frame["poster"] = [b"x" for _ in places]
    items = spark.createDataFrame(
        frame,
        "item long, genres array<string>, year int, `half.price` double, kind string, "
        "is_new boolean, poster binary",
    )
    stranger = test["user"].iloc[0]
    users = spark.createDataFrame(
        [(int(u), f"town {u}") for u in set(test["user"]) if u != stranger],
        "user long, town string",
    )
    known = {Side.ITEM: items, Side.USER: users}
    metrics = measured(model, train_table, test_table, known=known).metrics
    rows = metrics.where("predictor = 'model'").toPandas()
    found = {name: part.set_index("value") for name, part in rows.groupby("slice")}
    names = {"item genres", "item year", "item half.price", "item kind", "item is_new"}
    assert {name for name in found if name.startswith("item ")} == names | {"item popularity"}
    scored = model.transform(test_table).toPandas()
    place = scored["item"].map({item: n for n, item in enumerate(frame["item"])})
    squares = (scored["prediction"] - scored["rating"]) ** 2

    def holds(name, value, chosen):
        assert found[name].loc[value, "n"] == chosen.sum()
        rmse = np.sqrt(squares[chosen].mean())
        assert found[name].loc[value, "rmse"] == pytest.approx(rmse)

    holds("item genres", "odd", place % 2 == 1)
    holds("item genres", "all", (place % 2 == 1) | (place % 3 != 0))
    holds("item genres", "unknown", (place % 2 == 0) & (place % 3 == 0))
    holds("item half.price", "1.5", place % 4 == 3)
    holds("item kind", "k1", (place % 3 == 1) & (place % 5 != 0))
    holds("item is_new", "true", place > 10)
    assert found["item year"]["n"].sum() == len(scored)
    assert len(found["item year"]) == 5
    # As many towns as users: the most frequent ones, the others together, and one unknown.
    assert len(found["user town"]) == 22
    assert found["user town"]["n"].sum() == len(test)
    assert found["user town"].loc["unknown", "n"] == (test["user"] == stranger).sum()


def test_which_columns_divide_items_into_classes(spark):
    rows = [
        (n, f"title {n}", f"kind {n % 7}", "same", [f"tag {n}"], float(n), b"x") for n in range(99)
    ]
    table = spark.createDataFrame(
        rows, "item long, title string, kind string, same string, tags array<string>, n double, "
        "raw binary",
    )  # fmt: skip
    chosen = [name for name in table.columns if has_classes(table, name)]
    assert chosen == ["item", "kind", "tags", "n"]


@pytest.mark.parametrize("strategy", ["nan", "drop"])
def test_unscored_rows_are_counted_not_dropped(model, parts, strategy):
    _, test, train_table, test_table = parts
    stern = model.copy({model.coldStartStrategy: strategy})
    metrics = measured(stern, train_table, test_table).metrics
    row = metrics.where("predictor = 'model' and slice = 'all'").first()
    assert (row["n"], row["n_unscored"]) == (len(test) - 3, 3)
    cold = metrics.where("predictor = 'model' and value = 'cold user'").first()
    assert (cold["n"], cold["n_unscored"], cold["rmse"]) == (0, 1, None)


def test_histogram_counts_ratings_and_predictions(model, parts):
    _, test, train_table, test_table = parts
    histogram = measured(model, train_table, test_table).histogram
    sums = histogram.agg(F.sum("n_test"), F.sum("n_predicted")).first()
    assert tuple(sums) == (len(test), len(test))


def test_bars_of_long_scales(spark):
    """Ratings of 0 to 100 have twenty classes, not two hundred."""
    rows = spark.range(400).select(
        (F.col("id") % 20).alias("user"), F.floor(F.col("id") / 20).alias("item"),
        (F.pmod(F.hash("id"), F.lit(101)) + 0.0).alias("rating"),
    )  # fmt: skip
    model = BiasOnly().fit(rows)
    histogram = measured(model, rows, rows).histogram.toPandas()
    assert len(histogram) <= 21
    low, high = model.metadata.rating_scale
    np.testing.assert_allclose(np.diff(histogram["rating"].unique()).min(), (high - low) / 20)
