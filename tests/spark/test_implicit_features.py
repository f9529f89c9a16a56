"""Who rated what, learnt from by the estimators that minimise an objective."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BiasedALS, BiasedSGD, FactorModel
from mfspark.errors import ConfigError

ESTIMATORS = pytest.mark.parametrize("estimator", [BiasedALS, BiasedSGD])


@pytest.fixture(scope="module")
def ratings(spark):
    """Of users that rate what they like; a tenth of the ratings is held out."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(0, 1, (900, 2)), rng.normal(0, 1, (150, 2))
    taste = p @ q.T
    user, item = np.nonzero(rng.random(taste.shape) < 0.12 * np.exp(taste).clip(0, 4))
    table = pd.DataFrame(
        {
            "user": [f"u{n}" for n in user],
            "item": item,
            "rating": 3 + 0.5 * taste[user, item] + rng.normal(0, 1, len(user)),
            "held": rng.random(len(user)) < 0.1,
        }
    )
    return spark.createDataFrame(table).persist()


def error_on_held(model, ratings):
    found = model.transform(ratings.where("held"))
    return found.agg(F.sqrt(F.avg(F.pow(F.col("rating") - F.col("prediction"), 2)))).first()[0]


@ESTIMATORS
def test_they_help_where_users_choose_what_they_rate(ratings, estimator, tmp_path):
    arguments = {"rank": 4, "validationIndicatorCol": "held", "clipPredictions": False}
    model = estimator(**arguments, implicitFeatures=True).fit(ratings)
    plain = estimator(**arguments).fit(ratings)
    assert error_on_held(model, ratings) < 0.97 * error_on_held(plain, ratings)
    best = model.history.agg(F.min("validation_rmse")).first()[0]
    assert error_on_held(model, ratings) == pytest.approx(best, rel=1e-3)
    assert model.metadata.execution == "one_task"
    assert 0 < model.metadata.penalties.link < 10
    assert plain.metadata.penalties.link is None
    # It is a factor model like any other.
    model.save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model"))
    assert loaded.metadata.penalties == model.metadata.penalties
    assert error_on_held(loaded, ratings) == pytest.approx(error_on_held(model, ratings))


def test_all_rows_are_fitted_again_with_them(ratings):
    model = BiasedALS(
        rank=3, maxIter=6, regParam=1.2, biasRegParam=0.5, implicitFeatures=True, refit=True,
        validationIndicatorCol="held",
    ).fit(ratings)  # fmt: skip
    assert model.metadata.n_ratings == ratings.count()
    # With λ given κ is not looked for.
    assert model.metadata.penalties.link == 8.0


def test_a_fit_begins_with_the_rows_of_a_model_that_had_them(ratings, tmp_path):
    arguments = {"rank": 3, "regParam": 1.2, "biasRegParam": 0.5, "implicitFeatures": True}
    BiasedALS(**arguments, maxIter=8).fit(ratings).save(str(tmp_path / "model"))
    objective = []
    for initial in (None, str(tmp_path / "model")):
        model = BiasedALS(**arguments, maxIter=2, tol=0.0, initialModel=initial).fit(ratings)
        objective.append(model.history.agg(F.min("objective")).first()[0])
    assert objective[1] < objective[0]


@ESTIMATORS
def test_a_distributed_fit_with_them_is_refused(ratings, estimator):
    with pytest.raises(ConfigError, match=r"without features alone.*implicitFeatures to False"):
        estimator(execution="distributed", implicitFeatures=True).fit(ratings)
