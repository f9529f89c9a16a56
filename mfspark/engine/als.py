"""Alternating least squares from a ratings DataFrame to factor tables: the whole fit."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import HELD_OUT, ITEM, RATING, USER
from mfspark.engine.alternate import Solver, alternate
from mfspark.engine.blocks import build_blocks
from mfspark.engine.exchange import make_exchange
from mfspark.engine.half_step import SolvedSide, initial_factors, run_half_step
from mfspark.engine.index import index_sides
from mfspark.engine.one_task import OneTask, fit_in_one_task
from mfspark.engine.plan import Plan, make_plan
from mfspark.engine.progress import Progress
from mfspark.engine.stopping import StopReason
from mfspark.engine.tables import factor_table, find_rotation
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError
from mfspark.kernels.half_step import Penalty, Problem
from mfspark.settings import ALSSettings

logger = logging.getLogger("mfspark")


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
    n_users: int
    n_items: int
    singular_values: list[float]
    best_iteration: int
    stopped: StopReason
    n_cold_validation: int
    summary: Summary
    mean: float
    plan: Plan


def fit_als(ratings: DataFrame, settings: ALSSettings) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured inside each half-step and
    decides when to stop. Raises ``DataError`` for ids or ratings that are null or not finite.
    """
    with Workspace(ratings.sparkSession) as workspace:
        summary = summarise(ratings)
        plan = make_plan(summary.n_ratings, 0, 0, settings, workspace.machine())
        mean = summary.mean if settings.fit_biases else 0.0
        fit = _fit_in_one_task if plan.in_one_task else _fit_distributed
        outcome = fit(
            workspace,
            ratings.withColumn(RATING, F.col(RATING).cast("float")),
            settings,
            summary,
            plan,
            _problems(settings, mean),
        )
        return Fit(**outcome, summary=summary, mean=mean, plan=plan)


def _fit_in_one_task(
    workspace: Workspace,
    ratings: DataFrame,
    settings: ALSSettings,
    summary: Summary,
    plan: Plan,
    problems: dict[str, Problem],
) -> dict[str, Any]:
    progress = Progress(settings.max_iter, "ALS")
    task = OneTask(
        settings.rank, problems, settings.max_iter, settings.tol, settings.seed, plan.n_threads
    )
    fitted = fit_in_one_task(workspace, ratings, task)
    with progress:
        for row in fitted.facts["history"][1::2]:
            progress.iteration(row)
    return {"users": fitted.users, "items": fitted.items, **fitted.facts}


def _fit_distributed(
    workspace: Workspace,
    ratings: DataFrame,
    settings: ALSSettings,
    summary: Summary,
    plan: Plan,
    problems: dict[str, Problem],
) -> dict[str, Any]:
    train = ratings.where(~F.col(HELD_OUT)) if HELD_OUT in ratings.columns else ratings
    indices = index_sides(workspace, train, plan.n_blocks, summary.n_ratings)
    blocks = build_blocks(workspace, ratings, indices)
    rank = settings.rank

    def solver(side: str, other: str) -> Solver[DataFrame]:
        exchange = make_exchange(
            workspace, blocks[side], indices[other].layout, rank, plan.exchange[side]
        )
        solved = SolvedSide(blocks[side], exchange, problems[side], rank)
        return Solver(side, partial(run_half_step, workspace, solved), exchange.bytes_shipped)

    start = initial_factors(workspace, indices[ITEM], ITEM, problems[ITEM], rank, settings.seed)
    with Progress(settings.max_iter, "ALS") as progress:
        outcome = alternate(
            solver(USER, ITEM),
            solver(ITEM, USER),
            start,
            settings.tol,
            settings.max_iter,
            progress.iteration,
        )
    rotation = find_rotation(outcome.users, outcome.items, rank)

    def table(side: str) -> DataFrame:
        cells, matrix = (
            (outcome.users, rotation.users) if side == USER else (outcome.items, rotation.items)
        )
        # Eager: the tables must be whole before the workspace lets go of blocks and ids.
        return factor_table(cells, indices[side], matrix, side).localCheckpoint()

    with ThreadPoolExecutor(2) as pool:
        users, items = pool.map(table, (USER, ITEM))
    return {
        "users": users,
        "items": items,
        "history": outcome.history,
        "n_users": indices[USER].layout.n_rows,
        "n_items": indices[ITEM].layout.n_rows,
        "singular_values": rotation.singular_values.tolist(),
        "best_iteration": outcome.best_iteration,
        "stopped": outcome.stopped,
        "n_cold_validation": summary.n_validation - blocks[USER].n_held_out,
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


def _problems(settings: ALSSettings, mean: float) -> dict[str, Problem]:
    def problem(own: float | None) -> Problem:
        factors = settings.reg_param if own is None else own
        penalty = Penalty(factors, settings.bias_reg_param, settings.reg_exponent)
        return Problem(mean, penalty, settings.fit_biases)

    return {USER: problem(settings.user_reg_param), ITEM: problem(settings.item_reg_param)}
