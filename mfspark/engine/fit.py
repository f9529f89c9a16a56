"""The frame of ALS and SGD fits: ratings are checked, summarised and standardised, and then fitted
in one task or distributed."""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, HELD_OUT, ITEM, RATING, USER
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import Learner, OneTask, fit_in_one_task
from mfspark.engine.plan import (
    Machine,
    Workload,
    is_for_one_task,
    memory_warnings,
    one_task_bytes,
)
from mfspark.engine.progress import log_history
from mfspark.engine.stopping import StopReason
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError, FitError, one_line
from mfspark.kernels.problem import Penalty, Problem
from mfspark.settings import Exchange, FactorisationSettings
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")


@dataclass(frozen=True)
class Summary:
    """What is known of the training ratings before anything is built."""

    n_ratings: int
    n_validation: int
    mean: float
    variance: float
    lowest: float
    highest: float

    def squared_deviation(self, center: float) -> float:
        """Σ (r − center)² over the training ratings."""
        return self.n_ratings * (self.variance + (self.mean - center) ** 2)


@dataclass(frozen=True)
class Fit:
    """The outcome of a fit; see ``FactorModel`` for the tables' columns."""

    users: DataFrame
    items: DataFrame
    history: list[dict[str, Any]]
    n_users: int
    n_items: int
    singular_values: list[float]
    best_iteration: int
    stopped: StopReason
    n_cold_validation: int
    summary: Summary
    mean: float
    scale: float
    execution: str
    exchange: dict[str, Exchange]


@dataclass(frozen=True)
class Training:
    """What a fit is made from.

    ``ratings``: user, item, rating float (standardised: less μ, in units of ``scale``), and maybe
    held_out boolean. ``problems``: what each side minimises. ``known``: id, bias and factors to
    start from, by side; of the sides that have them.
    """

    workspace: Workspace
    ratings: DataFrame
    summary: Summary
    machine: Machine
    problems: dict[str, Problem]
    known: dict[str, DataFrame]
    scale: float

    @property
    def fitted(self) -> DataFrame:
        """The ratings that are not held out."""
        has_held_out = HELD_OUT in self.ratings.columns
        return self.ratings.where(~F.col(HELD_OUT)) if has_held_out else self.ratings


def run_fit(
    name: str | None,
    ratings: DataFrame,
    settings: FactorisationSettings,
    known: dict[str, DataFrame],
    make_learner: Callable[[dict[str, Problem], float], Learner],
    fit_distributed: Callable[[Training], dict[str, Any]],
    n_stages: int,
    scale: float | None = None,
) -> Fit:
    """Fit ``ratings`` (user, item, rating, and maybe held_out boolean) in one task with the learner
    made for the problems of both sides, or distributed.

    Ratings are fitted in a unit of their own: less μ and divided by ``scale``, by default the root
    of their mean square deviation from μ. So λ and the learning rate mean the same for stars,
    points and percentages; tables and history come out in the unit of the ratings.

    ``name`` is for progress; without one there is none. ``n_stages``: Spark stages of a distributed
    pass over the ratings. Raises ``DataError`` for ids or ratings that are null or not finite,
    ``FitError`` when Spark gives up.
    """
    try:
        with Workspace(ratings.sparkSession) as workspace:
            summary = summarise(ratings)
            mean = summary.mean if settings.fit_biases else 0.0
            if settings.rank > summary.n_ratings:
                logger.warning(
                    "rank %d is more than the %d ratings can tell, and the time of a fit grows "
                    "with its third power; set rank lower",
                    settings.rank,
                    summary.n_ratings,
                )
            if scale is None:
                scale = math.sqrt(summary.squared_deviation(mean) / summary.n_ratings) or 1.0
            standardised = (F.col(RATING).cast("double") - F.lit(mean)) / F.lit(scale)
            training = Training(
                workspace,
                ratings.withColumn(RATING, standardised.cast("float")),
                summary,
                machine_of(workspace.spark),
                problems_of(settings),
                {side: _standardised(table, side, scale) for side, table in known.items()},
                scale,
            )
            found = _one_task_if_it_fits(name, training, settings, make_learner, n_stages)
            return Fit(
                **(found or fit_distributed(training)), summary=summary, mean=mean, scale=scale
            )
    except SPARK_ERRORS as error:
        raise FitError(f"Spark gave up the fit: {one_line(error)}; {_remedy(error)}") from error


def _one_task_if_it_fits(
    name: str | None,
    training: Training,
    settings: FactorisationSettings,
    make_learner: Callable[[dict[str, Problem], float], Learner],
    n_stages: int,
) -> dict[str, Any] | None:
    """Fields of ``Fit``; None when the fit is to be distributed."""
    # Users and items are not counted yet; the task counts them before it begins.
    size = Workload(training.summary.n_ratings, 0, 0, settings.rank)
    if not is_for_one_task(size, settings.execution, training.machine, n_stages):
        return None
    remedy = "set execution to distributed"
    for warning in memory_warnings(one_task_bytes(size), training.machine, remedy):
        logger.warning("%s", warning)
    most_bytes = training.machine.task_bytes if settings.execution == "auto" else None
    return _fit_in_one_task(
        name, training, make_learner(training.problems, training.scale), most_bytes
    )


_SIGNS_OF_LOST_EXECUTORS = (
    "ExecutorLostFailure",
    "FetchFailed",
    "CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND",
)


def _remedy(error: Exception) -> str:
    """What to do about a job that Spark gave up."""
    text = str(error)
    if any(sign in text for sign in _SIGNS_OF_LOST_EXECUTORS):
        return (
            "executors were lost again and again, mostly for want of memory: raise "
            "spark.executor.memoryOverhead, or the numbers of blocks, and see the executors' logs"
        )
    if re.search("No module named '(mfspark|numba|numpy|pandas|pyarrow|scipy)", text):
        return (
            "Spark's workers run another Python than this one: import mfspark before the session "
            "is made, or set PYSPARK_PYTHON to a Python that has mfspark and what it needs"
        )
    if "No space left" in text:
        return "make room on the executors' disks, or name others in spark.local.dir"
    if "Python worker exited unexpectedly" in text or "Python worker failed" in text:
        return (
            "a Python worker died, mostly for want of memory: raise spark.executor.memoryOverhead "
            "or the numbers of blocks"
        )
    return "if the cause lies outside of the ratings, the log of the executor tells more"


def _fit_in_one_task(
    name: str | None, training: Training, learner: Learner, most_bytes: int | None
) -> dict[str, Any] | None:
    """Fields of ``Fit``; None when users and items turn out too many for one task."""
    task = OneTask(learner, training.machine.task_cores, most_bytes)
    fitted = fit_in_one_task(training.workspace, training.ratings, training.known, task)
    if fitted is None:
        return None
    if name is not None:
        log_history(fitted.facts["history"], name)
    return {
        "users": fitted.users,
        "items": fitted.items,
        "execution": "one_task",
        "exchange": {},
        **fitted.facts,
    }


def summarise(ratings: DataFrame) -> Summary:
    """Counts, mean and range of the ratings, in one pass that also refuses unfit values."""
    rating = F.col(RATING).cast("double")
    is_bad = {
        f"{USER} ids that are null": F.col(USER).isNull(),
        f"{ITEM} ids that are null": F.col(ITEM).isNull(),
        "ratings that are null": rating.isNull(),
        "ratings that are NaN or infinite": F.isnan(rating) | (F.abs(rating) == float("inf")),
    }
    is_held_out = F.col(HELD_OUT) if HELD_OUT in ratings.columns else F.lit(False)
    train_rating = F.when(~is_held_out, rating)
    row = ratings.agg(
        *[F.count(F.when(bad, 1)) for bad in is_bad.values()],
        F.count(train_rating),
        F.count(F.when(is_held_out, rating)),
        F.avg(train_rating),
        F.var_pop(train_rating),
        F.min(train_rating),
        F.max(train_rating),
    ).first()
    assert row is not None
    for (what, _), n in zip(is_bad.items(), row, strict=False):
        if n:
            raise DataError(
                f"found {n} {what} in the ratings to fit, which would spoil every factor; "
                "drop these rows, or let the ingest job put them in quarantine"
            )
    summary = Summary(*row[len(is_bad) :])
    if summary.n_ratings == 0:
        raise DataError("there are no training ratings to fit; check filters and splits upstream")
    return summary


def _standardised(known: DataFrame, side: str, scale: float) -> DataFrame:
    """Id, bias and factors in the unit that ratings are fitted in."""
    root = F.lit(1 / math.sqrt(scale))
    return known.select(
        side,
        (F.col(BIAS) / F.lit(scale)).cast("float").alias(BIAS),
        F.transform(FACTORS, lambda value: (value * root).cast("float")).alias(FACTORS),
    )


def problems_of(settings: FactorisationSettings) -> dict[str, Problem]:
    """What each side minimises; the ratings are given less μ."""

    def problem(own: float | None) -> Problem:
        factors = settings.reg_param if own is None else own
        penalty = Penalty(factors, settings.bias_reg_param, settings.reg_exponent)
        return Problem(0.0, penalty, settings.fit_biases)

    return {USER: problem(settings.user_reg_param), ITEM: problem(settings.item_reg_param)}
