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
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import OneTask, fit_in_one_task
from mfspark.engine.plan import Machine, Workload, make_plan
from mfspark.engine.progress import Progress, log_history
from mfspark.engine.stopping import StopReason
from mfspark.engine.tables import factor_table, find_rotation
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError
from mfspark.kernels.problem import Penalty, Problem
from mfspark.settings import ALSSettings, Exchange

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
    execution: str
    exchange: dict[str, Exchange]


def fit_als(ratings: DataFrame, settings: ALSSettings) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured inside each half-step and
    decides when to stop. Raises ``DataError`` for ids or ratings that are null or not finite.
    """
    with Workspace(ratings.sparkSession) as workspace:
        summary = summarise(ratings)
        mean = summary.mean if settings.fit_biases else 0.0
        task = _Task(
            workspace,
            ratings.withColumn(RATING, F.col(RATING).cast("float")),
            settings,
            summary,
            machine_of(workspace.spark),
            _problems(settings, mean),
        )
        # Users and items are not counted yet; the task counts them before it begins.
        size = Workload(summary.n_ratings, 0, 0, settings.rank)
        plan = make_plan(size, settings, task.machine)
        found = None
        if plan.in_one_task:
            for warning in plan.warnings:
                logger.warning("%s", warning)
            found = _fit_in_one_task(task)
        if found is None:
            found = _fit_distributed(task)
        return Fit(**found, summary=summary, mean=mean)


@dataclass(frozen=True)
class _Task:
    """What both ways to fit are given; ``ratings``: user, item, rating float, maybe held_out."""

    workspace: Workspace
    ratings: DataFrame
    settings: ALSSettings
    summary: Summary
    machine: Machine
    problems: dict[str, Problem]


def _fit_in_one_task(task: _Task) -> dict[str, Any] | None:
    """Fields of ``Fit``; None when users and items turn out too many for one task."""
    settings, machine = task.settings, task.machine
    fitted = fit_in_one_task(
        task.workspace,
        task.ratings,
        OneTask(
            settings.rank,
            task.problems,
            settings.max_iter,
            settings.tol,
            settings.seed,
            machine.task_cores,
            machine.task_bytes if settings.execution == "auto" else None,
        ),
    )
    if fitted is None:
        return None
    log_history(fitted.facts["history"], "ALS")
    return {
        "users": fitted.users,
        "items": fitted.items,
        "execution": "one_task",
        "exchange": {},
        **fitted.facts,
    }


def _fit_distributed(task: _Task) -> dict[str, Any]:
    """Fields of ``Fit``."""
    workspace, settings, problems = task.workspace, task.settings, task.problems
    n_ratings, rank = task.summary.n_ratings, settings.rank
    has_held_out = HELD_OUT in task.ratings.columns
    train = task.ratings.where(~F.col(HELD_OUT)) if has_held_out else task.ratings
    # At most every rating has a user and an item of its own.
    most = make_plan(Workload(n_ratings, n_ratings, n_ratings, rank), settings, task.machine)
    counted = count_ids(workspace, train, most.n_blocks, n_ratings)
    n_users, n_items = counted[USER].n_ids, counted[ITEM].n_ids
    plan = make_plan(Workload(n_ratings, n_users, n_items, rank), settings, task.machine)
    for warning in plan.warnings:
        logger.warning("%s", warning)
    indices = index_sides(workspace, counted, plan.n_blocks)
    blocks = build_blocks(workspace, task.ratings, indices)

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
        "n_users": n_users,
        "n_items": n_items,
        "singular_values": rotation.singular_values.tolist(),
        "best_iteration": outcome.best_iteration,
        "stopped": outcome.stopped,
        "n_cold_validation": task.summary.n_validation - blocks[USER].n_held_out,
        "execution": "distributed",
        "exchange": plan.exchange,
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
