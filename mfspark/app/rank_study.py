"""How many factors the ratings bear: error, size and stability by rank."""

import logging
import time
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.configured_columns import features_of_run, refuse_unused_features
from mfspark.app.estimators import make_estimator, mark_validation
from mfspark.app.ingest import ingest
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import FACTORS, IS_VALIDATION, RATING, USER
from mfspark.data.split import PARTS
from mfspark.errors import DataError
from mfspark.evaluation.ratings import MODEL, rating_metrics
from mfspark.interpretation.agreement import factor_agreement
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist
from mfspark.report.rank_page import write_rank_page
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")

SCHEMA = (
    "rank int, parameters double, compression double, train_rmse double, test_rmse double, "
    "test_low double, test_high double, agreement double, iterations int, fit_seconds double, "
    "validation_rmse double, excess double, excess_error double, is_chosen boolean"
)


class Trial(NamedTuple):
    """What a row of the table ``ranks`` has of a rank alone; see ``rank_study``."""

    rank: int
    parameters: float
    compression: float
    train_rmse: float
    test_rmse: float | None
    test_low: float | None
    test_high: float | None
    agreement: float | None
    iterations: int
    fit_seconds: float


def rank_study(spark: SparkSession, run: RunDirectory) -> None:
    """Fit the configured model with each rank: ranks/, a table and a page about it.

    parameters: numbers in the model; compression: cells of the rating matrix for each of them;
    train, validation and test RMSE (test with its 95 % interval); agreement: of the factors of two
    fits with different seeds; excess: of the validation RMSE over the lowest, with its standard
    error, users being the units. Chosen is the smallest rank whose excess is within one standard
    error (the rule of Breiman et al. 1984, section 3.4.3, with errors of paired differences, since
    the same users rate hard for all ranks); test ratings choose nothing.

    Each rank begins at random, as it does in the train job, unless ``ranks.warm_start`` has the
    first of its two fits begin with the first factors of the rank above. That takes fewer
    iterations but, on MovieLens 100K and 1M, more time, as the start is to be brought to the
    ratings; and low ranks come out better than the train job makes them (100K, rank 4: .910 on
    validation ratings in place of .912). Begun with the factors of the rank below, a fit may stop
    where it has hardly left them (100K, rank 1: .924 in place of .905).
    """
    if not files.exists(run.of("ratings")):
        ingest(spark, run)
    with run.step("ranks", "ranks") as facts:
        refuse_unused_features(run.config.train)
        train, validation, test = (run.ratings(spark, part) for part in PARTS)
        if validation.isEmpty():
            raise DataError(
                "there are no validation ratings to choose a rank by; pass --set "
                "split.validation=0.1 --set run.overwrite=true to the ingest job"
            )
        ratings = persist(mark_validation(train, validation, IS_VALIDATION))
        with run.output("ranks", ("ratings",)) as target:
            found = _trials(spark, run, ratings, (validation, test), f"{target}/start")
            trials, squares = [trial for trial, _ in found], [errors for _, errors in found]
            rmse, error = validation_errors(squares)
            excess = rmse - rmse.min()
            for table in (ratings, *squares):
                unpersist(table)
            chosen = next(t.rank for t, e, s in zip(trials, excess, error, strict=True) if e <= s)
            rows = [
                (*trial, *map(float, figures), trial.rank == chosen)
                for trial, *figures in zip(trials, rmse, excess, error, strict=True)
            ]
            files.write_parquet(table_of(spark, rows, SCHEMA).coalesce(1), f"{target}/ranks")
            write_rank_page(
                run.config.run.name, run.ingested().model_dump(), f"{target}/ranks",
                f"{target}/index.html", run.config.data.unit, run.config.train.model,
            )  # fmt: skip
        facts["chosen"] = chosen
    print(_table(trials, rmse, chosen))
    print(f"\nSmallest rank within one standard error of the lowest validation RMSE: {chosen}")
    print(f"Report: {run.current('ranks/index.html')}")


def validation_errors(squares: list[DataFrame]) -> tuple[Float64s, Float64s]:
    """RMSE of each model, and the standard error of its difference to the lowest one, float64
    [n_models] each.

    ``squares``: user, n, squares (Σ e² of the user's n ratings) of each model on the same ratings.
    With means M, a user moves RMSE by (squares − M n) / (2 √M Σ n).
    """
    table = squares[0].select(USER, "n", F.col("squares").alias("s0"))
    for number, other in enumerate(squares[1:], start=1):
        table = table.join(other.select(USER, F.col("squares").alias(f"s{number}")), USER)
    names = [f"s{number}" for number in range(len(squares))]
    sums = table.agg(F.sum("n"), *[F.sum(name) for name in names]).collect()[0]
    n, means = sums[0], np.array(sums[1:]) / sums[0]
    rmse = np.sqrt(means)
    best = int(np.argmin(rmse))

    def moved(number: int) -> Column:
        mean, root = float(means[number]), float(max(rmse[number], 1e-300))
        part: Column = (F.col(names[number]) - mean * F.col("n")) / (2 * root * n)
        return part

    variances = table.agg(
        *[F.sum(F.pow(moved(number) - moved(best), 2)) for number in range(len(squares))]
    ).collect()[0]
    return rmse, np.sqrt(np.array(variances, np.float64))


def _trials(
    spark: SparkSession,
    run: RunDirectory,
    ratings: DataFrame,
    parts: tuple[DataFrame, DataFrame],
    start: str,
) -> list[tuple[Trial, DataFrame]]:
    """Of each rank, by rank, its figures and its squared errors by user, persisted.

    ``start``: folder for the factors that a warm start begins with, gone at the end.
    """
    is_warm = run.config.ranks.warm_start
    found, above = [], None
    ranks = sorted(set(run.config.ranks.ranks), reverse=is_warm)
    for place, rank in enumerate(ranks, start=1):
        logger.info("rank %d (%d of %d)", rank, place, len(ranks))
        if is_warm and rank and above is not None:
            _with_first_factors(above, rank).save(start, overwrite=True)
            trial, errors, above = _trial(spark, run, rank, ratings, parts, start)
        else:
            trial, errors, above = _trial(spark, run, rank, ratings, parts)
        found.append((trial, persist(errors)))
    files.remove(start)
    return sorted(found, key=lambda pair: pair[0].rank)


def _with_first_factors(model: FactorModel, rank: int) -> FactorModel:
    """What a fit of ``rank`` can begin with: biases, and the factors that vary most."""
    meta = model.metadata
    rotation = meta.rotation.model_copy(
        update={"singular_values": meta.rotation.singular_values[:rank], "user_penalty": []}
    )
    users, items = (
        table.withColumn(FACTORS, F.slice(FACTORS, 1, rank))
        for table in (model.user_factors, model.item_factors)
    )
    metadata = meta.model_copy(update={"rank": rank, "rotation": rotation, "posterior": None})
    return FactorModel(users, items, model.history, metadata)


def _trial(
    spark: SparkSession,
    run: RunDirectory,
    rank: int,
    ratings: DataFrame,
    parts: tuple[DataFrame, DataFrame],
    start: str | None = None,
) -> tuple[Trial, DataFrame, FactorModel]:
    """Two fits of a rank with different seeds; all figures but the agreement are of the first.

    ``parts``: validation and test ratings. ``start``: the saved model that the first fit begins
    with. The table has user, n and squares, the sum of the squared errors of the user's n
    validation ratings.
    """
    settings = run.config.trained.model_copy(update={"rank": rank})
    features = features_of_run(spark, run, ratings)
    models, seconds = [], []
    for seed, initial in ((settings.seed, start), (settings.seed + 1, None)):
        own = settings.model_copy(
            update={"seed": seed, "initial_model": initial or settings.initial_model}
        )
        estimator = make_estimator(run.config.train.model, own, IS_VALIDATION, features)
        started = time.perf_counter()
        models.append(estimator.fit(ratings))
        seconds.append(time.perf_counter() - started)
        if not rank:
            # Biases have one solution.
            models *= 2
            break
    model = models[0]
    on_test = _errors(model, parts[1], settings.prediction_col)
    meta = model.metadata
    predicted = F.col(settings.prediction_col)
    error = predicted - F.col(RATING)
    of_users = model.transform(parts[0]).where(~F.isnan(predicted)).groupBy(USER).agg(
        F.count("*").cast("double").alias("n"), F.sum(error * error).alias("squares")
    )  # fmt: skip
    trial = Trial(
        rank=rank,
        parameters=float(model.n_parameters),
        compression=meta.n_users * meta.n_items / model.n_parameters,
        train_rmse=_train_rmse(model),
        test_rmse=on_test and on_test["rmse"],
        test_low=on_test and on_test["rmse_low"],
        test_high=on_test and on_test["rmse_high"],
        agreement=factor_agreement(*models),
        iterations=meta.best_iteration,
        fit_seconds=seconds[0],
    )
    return trial, of_users, model


def _errors(model: FactorModel, part: DataFrame, predicted: str) -> Any:
    """Metrics of a part; None without any row."""
    scored = model.transform(part)
    return rating_metrics(
        scored.select(
            USER, RATING, F.lit("all").alias("slice"), F.lit("all").alias("value"),
            F.lit(MODEL).alias("predictor"), F.col(predicted).alias("predicted"),
        )
    ).first()  # fmt: skip


def _train_rmse(model: FactorModel) -> float:
    """Of the iteration that is kept; of a posterior, whose draws are each worse than their mean,
    of the last one that was measured."""
    rows = model.history.where(F.col("train_rmse").isNotNull() & ~F.isnan("train_rmse"))
    until = rows.where(F.col("iteration") <= model.metadata.best_iteration)
    # Users come last in an iteration.
    row = until.orderBy(F.desc("iteration"), F.desc("side")).select("train_rmse").first()
    return float(row[0]) if row is not None else float("nan")


def _table(trials: list[Trial], validation_rmse: Float64s, chosen: int) -> str:
    lines = [
        "",
        f"{'rank':>6} {'parameters':>12} {'compr.':>8} {'train':>8} {'valid.':>8} {'test':>8} "
        f"{'agreement':>10} {'seconds':>8}",
    ]
    for trial, on_validation in zip(trials, validation_rmse, strict=True):
        test = f"{trial.test_rmse:.4f}" if trial.test_rmse is not None else "–"
        agreement = f"{trial.agreement:.2f}" if trial.agreement is not None else "–"
        lines.append(
            f"{trial.rank:>6} {trial.parameters:>12,.0f} {trial.compression:>8.1f} "
            f"{trial.train_rmse:>8.4f} {on_validation:>8.4f} {test:>8} {agreement:>10} "
            f"{trial.fit_seconds:>8.1f}{'  ← chosen' if trial.rank == chosen else ''}"
        )
    return "\n".join(lines)
