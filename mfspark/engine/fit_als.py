"""Alternating least squares from a ratings DataFrame to factor tables: the whole fit."""

import logging
from functools import partial
from typing import Any

from pyspark.sql import DataFrame

from mfspark.columns import ITEM, USER
from mfspark.engine.als_half_step import SolvedSide, initial_factors, run_half_step
from mfspark.engine.alternate import Solver, alternate
from mfspark.engine.blocks import build_blocks
from mfspark.engine.compiling import start_compiling
from mfspark.engine.exchange import make_exchange
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.fit import Fit, Training, run_fit
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.plan import Workload, make_plan
from mfspark.engine.progress import Progress
from mfspark.engine.threaded_als import ThreadedALS
from mfspark.engine.workspace import where_to_keep
from mfspark.kernels.problem import Problem
from mfspark.settings import ALSSettings

logger = logging.getLogger("mfspark")


def fit_als(
    ratings: DataFrame,
    settings: ALSSettings,
    known: dict[str, DataFrame] | None = None,
    name: str | None = "ALS",
    scale: float | None = None,
) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured inside each half-step and
    decides when to stop. ``known``: id, bias and factors to start from, by side. ``name`` is for
    progress; without one there is none. ``scale`` as in ``run_fit``. Raises ``DataError`` for ids
    or ratings that are null or not finite.
    """

    def learner(problems: dict[str, Problem], scale: float) -> ThreadedALS:
        return ThreadedALS(
            settings.rank, problems, settings.max_iter, settings.tol, settings.seed, scale
        )

    distributed = partial(_fit_distributed, settings, name)
    return run_fit(name, ratings, settings, known or {}, learner, distributed, 2, scale)


def _fit_distributed(settings: ALSSettings, name: str | None, training: Training) -> dict[str, Any]:
    """Fields of ``Fit``."""
    workspace, problems = training.workspace, training.problems
    n_ratings, rank = training.summary.n_ratings, settings.rank
    compiling = start_compiling(workspace.spark, training.machine.cores, ("als",))
    # At most every rating has a user and an item of its own.
    most = make_plan(Workload(n_ratings, n_ratings, n_ratings, rank), settings, training.machine)
    counted = count_ids(workspace, training.fitted, most.n_blocks, n_ratings)
    n_users, n_items = counted[USER].n_ids, counted[ITEM].n_ids
    plan = make_plan(Workload(n_ratings, n_users, n_items, rank), settings, training.machine)
    for warning in plan.warnings:
        logger.warning("%s", warning)
    indices = index_sides(workspace, counted, plan.n_blocks)
    blocks = build_blocks(workspace, training.ratings, indices)
    keep = where_to_keep({USER: n_users, ITEM: n_items}, rank)

    def solver(side: str, other: str) -> Solver[DataFrame]:
        exchange = make_exchange(
            workspace, blocks[side], indices[other].layout, rank, plan.exchange[side]
        )
        solved = SolvedSide(blocks[side], exchange, problems[side], rank, keep[side])
        return Solver(side, partial(run_half_step, workspace, solved), exchange.bytes_shipped)

    start = initial_factors(
        workspace, indices[ITEM], training.known.get(ITEM), ITEM, problems[ITEM], rank,
        settings.seed, keep[ITEM],
    )  # fmt: skip
    compiling.join()
    with Progress(settings.max_iter, name) as progress:
        outcome = alternate(
            solver(USER, ITEM),
            solver(ITEM, USER),
            start,
            settings.tol,
            settings.max_iter,
            training.scale,
            progress.iteration,
        )
    cells = {USER: outcome.users, ITEM: outcome.items}
    users, items, singular_values = factor_tables(workspace, cells, indices, rank, training.scale)
    return {
        "users": users,
        "items": items,
        "history": outcome.history,
        "n_users": n_users,
        "n_items": n_items,
        "singular_values": singular_values,
        "best_iteration": outcome.best_iteration,
        "stopped": outcome.stopped,
        "n_cold_validation": training.summary.n_validation - blocks[USER].n_held_out,
        "execution": "distributed",
        "exchange": plan.exchange,
    }
