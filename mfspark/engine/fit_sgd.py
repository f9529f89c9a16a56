"""Stochastic gradient descent from a ratings DataFrame to factor tables: the whole fit."""

from functools import partial
from typing import Any

from pyspark.sql import DataFrame

from mfspark.columns import ITEM, USER
from mfspark.engine.compiling import start_compiling
from mfspark.engine.descend import Rates, descend
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.fit import Fit, Training, run_fit
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.engine.progress import Progress
from mfspark.engine.sgd_epoch import Descending, factors_of, initial_cells, run_epoch
from mfspark.engine.strata import build_strata
from mfspark.engine.threaded_sgd import ThreadedSGD
from mfspark.kernels.problem import Problem
from mfspark.settings import SGDSettings

_NAME = "SGD"

# Enough for sixteen threads, and so many that the rows of two blocks stay in a core's cache.
_BLOCKS_IN_ONE_TASK = 16


def fit_sgd(
    ratings: DataFrame, settings: SGDSettings, known: dict[str, DataFrame] | None = None
) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe held_out boolean).

    Rows with ``held_out`` true are not fitted; their error is measured after each epoch and decides
    when to stop. ``known``: id, bias and factors to start from, by side. Raises ``DataError`` for
    ids or ratings that are null or not finite, ``DivergenceError`` when no rate helps.
    """

    def learner(problems: dict[str, Problem], scale: float) -> ThreadedSGD:
        return ThreadedSGD(
            settings.rank,
            problems,
            _rates(settings),
            settings.max_iter,
            settings.tol,
            settings.seed,
            scale,
            settings.num_blocks or _BLOCKS_IN_ONE_TASK,
        )

    distributed = partial(_fit_distributed, settings)
    # A sub-epoch is a stage, and there are as many as blocks; by default a block per core.
    n_stages = settings.num_blocks or machine_of(ratings.sparkSession).cores
    return run_fit(_NAME, ratings, settings, known or {}, learner, distributed, n_stages)


def _rates(settings: SGDSettings) -> Rates:
    return Rates(settings.schedule, settings.learning_rate, settings.rate_decay)


def _fit_distributed(settings: SGDSettings, training: Training) -> dict[str, Any]:
    """Fields of ``Fit``."""
    workspace, problems, summary = training.workspace, training.problems, training.summary
    compiling = start_compiling(workspace.spark, training.machine.cores, ("sgd",))
    wanted = settings.num_blocks or training.machine.cores
    most_blocks = {USER: wanted, ITEM: wanted}
    counted = count_ids(workspace, training.fitted, most_blocks, summary.n_ratings)
    # Every block gets a piece, so that none is empty.
    n_blocks = min(wanted, *(len(side.pieces) for side in counted.values()))
    # No row is dealt out: its updates follow one after another.
    indices = index_sides(workspace, counted, {USER: n_blocks, ITEM: n_blocks}, deal_out=False)
    strata = build_strata(workspace, training.ratings, indices)
    rank, seed = settings.rank, settings.seed
    n_rows = {side: index.layout.n_rows for side, index in indices.items()}
    is_small = 4 * sum(n_rows.values()) * (rank + 4) <= BROADCAST_LIMIT
    descending = Descending(
        strata.blocks.files, strata.items, problems, _rates(settings), rank, seed,
        "driver" if is_small else "durable",
    )  # fmt: skip
    compiling.join()
    with Progress(settings.max_iter, _NAME) as progress:
        done = descend(
            partial(run_epoch, workspace, strata, descending),
            initial_cells(workspace, indices, training.known, rank, seed, descending.keep),
            descending.rates,
            # Of ratings whose mean square deviation is 1.
            float(summary.n_ratings),
            settings.tol,
            settings.max_iter,
            # Both sides' parameters in each sub-epoch.
            4 * sum(n_rows.values()) * (rank + 4) * n_blocks,
            training.scale,
            progress.iteration,
        )
    cells = {side: factors_of(done.state, side, rank) for side in (USER, ITEM)}
    users, items, singular_values = factor_tables(workspace, cells, indices, rank, training.scale)
    return {
        "users": users,
        "items": items,
        "history": done.history,
        "n_users": n_rows[USER],
        "n_items": n_rows[ITEM],
        "singular_values": singular_values,
        "best_iteration": done.best_iteration,
        "stopped": done.stopped,
        "n_cold_validation": summary.n_validation - strata.n_held_out,
        "execution": "distributed",
        "exchange": {},
    }
