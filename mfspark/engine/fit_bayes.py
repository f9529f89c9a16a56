"""Bayesian matrix factorisation from a ratings DataFrame to factor tables: the whole fit."""

import math
from dataclasses import replace

from pyspark.sql import DataFrame

from mfspark.algorithms.diagnostics import Trace, diagnose, signal_norm
from mfspark.algorithms.gibbs_threads import WARM_UP, ThreadedGibbs, chain_seed
from mfspark.algorithms.history import History, Learnt
from mfspark.algorithms.posterior import StoredDraws, spread_of
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide
from mfspark.engine.blocks import build_blocks
from mfspark.engine.compiling import start_compiling
from mfspark.engine.draw_tables import draw_tables
from mfspark.engine.exchange import make_exchange
from mfspark.engine.factor_tables import factor_tables
from mfspark.engine.gibbs_sweep import Draw, run_sweep, start_chain
from mfspark.engine.index import count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.mean_cells import MeanCells
from mfspark.engine.one_task import fit_in_one_task
from mfspark.engine.plan import Plan, plan_bayes, refuse_distributed_features
from mfspark.engine.progress import Progress
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
) -> Fit:
    """Sample the posterior of the biased model of ``ratings`` (user, item, rating, and maybe
    is_validation boolean), and average its draws.

    Rows with ``is_validation`` true are not fitted; the error of the mean over all draws on them
    decides when to stop. ``known``: id, bias and factors to start from, by side; ``features`` as in
    ``Training``. Raises ``ConfigError`` for a distributed fit with features, ``DataError`` for ids
    or ratings that are null or not finite, ``FitError`` when Spark gives up.
    """
    has_features = settings.implicit_features or bool(features)
    refuse_distributed_features(settings.execution, has_features)
    # Of the iterations of ALS before the first draw.
    objective = objective_of(ALSSettings())
    with Workspace(ratings.sparkSession) as workspace:
        training = prepare(ratings, settings.rank, objective, known or {})
        training = replace(training, features=features or {})
        workload, machine = training.workload(settings.rank), machine_of(workspace.spark)
        plan = plan_bayes(workload, settings, machine, has_features)
        plan.log_warnings()
        if plan.in_one_task:
            gibbs = ThreadedGibbs(training.objective, settings, training.scale)
            return fit_in_one_task(workspace, training, gibbs, plan.n_threads, _NAME)
        return _chains_on_blocks(workspace, training, settings, plan)


def _chains_on_blocks(
    workspace: Workspace, training: Training, settings: BayesianSettings, plan: Plan
) -> Fit:
    """Count, index, build blocks, sample until the history ends it, make tables."""
    compiling = start_compiling(workspace.spark, plan.n_cores, ("als", "bayes"))
    n_ratings, n_blocks = training.summary.n_ratings, plan.n_blocks
    counted = count_ids(workspace, training.fitted, n_blocks, n_ratings)
    indices = index_sides(workspace, counted, n_blocks)
    layouts = {side: index.layout for side, index in indices.items()}
    blocks = build_blocks(workspace, training.ratings, indices)
    n_validation = blocks[USER].n_validation
    solved = {}
    for side in Side:
        exchange = make_exchange(
            workspace, blocks[side], layouts[side.other], settings.rank, plan.exchange[side]
        )
        solved[side] = SolvedSide(
            side, blocks[side], exchange, training.objective, settings.rank, plan.keep[side]
        )
    bytes_shipped = sum(each.exchange.bytes_shipped for each in solved.values())
    compiling.join()
    history = History(settings.max_iter, settings.tol, training.scale)
    mean = MeanCells(workspace, layouts, settings.rank, plan.keep[USER])
    stored = StoredDraws[Draw](settings.keep_draws)
    traces: list[list[Trace]] = []
    with Progress(settings.max_iter, _NAME) as progress:
        for number in range(settings.num_chains):
            seed = chain_seed(settings.seed, number)
            drawn, draw = start_chain(workspace, solved, indices, training.known, seed, WARM_UP)
            traces.append([])
            is_first = number == 0
            for sweep in (
                history.iterations() if is_first else range(1, history.rows[-1].iteration + 1)
            ):
                before = draw
                draw, hyper = run_sweep(workspace, drawn, draw, n_ratings, seed, sweep)
                is_folded = False
                was_waiting = [before, *mean.waiting, *stored.kept]
                if sweep > settings.burn_in:
                    spread = spread_of(hyper.noise_precision, hyper.priors, draw.sums)
                    stored.add(draw, spread)
                    traces[-1].append(_trace(draw, hyper.noise_precision, n_ratings, n_validation))
                    is_folded = mean.add(draw)
                _forget(workspace, was_waiting, [draw, *mean.waiting, *stored.kept])
                if not is_first:
                    continue
                told = PassSums(draw.squared_error, n_ratings, hyper.penalty(draw.sums), 0.0, 0)
                error = None
                if is_folded:
                    error = mean.squared_error(solved[USER], n_validation > 0)
                if error is not None and n_validation:
                    told = told._replace(validation_squared_error=error, n_validation=n_validation)
                history.add("both", told, bytes_shipped)
                if error is not None:
                    history.end_draws(error)
                progress.report(history.rows)
    cells = mean.final()
    tables, rotation = factor_tables(workspace, cells, indices, settings.rank, training.scale)
    draws = draw_tables(
        workspace, [draw.rows for draw in stored.kept], indices, settings.rank, training.scale
    )
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
        n_draws=len(stored.kept),
        spread=stored.spread.scaled(training.scale),
        diagnostics=diagnose(traces, training.scale),
    )
    return training.fit(tables, learnt, draws)


def _trace(draw: Draw, noise_precision: float, n_ratings: int, n_validation: int) -> Trace:
    missed = draw.validation_squared_error
    return Trace(
        noise=1 / math.sqrt(noise_precision),
        signal=signal_norm(draw.sums[USER], draw.sums[ITEM]),
        train_rmse=math.sqrt(draw.squared_error / n_ratings),
        validation_rmse=math.sqrt(missed / n_validation) if n_validation else math.nan,
    )


def _forget(workspace: Workspace, before: list[Draw], needed: list[Draw]) -> None:
    """Let go of the tables of draws that are not needed any longer."""
    alive = {draw.kept for draw in needed}
    for kept in {draw.kept for draw in before} - alive:
        workspace.forget(kept.start, kept.stop)
