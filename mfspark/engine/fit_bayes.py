"""Bayesian matrix factorisation from a ratings DataFrame to factor tables: the whole fit."""

from dataclasses import replace

from pyspark.sql import DataFrame

from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.columns import Side
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import fit_in_one_task
from mfspark.engine.plan import plan_bayes
from mfspark.engine.training import Fit, objective_of, prepare
from mfspark.engine.workspace import Workspace
from mfspark.errors import ConfigError
from mfspark.settings import ALSSettings, BayesianSettings


def fit_bayes(
    ratings: DataFrame,
    settings: BayesianSettings,
    known: dict[Side, DataFrame] | None = None,
    features: dict[Side, DataFrame] | None = None,
) -> Fit:
    """Sample the posterior of the biased model of ``ratings`` (user, item, rating, and maybe
    is_validation boolean), and average its draws.

    Rows with ``is_validation`` true are not fitted; the error of the mean over all draws on them
    decides when to stop. ``known``: id, bias and factors to start from, by side; ``features`` as in
    ``Training``. Raises
    ``ConfigError`` for a distributed fit, ``DataError`` for ids or ratings that are null or not
    finite, ``FitError`` when Spark gives up.
    """
    if settings.execution == "distributed":
        raise ConfigError(
            "execution = 'distributed' is not there for BayesianMF, which samples in one task; set "
            "it to 'auto' or 'one_task', or fit by BiasedALS"
        )
    # Of the iterations of ALS before the first draw.
    objective = objective_of(ALSSettings())
    with Workspace(ratings.sparkSession) as workspace:
        training = prepare(ratings, settings.rank, objective, known or {})
        training = replace(training, features=features or {})
        plan = plan_bayes(training.workload(settings.rank), settings, machine_of(workspace.spark))
        plan.log_warnings()
        gibbs = ThreadedGibbs(training.objective, settings, training.scale)
        return fit_in_one_task(workspace, training, gibbs, plan.n_threads, "BayesianMF")
