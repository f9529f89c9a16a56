"""Stochastic gradient descent from a ratings DataFrame to factor tables: the whole fit."""

import logging
from functools import partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import HELD_OUT, ITEM, RATING, USER
from mfspark.engine.descend import Rates, descend
from mfspark.engine.fit import Fit, Summary, problems_of, summarise
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.meetings import (
    Descending,
    build_strata,
    factors_of,
    initial_cells,
    run_epoch,
)
from mfspark.engine.one_task import OneTask, fit_in_one_task
from mfspark.engine.plan import Machine, Workload, is_for_one_task
from mfspark.engine.progress import Progress, log_history
from mfspark.engine.tables import factor_table, find_rotation
from mfspark.engine.threaded_sgd import ThreadedSGD
from mfspark.engine.workspace import Workspace
from mfspark.kernels.problem import Problem
from mfspark.settings import SGDSettings

logger = logging.getLogger("mfspark")

# Enough for sixteen threads, and so many that the rows of two blocks stay in a core's cache.
_BLOCKS_IN_ONE_TASK = 16


def fit_sgd(ratings: DataFrame, settings: SGDSettings) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured after each epoch and decides
    when to stop. Raises ``DataError`` for ids or ratings that are null or not finite,
    ``DivergenceError`` when no rate helps.
    """
    with Workspace(ratings.sparkSession) as workspace:
        summary = summarise(ratings)
        mean = summary.mean if settings.fit_biases else 0.0
        problems = problems_of(settings, mean)
        machine = machine_of(workspace.spark)
        ratings = ratings.withColumn(RATING, F.col(RATING).cast("float"))
        # Users and items are not counted yet; the task counts them before it begins.
        size = Workload(summary.n_ratings, 0, 0, settings.rank)
        found = None
        if settings.execution == "one_task" or (
            settings.execution == "auto" and is_for_one_task(size, machine)
        ):
            found = _fit_in_one_task(workspace, ratings, settings, problems, machine)
        if found is None:
            found = _fit_distributed(workspace, ratings, settings, problems, machine, summary)
        return Fit(**found, summary=summary, mean=mean)


def _rates(settings: SGDSettings) -> Rates:
    return Rates(settings.schedule, settings.learning_rate, settings.rate_decay)


def _fit_in_one_task(
    workspace: Workspace,
    ratings: DataFrame,
    settings: SGDSettings,
    problems: dict[str, Problem],
    machine: Machine,
) -> dict[str, Any] | None:
    """Fields of ``Fit``; None when users and items turn out too many for one task."""
    learner = ThreadedSGD(
        settings.rank,
        problems,
        _rates(settings),
        settings.max_iter,
        settings.tol,
        settings.seed,
        settings.num_blocks or _BLOCKS_IN_ONE_TASK,
    )
    most_bytes = machine.task_bytes if settings.execution == "auto" else None
    fitted = fit_in_one_task(workspace, ratings, OneTask(learner, machine.task_cores, most_bytes))
    if fitted is None:
        return None
    log_history(fitted.facts["history"], "SGD")
    return {
        "users": fitted.users,
        "items": fitted.items,
        "execution": "one_task",
        "exchange": {},
        **fitted.facts,
    }


def _fit_distributed(
    workspace: Workspace,
    ratings: DataFrame,
    settings: SGDSettings,
    problems: dict[str, Problem],
    machine: Machine,
    summary: Summary,
) -> dict[str, Any]:
    """Fields of ``Fit``."""
    train = ratings.where(~F.col(HELD_OUT)) if HELD_OUT in ratings.columns else ratings
    wanted = settings.num_blocks or machine.cores
    counted = count_ids(workspace, train, {USER: wanted, ITEM: wanted}, summary.n_ratings)
    # Every block gets a piece, so that none is empty.
    n_blocks = min(wanted, *(len(side.pieces) for side in counted.values()))
    # No row is dealt out: its updates follow one after another.
    indices = index_sides(workspace, counted, {USER: n_blocks, ITEM: n_blocks}, deal_out=False)
    strata = build_strata(workspace, ratings, indices)
    rank, layouts = settings.rank, {side: index.layout for side, index in indices.items()}
    descending = Descending(
        strata.files, layouts[ITEM], problems, _rates(settings), rank, settings.seed
    )
    n_rows = sum(layout.n_rows for layout in layouts.values())
    with Progress(settings.max_iter, "SGD") as progress:
        done = descend(
            partial(run_epoch, workspace, strata, descending),
            initial_cells(workspace, indices, rank, settings.seed),
            descending.rates,
            summary.squared_deviation(problems[USER].mean),
            settings.tol,
            settings.max_iter,
            # Both sides' parameters in each sub-epoch.
            4 * n_rows * (rank + 4) * n_blocks,
            progress.iteration,
        )
    factors = {side: factors_of(done.state, side, rank) for side in (USER, ITEM)}
    rotation = find_rotation(factors[USER], factors[ITEM], rank)
    users, items = (
        # Eager: the tables must be whole before the workspace lets go of blocks and ids.
        factor_table(factors[side], indices[side], matrix, side).localCheckpoint()
        for side, matrix in ((USER, rotation.users), (ITEM, rotation.items))
    )
    return {
        "users": users,
        "items": items,
        "history": done.history,
        "n_users": layouts[USER].n_rows,
        "n_items": layouts[ITEM].n_rows,
        "singular_values": rotation.singular_values.tolist(),
        "best_iteration": done.best_iteration,
        "stopped": done.stopped,
        "n_cold_validation": summary.n_validation - strata.n_held_out,
        "execution": "distributed",
        "exchange": {},
    }
