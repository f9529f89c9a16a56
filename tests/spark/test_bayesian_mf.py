"""``BayesianMF``: a factor model like any other, and how far its predictions may be off."""

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasOnly, FactorModel
from mfspark.errors import ConfigError, ModelFormatError
from mfspark.models import prediction

ESTIMATOR = BayesianMF(rank=3, maxIter=60, burnIn=10, tol=0.0, seed=1, predictionStdCol="std")


@pytest.fixture(scope="module")
def split(ratings):
    """Training and test ratings."""
    is_test = F.xxhash64("user", "item") % 5 == 0
    return ratings.where(~is_test).cache(), ratings.where(is_test).cache()


@pytest.fixture(scope="module")
def sampled(split):
    return ESTIMATOR.fit(split[0])


def rmse(model, test):
    frame = model.transform(test).toPandas()
    return float(np.sqrt(np.mean((frame["rating"] - frame["prediction"]) ** 2)))


def test_better_than_biases_and_untuned_als(split, sampled):
    train, test = split
    error = rmse(sampled, test)
    assert error < rmse(BiasOnly().fit(train), test)
    assert error < 1.02 * rmse(BiasedALS(rank=3, seed=1).fit(train), test)


def test_standard_deviations_are_those_of_the_errors(split, sampled):
    """In units of their standard deviation, errors have variance 1 and are not too long in the
    tails; the planted noise is .2."""
    frame = sampled.transform(split[1]).toPandas()
    z = (frame["rating"] - frame["prediction"]) / frame["std"]
    assert 0.85 < z.std() < 1.15
    assert 0.74 < (abs(z) < 1.2816).mean() < 0.86
    assert frame["std"].min() > 0.15
    assert sampled.metadata.posterior.noise == pytest.approx(0.2**2, rel=0.25)


def test_standard_deviations_by_hand(split, sampled):
    facts, rank = sampled.metadata.posterior, sampled.rank
    draws = {
        side: {row[0]: np.reshape(row["draws"], (-1, rank + 1)) for row in table.collect()}
        for side, table in sampled.draws.items()
    }
    found = sampled.transform(split[1].limit(20)).collect()
    assert facts.n_draws in range(5, 9)
    for row in found:
        p, q = draws["user"][row["user"]], draws["item"][row["item"]]
        each = p[:, -1] + q[:, -1] + np.sum(p[:, :-1] * q[:, :-1], axis=1)
        assert len(each) == facts.n_draws
        expected = np.sqrt(facts.noise + each.var(ddof=1))
        assert row["std"] == pytest.approx(expected, rel=1e-5)


def test_cold_ids_are_less_certain(spark, split, sampled):
    known = split[1].first()
    rows = [(known["user"], known["item"]), (-1, known["item"]), (known["user"], -1), (-1, -1)]
    pairs = spark.createDataFrame(rows, "user long, item long")
    found = {(r["user"], r["item"]): r["std"] for r in sampled.transform(pairs).collect()}
    facts = sampled.metadata.posterior
    assert found[rows[1]] == pytest.approx(np.sqrt(facts.noise + facts.cold_user))
    assert found[rows[2]] == pytest.approx(np.sqrt(facts.noise + facts.cold_item))
    assert found[rows[3]] > max(found[rows[1]], found[rows[2]]) > found[rows[0]]
    strict = sampled.copy({sampled.coldStartStrategy: "nan"}).transform(pairs)
    assert strict.where(F.isnan("std")).count() == 3


def test_a_model_too_big_for_cells_predicts_the_same(spark, split, sampled, monkeypatch):
    cold = spark.createDataFrame([(-1, 5, 3.0), (100, -1, 3.0)], split[1].schema)
    pairs = split[1].union(cold)
    expected = sampled.transform(pairs).orderBy("user", "item").toPandas()
    monkeypatch.setattr(prediction, "BROADCAST_LIMIT", 0)
    scored = sampled.transform(pairs).orderBy("user", "item")
    assert "MapInArrow" not in scored._jdf.queryExecution().toString()
    found = scored.toPandas()
    assert list(found.columns) == list(expected.columns)
    for name in ("prediction", "std"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_draws_are_saved_and_checked(split, sampled, tmp_path):
    path = tmp_path / "model"
    sampled.save(str(path))
    loaded = FactorModel.load(str(path))
    assert loaded.getPredictionStdCol() == "std"
    expected, found = (
        model.transform(split[1]).orderBy("user", "item").toPandas() for model in (sampled, loaded)
    )
    np.testing.assert_allclose(found["std"], expected["std"], rtol=1e-5)
    # A plain model is what its readers take it for.
    columns = ["user", "n_ratings", "bias", "cold_bias", "factors"]
    assert loaded.user_factors.columns == columns
    next((path / "draws/item").glob("part-*.parquet")).unlink()
    with pytest.raises(ModelFormatError, match="draws/item"):
        FactorModel.load(str(path))


def test_without_stored_draws_there_are_no_standard_deviations(split):
    for estimator, n_draws in (
        (BayesianMF(rank=2, maxIter=5, burnIn=2, keepDraws=0), 0),
        (BiasedALS(rank=2, maxIter=2), 0),
    ):
        model = estimator.fit(split[0])
        assert model.draws == {}
        assert model.transform(split[1]).columns[-1] == "prediction"
        with pytest.raises(ConfigError, match=f"stored draws or more.*has {n_draws}"):
            model.copy({model.predictionStdCol: "std"}).transform(split[1])


def test_two_columns_of_one_name_are_refused(split, sampled):
    with pytest.raises(ConfigError, match="name them apart"):
        sampled.copy({sampled.predictionStdCol: "prediction"}).transform(split[1])


def test_partitions_make_no_difference(split, sampled):
    train, test = split
    again = ESTIMATOR.fit(train.repartition(5))
    expected, found = (
        model.transform(test).orderBy("user", "item").toPandas() for model in (sampled, again)
    )
    for name in ("prediction", "std"):
        np.testing.assert_allclose(found[name], expected[name], atol=5e-3)


def test_history_has_a_row_per_sweep(sampled):
    history = sampled.history.orderBy("iteration").toPandas()
    assert history["iteration"].tolist() == list(range(1, 61))
    assert set(history["side"]) == {"both"}
    assert sampled.metadata.algorithm == "BayesianMF"
    assert sampled.metadata.best_iteration == 60


def test_validation_ends_it(ratings):
    marked = ratings.withColumn("held", F.xxhash64("item", "user") % 5 == 0)
    estimator = BayesianMF(
        rank=2, maxIter=300, tol=1e-2, seed=1, validationIndicatorCol="held", keepDraws=2
    )
    model = estimator.fit(marked)
    assert model.metadata.stopped == "validation"
    last = model.history.orderBy(F.desc("iteration")).first()
    test = marked.where("held").drop("held")
    assert last["validation_rmse"] == pytest.approx(rmse(model, test), rel=1e-2)


def test_starts_from_a_model(split, tmp_path):
    train, _ = split
    BiasedALS(rank=2, maxIter=3).fit(train).save(str(tmp_path / "als"))
    started = BayesianMF(rank=2, maxIter=4, burnIn=1, initialModel=str(tmp_path / "als"))
    assert started.fit(train).rank == 2


@pytest.mark.parametrize("features", [False, True])
def test_a_distributed_chain_with_features_is_refused(split, features):
    estimator = BayesianMF(execution="distributed", implicitFeatures=not features)
    if features:
        estimator.setFeatures(users=split[0].select("user").distinct().withColumn("n", F.lit(1)))
    with pytest.raises(ConfigError, match=r"without features alone.*implicitFeatures to False"):
        estimator.fit(split[0])


@pytest.mark.parametrize("arguments", [{"burnIn": 200}, {"maxIter": 1}, {"keepDraws": -1}])
def test_params_out_of_bounds(arguments):
    (name,) = arguments
    with pytest.raises(ConfigError, match=rf"^{name} = -?\d+ is not allowed: (of|input)"):
        BayesianMF(**arguments)
