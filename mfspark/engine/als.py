"""Alternating least squares from a ratings DataFrame to factor tables: the whole fit."""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING, USER
from mfspark.engine.blocks import build_blocks
from mfspark.engine.exchange import make_exchange
from mfspark.engine.half_step import Problem, initial_factors, run_half_step
from mfspark.engine.index import index_side
from mfspark.engine.progress import Progress
from mfspark.engine.stopping import StopReason, StopRule
from mfspark.engine.tables import factor_table, find_rotation
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError
from mfspark.kernels.half_step import HalfStepMetrics, Penalty
from mfspark.settings import ALSSettings

logger = logging.getLogger("mfspark")

# A task handles blocks of this many ratings comfortably (128 MiB), and never receives more than
# this many bytes of fixed rows: an Arrow binary array ends at 2 GiB.
_RATINGS_PER_BLOCK = 16_000_000
_BYTES_PER_BLOCK = 2**30

HELD_OUT = "held_out"

HISTORY_SCHEMA = (
    "iteration int, side string, objective double, train_rmse double, "
    "validation_rmse double, seconds double, bytes long"
)


@dataclass(frozen=True)
class Summary:
    """What is known of the training ratings before anything is built."""

    n_ratings: int
    n_validation: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Fit:
    """The outcome of a fit; see ``FactorModel`` for the tables' columns."""

    users: DataFrame
    items: DataFrame
    history: list[dict[str, Any]]
    summary: Summary
    mean: float
    n_users: int
    n_items: int
    singular_values: list[float]
    best_iteration: int
    stopped: StopReason
    n_cold_validation: int
    exchange: dict[str, str]


def fit_als(ratings: DataFrame, settings: ALSSettings) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured inside each half-step and
    decides when to stop. Raises ``DataError`` for ids or ratings that are null or not finite.
    """
    spark = ratings.sparkSession
    with Workspace(spark) as workspace:
        summary = summarise(ratings)
        ratings = ratings.withColumn(RATING, F.col(RATING).cast("float"))
        train = ratings.where(~F.col(HELD_OUT))
        n_blocks = _n_blocks(workspace, settings, summary.n_ratings)
        users = index_side(workspace, train, USER, n_blocks[USER], summary.n_ratings, settings.seed)
        items = index_side(workspace, train, ITEM, n_blocks[ITEM], summary.n_ratings, settings.seed)
        user_blocks, item_blocks = build_blocks(workspace, ratings, users, items)
        to_users = make_exchange(
            workspace, user_blocks, users.n_blocks, items, settings.rank, settings.exchange
        )
        to_items = make_exchange(
            workspace, item_blocks, items.n_blocks, users, settings.rank, settings.exchange
        )
        mean = summary.mean if settings.fit_biases else 0.0
        user_problem, item_problem = _problems(settings, mean)
        item_factors, item_penalty = initial_factors(workspace, items, item_problem)
        rule = StopRule(settings.tol)
        history: list[dict[str, Any]] = []
        stopped: StopReason | None = None
        iteration = 0
        with Progress(settings.max_iter, "ALS") as progress:
            while stopped is None:
                iteration += 1
                started = time.perf_counter()
                user_factors, metrics = run_half_step(
                    workspace, user_problem, to_users, item_factors
                )
                user_penalty = metrics.penalty
                history.append(
                    _row(iteration, USER, metrics, item_penalty, started, to_users.bytes_shipped)
                )
                started = time.perf_counter()
                item_factors, metrics = run_half_step(
                    workspace, item_problem, to_items, user_factors
                )
                item_penalty = metrics.penalty
                last = _row(iteration, ITEM, metrics, user_penalty, started, to_items.bytes_shipped)
                history.append(last)
                figures = {k: last[k] for k in ("objective", "train_rmse", "validation_rmse")}
                progress.iteration(iteration, **figures)
                stopped = rule.observe(iteration, last["objective"], last["validation_rmse"])
                if rule.best_iteration == iteration:
                    best = user_factors, item_factors
                if stopped is None and iteration == settings.max_iter:
                    stopped = "max_iter"
        rotation = find_rotation(*best, settings.rank)
        return Fit(
            # Eager: the tables must be whole before the workspace lets go of blocks and ids.
            users=factor_table(best[0], users, rotation.users, USER).localCheckpoint(),
            items=factor_table(best[1], items, rotation.items, ITEM).localCheckpoint(),
            history=history,
            summary=summary,
            mean=mean,
            n_users=users.n_ids,
            n_items=items.n_ids,
            singular_values=[float(value) for value in rotation.singular_values],
            best_iteration=rule.best_iteration,
            stopped=stopped,
            n_cold_validation=summary.n_validation - user_blocks.n_held_out,
            exchange={USER: to_users.name, ITEM: to_items.name},
        )


def summarise(ratings: DataFrame) -> Summary:
    """Counts, mean and range of the ratings, in one pass that also refuses unfit values."""
    rating = F.col(RATING).cast("double")
    is_bad = {
        f"{USER} ids that are null": F.col(USER).isNull(),
        f"{ITEM} ids that are null": F.col(ITEM).isNull(),
        "ratings that are null": rating.isNull(),
        "ratings that are NaN or infinite": F.isnan(rating) | (F.abs(rating) == float("inf")),
    }
    train_rating = F.when(~F.col(HELD_OUT), rating)
    row = ratings.agg(
        *[F.count(F.when(bad, 1)) for bad in is_bad.values()],
        F.count(train_rating),
        F.count(F.when(F.col(HELD_OUT), rating)),
        F.avg(train_rating),
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
    n_ratings, n_validation, mean, lowest, highest = row[len(is_bad) :]
    if n_ratings == 0:
        raise DataError("there are no training ratings to fit; check filters and splits upstream")
    return Summary(n_ratings, n_validation, mean, lowest, highest)


def _n_blocks(workspace: Workspace, settings: ALSSettings, n_ratings: int) -> dict[str, int]:
    asked = {USER: settings.num_user_blocks, ITEM: settings.num_item_blocks}
    if all(asked.values()):
        return {side: n for side, n in asked.items() if n}
    cores = workspace.parallelism()
    # Whole rounds: with 3 blocks on 2 cores one core would wait half of the time.
    largest = min(_RATINGS_PER_BLOCK, _BYTES_PER_BLOCK // (4 * (settings.rank + 1)))
    automatic = cores * math.ceil(n_ratings / (largest * cores))
    return {side: n or automatic for side, n in asked.items()}


def _problems(settings: ALSSettings, mean: float) -> tuple[Problem, Problem]:
    def problem(own: float | None) -> Problem:
        factors = settings.reg_param if own is None else own
        penalty = Penalty(factors, settings.bias_reg_param, settings.reg_exponent)
        return Problem(settings.rank, mean, penalty, settings.fit_biases)

    return problem(settings.user_reg_param), problem(settings.item_reg_param)


def _row(
    iteration: int,
    side: str,
    metrics: HalfStepMetrics,
    fixed_penalty: float,
    started: float,
    bytes_shipped: int,
) -> dict[str, Any]:
    """One row of the history table; see ``HISTORY_SCHEMA``."""
    validation_rmse = None
    if metrics.n_validation:
        validation_rmse = math.sqrt(metrics.validation_squared_error / metrics.n_validation)
    return {
        "iteration": iteration,
        "side": side,
        "objective": metrics.squared_error + metrics.penalty + fixed_penalty,
        "train_rmse": math.sqrt(metrics.squared_error / metrics.n_ratings),
        "validation_rmse": validation_rmse,
        "seconds": time.perf_counter() - started,
        "bytes": bytes_shipped,
    }
