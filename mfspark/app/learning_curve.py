"""Whether more ratings would help: error by share of the training ratings."""

import logging
import time
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.configured_columns import features_of_run, refuse_unused_features
from mfspark.app.estimators import make_estimator, mark_validation
from mfspark.app.ingest import ingest
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER
from mfspark.data.split import PARTS, uniform
from mfspark.errors import DataError
from mfspark.evaluation.gains import overall_gains
from mfspark.evaluation.ratings import BIAS_ONLY, MODEL, rating_metrics
from mfspark.models.baselines import BiasOnly
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist
from mfspark.report.learning_page import learning_verdict, write_learning_page
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")

# Apart from the seeds of splits and folds, which draw by the same hash.
_OWN_SEEDS = 1_000_003
_SCHEMA = (
    "share double, n_ratings long, n_users long, n_items long, rmse double, rmse_low double, "
    "rmse_high double, bias_only_rmse double, gain double, low double, high double, "
    "iterations int, fit_seconds double"
)


def learning_curve(spark: SparkSession, run: RunDirectory) -> None:
    """Fit the configured model to shares of the training ratings: learning_curve/, a table and a
    page about it.

    Shares are random and nested; the whole is always the last. rmse with its 95 % interval and
    bias_only_rmse are of all test ratings, whatever users and items the share knows. gain, low and
    high: by how much the whole lowers RMSE, with a paired interval for all shares together (see
    :mod:`mfspark.evaluation.gains`). Validation rows, where there are some, stop each fit.
    """
    if not files.exists(run.of("ratings")):
        ingest(spark, run)
    with run.step("learning_curve", "learning_curve") as facts:
        refuse_unused_features(run.config.train)
        train, validation, test = (run.ratings(spark, part) for part in PARTS)
        if test.isEmpty():
            raise DataError("ratings/test is empty: there is nothing to measure; raise split.test")
        ratings = persist(mark_validation(train, validation, IS_VALIDATION))
        drawn = uniform(_OWN_SEEDS + run.config.learning_curve.seed)
        shares = sorted({*run.config.learning_curve.shares, 1.0})
        scored, rows, models = test.select(USER, ITEM, RATING), [], []
        for place, share in enumerate(shares, start=1):
            logger.info("share %g (%d of %d)", share, place, len(shares))
            own = ratings.where(F.col(IS_VALIDATION) | (drawn < share))
            started = time.perf_counter()
            model = _fit(spark, run, own, not validation.isEmpty())
            seconds = time.perf_counter() - started
            biases = BiasOnly().fit(own.where(~F.col(IS_VALIDATION)))
            scored = _with_predictions(scored, model, _name(MODEL, share))
            scored = _with_predictions(scored, biases, _name(BIAS_ONLY, share))
            models += [model, biases]
            meta = model.metadata
            counts = meta.n_ratings, meta.n_users, meta.n_items
            rows.append((share, counts, meta.best_iteration, seconds))
        found = _measured(scored, shares)
        for each in models:
            each.unpersist()
        unpersist(ratings)
        table = table_of(
            spark,
            [
                (share, *counts, *found[share], iterations, seconds)
                for share, counts, iterations, seconds in rows
            ],
            _SCHEMA,
        )
        with run.output("learning_curve", ("ratings",)) as target:
            files.write_parquet(table.coalesce(1), f"{target}/learning_curve")
            write_learning_page(
                run.config.run.name, run.ingested().model_dump(), f"{target}/learning_curve",
                f"{target}/index.html", run.config.data.unit, run.config.train.model,
            )  # fmt: skip
        curve: Any = files.read_pandas(run.current("learning_curve/learning_curve"))
        facts["rmse"] = dict(zip(curve["share"].map(str), curve["rmse"], strict=True))
    print(_table(curve))
    print(f"\n{learning_verdict(curve, run.config.data.unit)}")
    print(f"Report: {run.current('learning_curve/index.html')}")


def _fit(
    spark: SparkSession, run: RunDirectory, ratings: DataFrame, has_validation: bool
) -> FactorModel:
    """Of a share of the training ratings, and all validation rows."""
    features = features_of_run(spark, run, ratings)
    indicator = IS_VALIDATION if has_validation else None
    estimator = make_estimator(run.config.train.model, run.config.trained, indicator, features)
    model: FactorModel = estimator.fit(ratings)
    return model


def _name(predictor: str, share: float) -> str:
    return f"{predictor} {share!r}"


def _with_predictions(rows: DataFrame, model: FactorModel, name: str) -> DataFrame:
    """Rows with one more column; ids that the share does not know get the baseline."""
    own = model.copy(
        {
            model.userCol: USER,
            model.itemCol: ITEM,
            model.predictionCol: name,
            model.predictionStdCol: None,
            model.coldStartStrategy: "baseline",
        }
    )
    return own.transform(rows)


def _measured(scored: DataFrame, shares: list[float]) -> dict[float, tuple[float | None, ...]]:
    """rmse, rmse_low, rmse_high, bias_only_rmse, gain, low, high of each share, on test ratings
    with a column of predictions for each share and predictor."""
    scored = persist(scored)
    names = [_name(predictor, share) for predictor in (MODEL, BIAS_ONLY) for share in shares]
    quoted: list[Column] = [F.col(f"`{name}`").alias(name) for name in names]
    long = scored.select(
        USER, RATING, F.lit("all").alias("slice"), F.lit("all").alias("value"), *quoted
    ).unpivot(
        [USER, RATING, "slice", "value"], [f"`{name}`" for name in names], "predictor", "predicted"
    )  # fmt: skip
    metrics = {row["predictor"]: row for row in rating_metrics(long).collect()}
    whole, others = _name(MODEL, shares[-1]), [_name(MODEL, share) for share in shares[:-1]]
    gains = {}
    if others:
        gains = {row["baseline"]: row for row in overall_gains(scored, whole, others).collect()}
    unpersist(scored)
    found = {}
    for share in shares:
        own, gain = metrics[_name(MODEL, share)], gains.get(_name(MODEL, share))
        found[share] = (
            own["rmse"], own["rmse_low"], own["rmse_high"],
            metrics[_name(BIAS_ONLY, share)]["rmse"],
            *((gain["gain"], gain["low"], gain["high"]) if gain else (None, None, None)),
        )  # fmt: skip
    return found


def _table(curve: Any) -> str:
    lines = [f"\n{'share':>6} {'ratings':>12} {'RMSE':>8} {'biases':>8} {'gain of all':>12}"]
    for row in curve.sort_values("share").itertuples():
        gain = f"{row.gain:>12.4f}" if row.gain == row.gain else f"{'–':>12}"
        lines.append(
            f"{row.share:>6.0%} {row.n_ratings:>12,} {row.rmse:>8.4f} {row.bias_only_rmse:>8.4f} "
            f"{gain}"
        )
    return "\n".join(lines)
