"""What factors are called: planted attributes are named, noise is not; figures against SciPy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mfspark import BiasedALS
from mfspark.errors import ConfigError
from mfspark.interpretation.readings import NO_READING, correlations, interval, read_factors
from mfspark.interpretation.stability import factor_stability

N_USERS, N_ITEMS = 400, 120


@pytest.fixture(scope="module")
def described(spark):
    """Loadings of a factor that is art against action, one that is the year, and noise."""
    rng = np.random.default_rng(0)
    n = 300
    is_art, year = rng.random(n) < 0.5, rng.integers(1950, 2000, n)
    first = np.where(is_art, 1, -1) + rng.normal(0, 0.6, n)
    second = (year - 1975) / 15 + rng.normal(0, 1.0, n)
    frame = pd.DataFrame({"item": np.arange(n), "n_ratings": rng.integers(20, 500, n)})
    frame["factors"] = np.column_stack([first, second, rng.normal(0, 1, n)]).tolist()
    frame["year"] = [None if k % 10 == 0 else int(y) for k, y in enumerate(year)]
    extra = rng.random((n, 12)) < 0.2
    frame["genres"] = [
        # One genre that is too rare to be looked at.
        ["Art" if art else "Action", *[f"g{k}" for k in range(12) if row[k]], *(n < 6) * ["Rare"]]
        for n, (art, row) in enumerate(zip(is_art, extra, strict=True))
    ]
    schema = "item long, n_ratings long, factors array<float>, year double, genres array<string>"
    plain = frame.astype(object).where(frame.notna(), None)
    return frame, spark.createDataFrame([tuple(row) for row in plain.to_numpy()], schema)


@pytest.fixture(scope="module")
def nobody_knows(spark):
    return spark.createDataFrame([], "factor int, is_stable boolean")


def test_planted_attributes_are_named_and_noise_is_not(spark, described, nobody_knows):
    found = read_factors(described[1], nobody_knows, {})
    labels = {row["factor"]: row for row in found.factor_labels.collect()}
    assert labels[1]["label"] in ("Art against Action", "Action against Art")
    assert labels[2]["label"] == "newer against older"
    assert labels[3]["label"] == NO_READING
    assert labels[1]["r2"] > 0.6
    assert labels[3]["r2"] < 0.1
    rows = found.factor_metadata.toPandas()
    assert "Rare" not in set(rows["value"])
    assert rows[rows["factor"] == 3]["is_clear"].sum() <= 1
    unstable = spark.createDataFrame(
        [(1, False), (2, True), (3, True)], "factor int, is_stable boolean"
    )
    given = read_factors(described[1], unstable, {"3": "my own"}).factor_labels.collect()
    assert {row["factor"]: row["label"] for row in given} == {
        1: NO_READING, 2: "newer against older", 3: "my own"
    }  # fmt: skip


def test_other_columns_name_factors_too(spark, nobody_knows):
    """Text makes classes, numbers ends; what has too many values, or one, is left out."""
    rng = np.random.default_rng(4)
    n = 200
    maker, price = rng.choice(["Acme", "Bolt", "Cobb"], n), rng.lognormal(3, 0.5, n)
    first = np.where(maker == "Acme", 1.5, 0) + rng.normal(0, 0.5, n)
    second = np.log(price) + rng.normal(0, 0.3, n)
    rows = [
        (k, 30 + k, [float(first[k]), float(second[k])], str(maker[k]), float(price[k]), f"no {k}",
         bool(k % 2), None, {"a": 1})
        for k in range(n)
    ]  # fmt: skip
    table = spark.createDataFrame(
        rows, "item long, n_ratings long, factors array<float>, maker string, `the price` double, "
        "number string, flag boolean, nothing string, map map<string, int>",
    )  # fmt: skip
    found = read_factors(table, nobody_knows, {})
    labels = {row["factor"]: row["label"] for row in found.factor_labels.collect()}
    assert labels[1].startswith("Acme against ")
    assert labels[2] == "high the price against low the price"
    metadata = found.factor_metadata.toPandas()
    assert set(metadata["kind"]) == {"maker", "the price", "flag", "popularity"}
    acme = metadata[(metadata["value"] == "Acme") & (metadata["factor"] == 1)].iloc[0]
    assert (acme["n_items"], acme["class_size"]) == (n, (maker == "Acme").sum())
    shares = found.factor_variance.toPandas().pivot_table(
        index="kind", columns="factor", values="r2"
    )
    assert set(shares.index) == set(metadata["kind"])
    assert shares.loc["maker", 1] > 0.5
    assert shares.loc["the price", 2] > 0.5
    assert max(shares.loc["maker", 2], shares.loc["the price", 1]) < 0.1


def test_a_label_of_no_factor_is_refused(described, nobody_knows):
    with pytest.raises(ConfigError, match="names factor 4, but the model has 3 factors"):
        read_factors(described[1], nobody_knows, {"1": "art", "4": "what?"})


def test_figures_against_scipy(described, nobody_knows):
    frame, table = described
    rows = read_factors(table, nobody_knows, {}).factor_metadata.toPandas()
    loadings = np.stack(frame["factors"])
    known = frame["year"].notna().to_numpy()
    for kind, values, chosen in (
        ("year", frame["year"].fillna(0).to_numpy(float), known),
        ("popularity", np.log(frame["n_ratings"].to_numpy(float)), np.ones(len(frame), bool)),
    ):
        for factor in (1, 2, 3):
            row = rows[(rows["factor"] == factor) & (rows["kind"] == kind)].iloc[0]
            expected = stats.pearsonr(loadings[chosen, factor - 1], values[chosen])
            assert row["correlation"] == pytest.approx(expected.statistic, abs=1e-6)
            ends = expected.confidence_interval(0.95)
            assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high), abs=1e-5)
            assert row["p"] == pytest.approx(expected.pvalue, abs=0.05)
            assert row["n_items"] == chosen.sum()
    np.testing.assert_allclose(rows["q"], stats.false_discovery_control(rows["p"]))
    assert (rows["is_clear"] == (rows["q"] <= 0.05)).all()


def test_labels_of_noise_are_rare(spark, nobody_knows):
    """Of forty factors of noise beside fourteen values each, hardly one gets a label."""
    rng = np.random.default_rng(3)
    rows = [
        (
            n, int(rng.integers(20, 500)), rng.normal(size=40).tolist(),
            int(rng.integers(1950, 2000)), [f"g{k}" for k in range(12) if rng.random() < 0.3],
        )
        for n in range(200)
    ]  # fmt: skip
    table = spark.createDataFrame(
        rows, "item long, n_ratings long, factors array<float>, year int, genres array<string>"
    )
    labels = read_factors(table, nobody_knows, {}).factor_labels
    assert labels.where(f"label != '{NO_READING}'").count() <= 2


def test_of_constant_columns(rng):
    r, p = correlations(np.ones((50, 2)), rng.normal(size=50), rng)
    assert list(r) == [0, 0]
    assert list(p) == [1, 1]
    low, high = interval(np.array([1.0, 0.0]), 50)
    assert low[0] == pytest.approx(1, abs=1e-4)
    assert low[1] == -high[1]


def test_without_metadata_or_factors(spark, nobody_knows):
    schema = "item long, n_ratings long, factors array<float>, year int, genres array<string>"
    rows = [(n, 30, [0.1 * n], None, []) for n in range(40)]
    found = read_factors(spark.createDataFrame(rows, schema), nobody_knows, {})
    assert found.factor_metadata.isEmpty()
    row = found.factor_labels.first()
    assert (row["factor"], row["label"], row["r2"]) == (1, NO_READING, None)
    alone = [(n, 30, [], None, []) for n in range(40)]
    found = read_factors(spark.createDataFrame(alone, schema), nobody_knows, {})
    assert found.factor_labels.isEmpty()
    nothing = spark.createDataFrame([], schema)
    assert read_factors(nothing, nobody_knows, {}).factor_labels.isEmpty()


def test_from_ratings_to_a_name(spark):
    """Two planted factors that go along with genres: found again, stable and called by them."""
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 2, (N_ITEMS, 2))
    taste = rng.normal(size=(N_USERS, 2)) * [1.0, 0.6]
    user, item = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.4)
    sign = 2 * kinds - 1
    rating = 3 + (taste[user] * sign[item]).sum(axis=1) + rng.normal(0, 0.5, len(user))
    ratings = spark.createDataFrame(pd.DataFrame({"user": user, "item": item, "rating": rating}))
    model = BiasedALS(rank=4, maxIter=10, regParam=1.0, biasRegParam=1.0, seed=1).fit(ratings)
    stability = factor_stability(model, ratings, 2, 20).of_factors
    names = (("loud", "quiet"), ("long", "short"))
    genres = [(n, [names[0][a], names[1][b]], 2000) for n, (a, b) in enumerate(kinds.tolist())]
    items = spark.createDataFrame(genres, "item long, genres array<string>, year int")
    described = model.item_factors.join(items, "item")
    found = read_factors(described, stability, {}).factor_labels.orderBy("factor").collect()
    assert {frozenset(row["label"].split(" against ")) for row in found[:2]} == {
        frozenset(pair) for pair in names
    }
    assert [row["label"] for row in found[2:]] == [NO_READING, NO_READING]
