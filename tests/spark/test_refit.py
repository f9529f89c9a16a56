"""After validation rows have said when to stop, all rows are fitted for as long."""

import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasedSGD
from mfspark.errors import ConfigError

GIVEN = {"regParam": 0.2, "biasRegParam": 0.1}
ESTIMATORS = {
    "als": BiasedALS(rank=3, maxIter=30, tol=1e-3, seed=1, **GIVEN),
    "sgd": BiasedSGD(rank=3, maxIter=8, seed=1, **GIVEN),
    "bayes": BayesianMF(rank=3, maxIter=40, tol=1e-3, seed=1),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_rows_are_fitted_for_as_long(ratings, name):
    marked = ratings.withColumn("held", F.pmod(F.hash("user", "item"), F.lit(8)) == 0)
    estimator = ESTIMATORS[name].copy()
    estimator._set(validationIndicatorCol="held")
    stopped = estimator.fit(marked)
    refitted = estimator.copy({estimator.refit: True}).fit(marked)
    n_iterations = stopped.metadata.best_iteration
    direct = ESTIMATORS[name].copy({estimator.maxIter: n_iterations, estimator.tol: 0.0})
    expected = direct.fit(ratings)
    # The tables are those of all rows, the history says how their number of iterations was found.
    pairs = ratings.select("user", "item")
    difference = (
        refitted.transform(pairs)
        .join(expected.transform(pairs).withColumnRenamed("prediction", "other"), ["user", "item"])
        .agg(F.max(F.abs(F.col("prediction") - F.col("other"))))
        .first()[0]
    )
    assert difference < 1e-3
    assert refitted.metadata.n_ratings == ratings.count()
    assert refitted.metadata.n_validation == stopped.metadata.n_validation > 0
    assert refitted.metadata.stopped == stopped.metadata.stopped
    assert refitted.metadata.best_iteration == n_iterations
    assert refitted.history.count() == stopped.history.count()


def test_without_validation_rows_there_is_no_length(ratings):
    with pytest.raises(ConfigError, match="refit = True needs validation rows"):
        BiasedALS(rank=2, refit=True).fit(ratings)


@pytest.mark.parametrize("estimator", [BiasedALS, BiasedSGD])
def test_penalties_are_chosen_once(ratings, estimator, caplog):
    marked = ratings.withColumn("held", F.pmod(F.hash("user", "item"), F.lit(8)) == 0)
    arguments = {"rank": 3, "maxIter": 4, "validationIndicatorCol": "held"}
    stopped = estimator(**arguments).fit(marked)
    caplog.clear()
    with caplog.at_level("INFO", logger="mfspark"):
        refitted = estimator(**arguments, refit=True).fit(marked)
    assert caplog.text.count("penalties from the data") == 1
    assert refitted.metadata.penalties == stopped.metadata.penalties
