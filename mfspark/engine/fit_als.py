"""Alternating least squares from a ratings DataFrame to factor tables: the whole fit."""

from pyspark.sql import DataFrame

from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.history import History, Learnt
from mfspark.algorithms.snapshots import LoopState, Snapshots
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide, run_half_step, start_factors
from mfspark.engine.blocks import RatingBlockFormat, build_blocks
from mfspark.engine.compiling import start_compiling
from mfspark.engine.encoded import encode_ratings
from mfspark.engine.exchange import make_exchange
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import fit_in_one_task
from mfspark.engine.packed import Packs, pack_ratings
from mfspark.engine.pilot import with_weights
from mfspark.engine.plan import Plan, plan_als, refuse_distributed_features
from mfspark.engine.progress import Progress
from mfspark.engine.saved_cells import FitSnapshots
from mfspark.engine.summed_iteration import (
    SummedBlockFormat,
    SummedItems,
    run_summed_iteration,
)
from mfspark.engine.training import Fit, Training, objective_of, prepare
from mfspark.engine.workspace import Workspace
from mfspark.kernels.objective import Objective
from mfspark.settings import ALSSettings

# Tables that a fit may go back to: the best iteration is the last one or the one before, of either
# side, and a half-step makes two tables where files were missing.
_RECENT = 8


def fit_als(
    ratings: DataFrame,
    settings: ALSSettings,
    known: dict[Side, DataFrame] | None = None,
    name: str | None = "ALS",
    scale: float | None = None,
    objective: Objective | None = None,
    snapshots: Snapshots | None = None,
) -> Fit:
    """Fit the biased model to ``ratings`` (user, item, rating, and maybe is_validation boolean).

    Rows with ``is_validation`` true are not fitted; their error is measured inside each half-step
    and decides when to stop. ``known``: id, bias and factors to start from, by side. ``name`` is
    for progress; without one there is none. ``scale`` as in ``prepare``.
    ``objective``: what an earlier fit minimised, for one that is to minimise the same.
    ``snapshots``: where the fit leaves its state, and goes on from that of an earlier one. Raises
    ``ConfigError`` for a distributed fit with features, ``DataError`` for ids or ratings that are
    null or not finite, ``DivergenceError`` when the objective leaves all bounds, ``FitError`` when
    Spark gives up.
    """
    refuse_distributed_features(settings.execution, settings.implicit_features)
    with Workspace(ratings.sparkSession, name) as workspace:
        minimised = objective or objective_of(settings)
        packs, summary = pack_ratings(workspace, ratings, settings.rank, snapshots is not None)
        training = prepare(summary, settings.rank, minimised, known or {}, scale)
        plan = plan_als(training.workload(settings.rank), settings, machine_of(workspace.spark))
        plan.log_warnings()
        state = FitSnapshots(snapshots, training, (known or {}).values(), plan, name)
        training, plan = state.resumed(training, plan)
        workspace.phases.end("prepare")
        if objective is None and state.loop is None:
            training = with_weights(packs, training, settings, plan.n_threads)
            workspace.phases.end("penalties")
        if plan.in_one_task:
            als = ThreadedALS(
                training.objective, settings, training.scale, snapshots=state.snapshots
            )
            return fit_in_one_task(workspace, packs, training, als, plan.n_threads, name)
        return _als_on_blocks(workspace, packs, training, settings, plan, name, state)


def _als_on_blocks(
    workspace: Workspace,
    packs: Packs,
    training: Training,
    settings: ALSSettings,
    plan: Plan,
    name: str | None,
    state: FitSnapshots,
) -> Fit:
    """Encode, count, index, build blocks, alternate until the history ends it, make tables."""
    compiling = start_compiling(workspace.spark, plan.n_cores, ("als",))
    encoded = encode_ratings(
        workspace,
        packs,
        training.unit,
        plan.n_blocks,
        training.summary.n_rows,
        plan.n_cores,
        plan.has_few_ids,
    )
    counted = count_ids(workspace, encoded, training.summary.n_ratings, plan.on_driver)
    workspace.phases.end("count")
    is_summed = plan.exchange[ITEM] == "moments"
    indices = index_sides(workspace, counted, plan.n_blocks, split_hot=not is_summed)
    workspace.phases.end("index")
    formats: dict[Side, RatingBlockFormat] = (
        {USER: SummedBlockFormat()} if is_summed else dict.fromkeys(Side, RatingBlockFormat())
    )
    summed = SummedItems(indices[ITEM].layout, training.objective, settings.rank, plan.keep[ITEM])
    known = training.known.get(ITEM)
    items, penalty = start_factors(workspace, indices[ITEM], known, summed, settings.seed)
    if state.loop is not None:
        items = state.cells(workspace, "items", plan.keep[ITEM])
    # What else runs while blocks are built keeps them off some executors.
    compiling.join()
    blocks = build_blocks(workspace, encoded, indices, formats)
    solved: dict[Side, SolvedSide] = {}
    for side in formats:
        exchange = make_exchange(
            workspace,
            blocks[side],
            indices[side.other].layout,
            settings.rank,
            plan.exchange[side],
            settings.half_width,
        )
        solved[side] = SolvedSide(
            side=side,
            blocks=blocks[side],
            exchange=exchange,
            objective=training.objective,
            rank=settings.rank,
            keep=plan.keep[side],
            solver=settings.solver,
        )
    workspace.phases.end("build")
    history = History(
        settings.max_iter,
        settings.tol,
        training.scale,
        {ITEM: penalty},
        state=None if state.loop is None else state.loop.history,
    )
    with Progress(settings.max_iter, name) as progress:
        for _ in history.iterations():
            begun, past = items, history.state
            if is_summed:
                items, both, n_bytes = run_summed_iteration(workspace, solved[USER], summed, items)
                # The history has the seconds of the job beside the users.
                history.add(USER, both[USER], solved[USER].exchange.bytes_shipped)
                history.add(ITEM, both[ITEM], n_bytes)
            else:
                users, sums = run_half_step(workspace, solved[USER], items)
                history.add(USER, sums, solved[USER].exchange.bytes_shipped)
                workspace.forget(0, workspace.n_kept - _RECENT)
                items, sums = run_half_step(workspace, solved[ITEM], users)
                history.add(ITEM, sums, solved[ITEM].exchange.bytes_shipped)
            workspace.forget(0, workspace.n_kept - _RECENT)
            if history.end_iteration():
                best_items, best_users = items, begun if is_summed else users
            if history.stopped is None and state.saver.is_due:
                state.save(LoopState.before_best(training.objective, past), plan, {"items": begun})
            progress.report(history.rows)
    workspace.phases.end("iterations")
    if is_summed:
        # Of users nothing was kept: theirs are those of the items that the iteration began with.
        best_users, _ = run_half_step(workspace, solved[USER], best_users)
    best = {USER: best_users, ITEM: best_items}
    tables, rotation = factor_tables(workspace, best, indices, settings.rank, training.scale)
    learnt = Learnt(
        n_users=indices[USER].layout.n_rows,
        n_items=indices[ITEM].layout.n_rows,
        n_cold_validation=training.summary.n_validation - blocks[USER].n_validation,
        singular_values=rotation.singular_values.tolist(),
        user_penalty=rotation.user_penalty.tolist(),
        history=history.rows,
        best_iteration=history.best_iteration,
        stopped=history.reason,
        execution="distributed",
        exchange=plan.exchange,
    )
    return training.fit(tables, learnt, workspace.phases)
