"""Bayesian matrix factorisation from a ratings DataFrame to factor tables: the whole fit."""

from dataclasses import replace

from pyspark.sql import DataFrame

from mfspark.algorithms.diagnostics import diagnose
from mfspark.algorithms.gibbs_threads import WARM_UP, ThreadedGibbs, chain_seed
from mfspark.algorithms.history import History, Learnt
from mfspark.algorithms.snapshots import LoopState, Snapshots
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide
from mfspark.engine.averages import Averages
from mfspark.engine.blocks import RatingBlockFormat, build_blocks
from mfspark.engine.compiling import start_compiling
from mfspark.engine.draw_tables import draw_tables
from mfspark.engine.encoded import encode_ratings
from mfspark.engine.exchange import make_exchange
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.gibbs_sweep import Draw, chain_keys, run_sweep, start_chain
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.one_task import fit_in_one_task
from mfspark.engine.packed import Packs, pack_ratings
from mfspark.engine.plan import Plan, plan_bayes, refuse_distributed_features
from mfspark.engine.progress import Progress
from mfspark.engine.saved_cells import FitSnapshots
from mfspark.engine.training import Fit, Training, objective_of, prepare
from mfspark.engine.workspace import Workspace
from mfspark.kernels.objective import PassSums
from mfspark.settings import ALSSettings, BayesianSettings

_NAME = "BayesianMF"


def fit_bayes(
    ratings: DataFrame,
    settings: BayesianSettings,
    known: dict[Side, DataFrame] | None = None,
    features: dict[Side, DataFrame] | None = None,
    snapshots: Snapshots | None = None,
) -> Fit:
    """Sample the posterior of the biased model of ``ratings`` (user, item, rating, and maybe
    is_validation boolean), and average its draws.

    Rows with ``is_validation`` true are not fitted; the error of the mean over all draws on them
    decides when to stop. ``known``: id, bias and factors to start from, by side; ``features`` as in
    ``Training``. ``snapshots``: where the fit leaves its state, and goes on from that of an earlier
    one. Raises ``ConfigError`` for a distributed fit with features, ``DataError`` for ids
    or ratings that are null or not finite, ``FitError`` when Spark gives up.
    """
    has_features = settings.implicit_features or bool(features)
    refuse_distributed_features(settings.execution, has_features)
    # Of the iterations of ALS before the first draw.
    objective = objective_of(ALSSettings())
    with Workspace(ratings.sparkSession, _NAME) as workspace:
        packs, summary = pack_ratings(workspace, ratings, settings.rank, snapshots is not None)
        training = prepare(summary, settings.rank, objective, known or {})
        training = replace(training, features=features or {})
        workload, machine = training.workload(settings.rank), machine_of(workspace.spark)
        plan = plan_bayes(workload, settings, machine, has_features)
        plan.log_warnings()
        beside = [*(known or {}).values(), *(features or {}).values()]
        state = FitSnapshots(snapshots, training, beside, plan, _NAME)
        training, plan = state.resumed(training, plan)
        workspace.phases.end("prepare")
        if plan.in_one_task:
            gibbs = ThreadedGibbs(
                training.objective, settings, training.scale, snapshots=state.snapshots
            )
            return fit_in_one_task(workspace, packs, training, gibbs, plan.n_threads, _NAME)
        return _chains_on_blocks(workspace, packs, training, settings, plan, state)


def _chains_on_blocks(
    workspace: Workspace,
    packs: Packs,
    training: Training,
    settings: BayesianSettings,
    plan: Plan,
    state: FitSnapshots,
) -> Fit:
    """Encode, count, index, build blocks, sample until the history ends it, make tables."""
    compiling = start_compiling(workspace.spark, plan.n_cores, ("als", "bayes"))
    n_ratings, n_rows = training.summary.n_ratings, training.summary.n_rows
    encoded = encode_ratings(workspace, packs, training.unit, plan.n_blocks, n_rows, plan.n_cores)
    counted = count_ids(workspace, encoded, n_ratings)
    workspace.phases.end("count")
    indices = index_sides(workspace, counted, plan.n_blocks)
    workspace.phases.end("index")
    layouts = {side: index.layout for side, index in indices.items()}
    # What else runs while blocks are built keeps them off some executors.
    compiling.join()
    blocks = build_blocks(workspace, encoded, indices, dict.fromkeys(Side, RatingBlockFormat()))
    n_validation = blocks[USER].n_validation
    solved = {
        side: SolvedSide(
            side=side,
            blocks=blocks[side],
            exchange=make_exchange(
                workspace, blocks[side], layouts[side.other], settings.rank, plan.exchange[side]
            ),
            objective=training.objective,
            rank=settings.rank,
            keep=plan.keep[side],
            solver="auto",
        )
        for side in Side
    }
    bytes_shipped = sum(each.exchange.bytes_shipped for each in solved.values())
    workspace.phases.end("build")
    history = History(
        settings.max_iter,
        settings.tol,
        training.scale,
        state=None if state.loop is None else state.loop.history,
    )
    place = None if state.loop is None else state.loop.chain
    averages = Averages(workspace, settings, layouts, plan.keep[USER], state)
    mean = averages.mean
    with Progress(settings.max_iter, _NAME) as progress:
        for number in range(place.number if place else 0, settings.num_chains):
            seed = chain_seed(settings.seed, number)
            drawn = chain_keys(workspace, solved, indices, seed)
            done = 0
            if place is not None and number == place.number:
                draw, done = averages.saved_draw(place), place.sweep
            else:
                draw = start_chain(workspace, solved, indices, training.known, seed, WARM_UP)
                averages.traces.append([])
            is_first = number == 0
            sweeps = history.iterations()
            if not is_first:
                sweeps = iter(range(done + 1, history.rows[-1].iteration + 1))
            for sweep in sweeps:
                held = [draw, *averages.held]
                draw, hyper = run_sweep(workspace, drawn, draw, n_ratings, seed, sweep)
                is_folded = False
                if sweep > settings.burn_in:
                    is_folded = averages.add(draw, hyper, n_ratings, n_validation)
                _forget(workspace, held, [draw, *averages.held])
                if is_first:
                    error = (
                        mean.squared_error(solved[USER], n_validation > 0) if is_folded else None
                    )
                    told = PassSums(draw.squared_error, n_ratings, hyper.penalty(draw.sums), 0.0, 0)
                    _tell(history, told, bytes_shipped, error, n_validation)
                    progress.report(history.rows)
                if not mean.waiting and state.saver.is_due:
                    chain = averages.place(number, sweep, draw)
                    state.save(
                        LoopState(objective=training.objective, history=history.state, chain=chain),
                        plan,
                        averages.cells(draw),
                    )
    workspace.phases.end("iterations")
    tables, rotation = factor_tables(
        workspace, mean.final(), indices, settings.rank, training.scale
    )
    draws = draw_tables(workspace, averages.stored_rows, indices, settings.rank, training.scale)
    learnt = Learnt(
        n_users=layouts[USER].n_rows,
        n_items=layouts[ITEM].n_rows,
        n_cold_validation=training.summary.n_validation - n_validation,
        singular_values=rotation.singular_values.tolist(),
        history=history.rows,
        best_iteration=history.rows[-1].iteration,
        stopped=history.reason,
        execution="distributed",
        exchange=plan.exchange,
        n_draws=len(averages.stored_rows),
        spread=averages.stored.spread.scaled(training.scale),
        diagnostics=diagnose(averages.traces, training.scale),
    )
    return training.fit(tables, learnt, workspace.phases, draws)


def _tell(
    history: History, told: PassSums, bytes_shipped: int, error: float | None, n_validation: int
) -> None:
    """Tell the history of a draw, and of the squared error of the mean, where it was measured."""
    if error is not None and n_validation:
        told = told._replace(validation_squared_error=error, n_validation=n_validation)
    history.add("both", told, bytes_shipped)
    if error is not None:
        history.end_draws(error)


def _forget(workspace: Workspace, before: list[Draw], needed: list[Draw]) -> None:
    """Let go of the tables of draws that are not needed any longer."""
    alive = {draw.kept for draw in needed}
    for kept in {draw.kept for draw in before} - alive:
        workspace.forget(kept.start, kept.stop)
