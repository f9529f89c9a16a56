"""Stochastic gradient descent from a ratings DataFrame to factor tables: the whole fit."""

from pyspark.sql import DataFrame

from mfspark.algorithms.history import History, Learnt
from mfspark.algorithms.learning_rate import LearningRate
from mfspark.algorithms.sgd_threads import PATIENCE, ThreadedSGD
from mfspark.algorithms.snapshots import LoopState, Snapshots
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.compiling import start_compiling
from mfspark.engine.encoded import encode_ratings
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import fit_in_one_task
from mfspark.engine.packed import Packs, pack_ratings
from mfspark.engine.pilot import with_weights
from mfspark.engine.plan import Plan, plan_sgd, refuse_distributed_features
from mfspark.engine.progress import Progress
from mfspark.engine.saved_cells import FitSnapshots
from mfspark.engine.sgd_epoch import (
    Descent,
    factor_cells_of,
    parameters_to_save,
    run_epoch,
    saved_parameters,
    start_parameters,
)
from mfspark.engine.training import Fit, Training, objective_of, prepare
from mfspark.engine.user_blocks import build_user_blocks
from mfspark.engine.workspace import Workspace
from mfspark.kernels.objective import Objective
from mfspark.settings import SGDSettings

_NAME = "SGD"


def fit_sgd(
    ratings: DataFrame,
    settings: SGDSettings,
    known: dict[Side, DataFrame] | None = None,
    objective: Objective | None = None,
    snapshots: Snapshots | None = None,
) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe is_validation boolean).

    Rows with ``is_validation`` true are not fitted; their error is measured after each epoch and
    decides when to stop. ``known``: id, bias and factors to start from, by side.
    ``objective``: what an earlier fit minimised, for one that is to minimise the same.
    ``snapshots``: where the fit leaves its state, and goes on from that of an earlier one. Raises
    ``ConfigError`` for a distributed fit with features, ``DataError`` for ids or ratings that are
    null or not finite, ``DivergenceError`` when no rate helps, ``FitError`` when Spark gives up.
    """
    refuse_distributed_features(settings.execution, settings.implicit_features)
    with Workspace(ratings.sparkSession, _NAME) as workspace:
        minimised = objective or objective_of(settings)
        packs, summary = pack_ratings(workspace, ratings, settings.rank, snapshots is not None)
        training = prepare(summary, settings.rank, minimised, known or {})
        plan = plan_sgd(training.workload(settings.rank), settings, machine_of(workspace.spark))
        plan.log_warnings()
        state = FitSnapshots(snapshots, training, (known or {}).values(), plan, _NAME)
        training, plan = state.resumed(training, plan)
        workspace.phases.end("prepare")
        if objective is None and state.loop is None:
            training = with_weights(packs, training, settings, plan.n_threads)
            workspace.phases.end("penalties")
        if plan.in_one_task:
            sgd = ThreadedSGD(
                training.objective, settings, training.scale, snapshots=state.snapshots
            )
            return fit_in_one_task(workspace, packs, training, sgd, plan.n_threads, _NAME)
        return _sgd_on_strata(workspace, packs, training, settings, plan, state)


def _sgd_on_strata(
    workspace: Workspace,
    packs: Packs,
    training: Training,
    settings: SGDSettings,
    plan: Plan,
    state: FitSnapshots,
) -> Fit:
    """Encode, count, index, build blocks, descend until the history ends it, make tables."""
    compiling = start_compiling(workspace.spark, plan.n_cores, ("sgd",))
    encoded = encode_ratings(
        workspace,
        packs,
        training.unit,
        plan.n_blocks,
        training.summary.n_rows,
        plan.n_cores,
    )
    counted = count_ids(workspace, encoded, training.summary.n_ratings)
    workspace.phases.end("count")
    # Every block gets a piece, so that none is empty.
    n_blocks = min(plan.n_blocks[USER], *(len(side.pieces) for side in counted.values()))
    # No row is split over several blocks: its updates follow one after another.
    indices = index_sides(workspace, counted, dict.fromkeys(Side, n_blocks), split_hot=False)
    workspace.phases.end("index")
    # What else runs while blocks are built keeps them off some executors.
    compiling.join()
    blocks = build_user_blocks(workspace, encoded, indices)
    descent = Descent(blocks, training.objective, settings.rank, settings.seed, plan.keep[USER])
    if state.loop is None:
        reached = best = start_parameters(workspace, indices, training.known, descent)
    else:
        reached, best = saved_parameters(workspace, state, descent)
    # Of ratings whose mean square deviation is 1.
    learning_rate = LearningRate(
        settings,
        null_error=float(training.summary.n_ratings),
        state=None if state.loop is None else state.loop.rate,
    )
    workspace.phases.end("build")
    history = History(
        settings.max_iter,
        settings.tol,
        training.scale,
        patience=PATIENCE,
        state=None if state.loop is None else state.loop.history,
    )
    with Progress(settings.max_iter, _NAME) as progress:
        for epoch in history.iterations():
            rate = learning_rate.of(epoch)
            after, sums = run_epoch(
                workspace, descent, reached, epoch, rate, learning_rate.is_by_row
            )
            if learning_rate.has_diverged(epoch, sums):
                history.repeat_iteration()
                continue
            if learning_rate.rejects(sums):
                continue
            reached = after
            history.add("both", sums, descent.bytes_shipped, rate)
            if history.end_iteration():
                best = reached
            if history.stopped is None and state.saver.is_due:
                loop = LoopState(
                    objective=training.objective,
                    history=history.state,
                    rate=learning_rate.state,
                )
                state.save(loop, plan, parameters_to_save(reached, best))
            progress.report(history.rows)
    cells = {side: factor_cells_of(best, side, settings.rank) for side in Side}
    workspace.phases.end("iterations")
    tables, rotation = factor_tables(workspace, cells, indices, settings.rank, training.scale)
    learnt = Learnt(
        n_users=indices[USER].layout.n_rows,
        n_items=indices[ITEM].layout.n_rows,
        n_cold_validation=training.summary.n_validation - blocks.n_validation,
        singular_values=rotation.singular_values.tolist(),
        user_penalty=rotation.user_penalty.tolist(),
        history=history.rows,
        best_iteration=history.best_iteration,
        stopped=history.reason,
        execution="distributed",
        exchange={},
    )
    return training.fit(tables, learnt, workspace.phases)
