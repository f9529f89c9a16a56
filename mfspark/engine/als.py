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
from mfspark.engine.fit import Fit, Summary, problems_of, summarise
from mfspark.engine.half_step import SolvedSide, initial_factors, run_half_step
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import OneTask, fit_in_one_task
from mfspark.engine.plan import Machine, Workload, make_plan
from mfspark.engine.progress import Progress, log_history
from mfspark.engine.tables import factor_table, find_rotation
from mfspark.engine.threaded_als import ThreadedALS
from mfspark.engine.workspace import Workspace
from mfspark.kernels.problem import Problem
from mfspark.settings import ALSSettings

logger = logging.getLogger("mfspark")


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
            problems_of(settings, mean),
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
            ThreadedALS(
                settings.rank, task.problems, settings.max_iter, settings.tol, settings.seed
            ),
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
