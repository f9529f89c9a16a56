"""The steps of a run: ingest, train, evaluate, interpret, recommend, report.

Each reads the files of the steps before it and writes its own, whole or not at all.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.estimators import make_estimator, mark_validation
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import ITEM, N_RATINGS, RATING, TIMESTAMP, USER
from mfspark.data.fetch import fetch
from mfspark.data.read import read_items, read_ratings
from mfspark.data.source import RawRatings
from mfspark.data.split import PARTS, SPLIT, fold, split_ratings
from mfspark.data.synthetic import SyntheticSettings, synthetic_items, synthetic_ratings
from mfspark.data.text import MALFORMED
from mfspark.data.validate import CheckedRatings, check_ratings
from mfspark.engine.compiling import start_compiling
from mfspark.engine.machine import machine_of
from mfspark.engine.plan import Plan, Workload, make_plan
from mfspark.errors import DataError
from mfspark.evaluation.ratings import MODEL, evaluate, rating_metrics
from mfspark.interpretation.explain import explain
from mfspark.interpretation.tables import interpret
from mfspark.models.factor_model import FactorModel
from mfspark.report.render import write_report

logger = logging.getLogger("mfspark")
_VALIDATION = "is_validation"


def ingest(spark: SparkSession, run: RunDirectory) -> None:
    """Read, check and split the ratings: ratings/, quarantine/, items/, ingest.json."""
    with run.step("ingest") as facts:
        with checked_ratings(spark, run) as (checked, items, origin):
            facts.update(_write_ratings(run, checked, items, origin))
        logger.info(
            "ingest: %d of %d rows are good; train %d, validation %d, test %d",
            facts["rows_clean"], facts["rows_read"],
            *[facts["split"].get(part, 0) for part in PARTS],
        )  # fmt: skip


@contextmanager
def checked_ratings(
    spark: SparkSession, run: RunDirectory
) -> Iterator[tuple[CheckedRatings, DataFrame | None, str]]:
    """The configured ratings after all checks, item metadata, and what to call their origin."""
    raw, items, origin = _read(spark, run)
    checked = check_ratings(raw, run.config.data.checks())
    try:
        yield checked, items, origin
    finally:
        checked.release()


def _read(spark: SparkSession, run: RunDirectory) -> tuple[RawRatings, DataFrame | None, str]:
    """Raw ratings, item metadata, and what to call their origin."""
    data = run.config.data
    if data.path is not None:
        source = data.source(data.path)
        return read_ratings(spark, source), read_items(spark, source), data.path
    if data.dataset == "synthetic":
        return *_synthetic(spark, run.config.synthetic), "synthetic"
    try:
        source = data.source(str(fetch(str(data.dataset))))
    except DataError as error:
        if data.fallback != "synthetic":
            raise
        logger.warning("%s", error)
        logger.warning("using SYNTHETIC ratings in place of %s", data.dataset)
        return (
            *_synthetic(spark, run.config.synthetic),
            f"synthetic (in place of {data.dataset}, which could not be downloaded)",
        )
    return read_ratings(spark, source), read_items(spark, source), str(data.dataset)


def _synthetic(
    spark: SparkSession, settings: SyntheticSettings
) -> tuple[RawRatings, DataFrame | None]:
    table = synthetic_ratings(spark, settings).select(
        "*", F.lit("synthetic").alias("origin"), F.lit(None).cast("string").alias(MALFORMED)
    )
    return RawRatings(table, True, (0.5, 5.0)), synthetic_items(spark, settings)


def _write_ratings(
    run: RunDirectory, checked: CheckedRatings, items: DataFrame | None, origin: str
) -> dict[str, Any]:
    split = split_ratings(checked.clean, run.config.split).persist()
    try:
        counts = {row[SPLIT]: row["count"] for row in split.groupBy(SPLIT).count().collect()}
        if not counts.get("train"):
            raise DataError(
                f"no rating is left for training: the split is {counts or 'empty'} of "
                f"{checked.n_read} rows read; lower split.test and split.validation"
            )
        # Of the rows and of the part that each is in.
        hashed = F.xxhash64(USER, ITEM, RATING, TIMESTAMP, SPLIT)
        row = split.agg(F.hex(F.bit_xor(hashed))).first()
        fingerprint = row[0] if row is not None else None
        _check_sum(checked, counts)
        n_users, n_items = (split.select(side).distinct().count() for side in (USER, ITEM))
        with run.output("ratings", identity=fingerprint) as target:
            for part in PARTS:
                rows = split.where(F.col(SPLIT) == part).drop(SPLIT)
                files.write_parquet(rows, f"{target}/{part}")
    finally:
        split.unpersist()
    with run.output("quarantine", ("ratings",)) as target:
        files.write_parquet(checked.quarantine.coalesce(1), target)
    if items is not None:
        with run.output("items", ("ratings",)) as target:
            files.write_parquet(items.coalesce(1), target)
    elif run.config.run.overwrite:
        # Those of an earlier source.
        files.remove(run.of("items"))
    facts = {
        "origin": origin,
        "rows_read": checked.n_read,
        "rows_clean": sum(counts.values()),
        "users": n_users,
        "items": n_items,
        "rows_merged": checked.n_merged,
        "bad_rows": checked.bad_rows,
        "split": {part: counts.get(part, 0) for part in PARTS},
        "fingerprint": fingerprint,
    }
    files.write_text(run.of("ingest.json"), json.dumps(facts, indent=2) + "\n")
    return facts


def _check_sum(checked: CheckedRatings, counts: dict[str, int]) -> None:
    """Every row that was read is in one place."""
    kept, bad = sum(counts.values()), sum(checked.bad_rows.values())
    if checked.n_read != kept + bad + checked.n_merged:
        raise DataError(
            f"{checked.n_read} rows were read, but {kept} were kept, {bad} put in quarantine and "
            f"{checked.n_merged} merged: the source gave other rows when it was read again; "
            "copy it to a place where nobody writes"
        )


def train(spark: SparkSession, run: RunDirectory) -> None:
    """Fit the model to ratings/train, stopping by ratings/validation: model/."""
    with run.step("train") as facts:
        fitted, held_out = run.ratings(spark, "train"), run.ratings(spark, "validation")
        settings = run.config.als
        indicator = None
        if not held_out.isEmpty():
            indicator = _VALIDATION
            fitted = mark_validation(fitted, held_out, indicator)
        als = make_estimator("als", settings, indicator)
        logger.info("%s", _plan(spark, run).describe())
        model = als.fit(fitted)
        with run.output("model", ("ratings",)) as target:
            model.save(target, overwrite=True)
        facts |= {
            "rank": settings.rank,
            "iterations": model.metadata.best_iteration,
            "stopped": model.metadata.stopped,
            "users": model.metadata.n_users,
            "items": model.metadata.n_items,
        }


def _plan(spark: SparkSession, run: RunDirectory) -> Plan:
    """What the fit to ratings/train will cost, from the counts in ingest.json."""
    counts = run.ingested()
    workload = Workload(
        counts["split"]["train"], counts["users"], counts["items"], run.config.als.rank
    )
    return make_plan(workload, run.config.als, machine_of(spark))


def evaluate_model(spark: SparkSession, run: RunDirectory) -> dict[str, float]:
    """Measure the model on ratings/test: evaluation/. Returns the RMSE of each predictor."""
    with run.step("evaluate") as facts:
        model = FactorModel.load(run.require("model", "train"))
        test = run.ratings(spark, "test")
        if test.isEmpty():
            raise DataError("ratings/test is empty: there is nothing to measure; raise split.test")
        result = evaluate(model, run.ratings(spark, "train"), test)
        with run.output("evaluation", ("ratings", "model")) as target:
            files.write_parquet(result.metrics.coalesce(1), f"{target}/metrics")
            files.write_parquet(result.histogram.coalesce(1), f"{target}/histogram")
        metrics = files.read_parquet(spark, run.of("evaluation/metrics"))
        overall = metrics.where(F.col("slice") == "all").collect()
        rmse = {row["predictor"]: row["rmse"] for row in overall}
        facts["rmse"] = rmse
        return rmse


def interpret_model(spark: SparkSession, run: RunDirectory) -> None:
    """Describe factors, biases and neighbours: interpretation/."""
    with run.step("interpret"):
        model = FactorModel.load(run.require("model", "train"))
        items = None
        if files.exists(run.of("items")):
            items = files.read_parquet(spark, run.require("items", "ingest"))
        result = interpret(model, items, run.config.interpret)
        with run.output("interpretation", ("model",)) as target:
            for name, table in result.tables().items():
                files.write_parquet(table.coalesce(1), f"{target}/{name}")
            files.write_parquet(_example(spark, model).coalesce(1), f"{target}/explanation")


def _example(spark: SparkSession, model: FactorModel) -> DataFrame:
    """The prediction for the most active user and the most rated item, taken apart."""
    ids = []
    for table, side in ((model.user_factors, USER), (model.item_factors, ITEM)):
        row = table.orderBy(F.desc(N_RATINGS), side).select(side).first()
        assert row is not None
        ids.append(row[0])
    parts = explain(model, *ids)
    rows = [
        ("user", str(parts.user), None),
        ("item", str(parts.item), None),
        ("global mean", "μ", parts.global_mean),
        ("user bias", "b_u", parts.user_bias),
        ("item bias", "b_i", parts.item_bias),
        *[("factor", str(n), value) for n, value in enumerate(parts.contributions, start=1)],
        ("prediction", "r̂", parts.prediction),
    ]
    return spark.createDataFrame(rows, "part string, name string, value double")


def recommend(spark: SparkSession, run: RunDirectory) -> None:
    """Top-N lists: recommendations/."""
    with run.step("recommend") as facts:
        settings = run.config.recommend
        model = FactorModel.load(run.require("model", "train"))
        seen = None
        if settings.exclude_seen:
            seen = run.ratings(spark, "train")
        for_users = settings.lists == "items_for_users"
        method = model.recommendForAllUsers if for_users else model.recommendForAllItems
        with run.output("recommendations", ("model",)) as target:
            files.write_parquet(method(settings.n, seen), target)
        facts["lists"] = files.read_parquet(spark, run.of("recommendations")).count()


def report(run: RunDirectory) -> str:
    """Write report/index.html from the files of the run; returns its path."""
    with run.step("report"):
        needed = {"model": "train", "evaluation": "evaluate", "interpretation": "interpret"}
        for name, job in needed.items():
            run.require(name, job)
        with run.output("report") as target:
            write_report(run.of(""), f"{target}/index.html")
    return f"{run.path}/report/index.html"


def pipeline(spark: SparkSession, run: RunDirectory) -> None:
    """ingest → train → evaluate → interpret → report, and the headline at the end."""
    with kernels_compiled(spark):
        ingest(spark, run)
    train(spark, run)
    rmse = evaluate_model(spark, run)
    interpret_model(spark, run)
    path = report(run)
    print(f"\nRMSE on the test ratings ({_origin(run)}):")
    for predictor, value in sorted(rmse.items(), key=lambda pair: pair[1]):
        print(f"  {predictor:<12} {value:.4f}")
    print(f"Report: {path}")


@contextmanager
def kernels_compiled(spark: SparkSession) -> Iterator[None]:
    """Have the kernels compiled on every node while the work inside goes on."""
    thread = start_compiling(spark, machine_of(spark).cores, ("als", "sgd", "predict"))
    yield
    thread.join()


def _origin(run: RunDirectory) -> str:
    return str(run.ingested()["origin"])


def cross_validate(spark: SparkSession, run: RunDirectory) -> None:
    """k-fold cross-validation of the configured model: cross_validation/ (fold, rmse, mae, n).

    Folds are a hash of seed, user and item. Nothing of a test fold is used to train or to stop: the
    fit runs for ``max_iter`` iterations or until the training objective has converged.
    """
    settings = run.config.cross_validation
    with run.step("cross_validate") as facts:
        rows = []
        with checked_ratings(spark, run) as (checked, _, origin):
            folded = checked.clean.withColumn("fold", fold(settings.seed, settings.folds))
            for number in range(settings.folds):
                model = make_estimator("als", run.config.als).fit(
                    folded.where(F.col("fold") != number)
                )
                scored = model.transform(folded.where(F.col("fold") == number)).select(
                    USER, RATING, F.lit("all").alias("slice"), F.lit("all").alias("value"),
                    F.lit(MODEL).alias("predictor"), F.col(_prediction(run)).alias("predicted"),
                )  # fmt: skip
                row = rating_metrics(scored).first()
                assert row is not None
                rows.append((number, row["rmse"], row["mae"], row["n"], row["n_unscored"]))
                logger.info("fold %d of %d: RMSE %.4f", number + 1, settings.folds, row["rmse"])
        schema = "fold int, rmse double, mae double, n long, n_unscored long"
        with run.output("cross_validation") as target:
            files.write_parquet(spark.createDataFrame(rows, schema).coalesce(1), target)
        mean = sum(row[1] for row in rows) / len(rows)
        facts["mean_rmse"] = mean
    print(f"\n{settings.folds}-fold cross-validation on {origin}, seed {settings.seed}:")
    print("  RMSE by fold " + " ".join(f"{row[1]:.4f}" for row in rows))
    print(f"  mean RMSE    {mean:.4f}")


def _prediction(run: RunDirectory) -> str:
    return run.config.als.prediction_col
