"""The compare job: the configured models on the same ratings, one after another."""

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.configured_columns import features_of_run
from mfspark.app.estimators import contenders, mark_validation, members
from mfspark.app.ingest import ingest
from mfspark.app.memory import IS_MEASURED
from mfspark.app.run_directory import RunDirectory
from mfspark.app.steps import kernels_compiled
from mfspark.app.trial import (
    CANDIDATES,
    TEST,
    VALIDATION,
    Entry,
    Fold,
    run_entry,
    train_of,
    warm_up,
)
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.data.split import PARTS, fold, uniform
from mfspark.errors import DataError
from mfspark.evaluation.comparison import compare
from mfspark.evaluation.ranking import Ranking, candidates_of, evaluate_predictions
from mfspark.persisted import persist, unpersist
from mfspark.report.comparison_page import write_comparison
from mfspark.report.list_table import usual_length
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")

_WARM_UP_RATINGS = 3000

_MODELS_SCHEMA = (
    "predictor string, kind string, state string, reason string, fit_seconds double, "
    "predict_seconds double, parameters double, jvm_mib double, workers_mib double"
)
_CURVES_SCHEMA = "predictor string, fold int, passes int, seconds double, part string, rmse double"
_WEIGHTS_SCHEMA = "predictor string, fold int, member string, weight double"


def compare_models(spark: SparkSession, run: RunDirectory) -> None:
    """Fit and measure every model of ``compare.models``: comparison/, and a table at the end.

    The ratings are those of an earlier ingest into this run, or ingested now.
    """
    entries = entries_of(run)
    if not files.exists(run.of("ratings")):
        with kernels_compiled(spark, "als", "sgd", "bayes", "predict"):
            ingest(spark, run)
    else:
        logger.info("ratings: those of an earlier ingest, %s", run.of("ratings"))
    if not IS_MEASURED:
        logger.info("memory is not measured: psutil is not here (pip install psutil)")
    with (
        run.step("compare", "comparison") as facts,
        run.output("comparison", ("ratings",)) as target,
    ):
        parts, lists = f"{target}/parts", None
        for number, each in enumerate(_folds(spark, run)):
            logger.info("fold %d of %d", number + 1, run.config.compare.folds or 1)
            if number == 0:
                _warm_up(entries, each)
            for place, entry in enumerate(entries, start=1):
                if entry.reason is None:
                    logger.info("model %d of %d: %s", place, len(entries), entry.name)
                    run_entry(entry, each, parts)
            if each.candidates is not None:
                lists = _lists(run, each, entries, parts)
                unpersist(each.candidates)
            unpersist(each.ratings)
        facts["rmse"] = _write_tables(spark, run, target, entries, lists)
        files.remove(parts)
        facts_of_ratings, unit = run.ingested().model_dump(), run.config.data.unit
        write_comparison(
            run.config.run.name, facts_of_ratings, target, f"{target}/index.html", unit
        )
    print(_table(run))
    print(f"Report: {run.current('comparison/index.html')}")


def entries_of(run: RunDirectory) -> list[Entry]:
    """Entries in the order they run: blends after their members."""
    listed = contenders(run.config)
    models = {each.name: Entry(each) for each in listed if each.kind != "blend"}
    blends = [
        Entry(each, tuple(models[name] for name in members(each, list(listed))))
        for each in listed
        if each.kind == "blend"
    ]
    return [*models.values(), *blends]


def _folds(spark: SparkSession, run: RunDirectory) -> Iterator[Fold]:
    """The split of the run, or k folds of all its ratings."""
    parts = {part: run.ratings(spark, part) for part in PARTS}
    features = features_of_run(spark, run, parts["train"])
    settings = run.config.compare
    if settings.folds is None:
        split = [parts[part].select(USER, ITEM, RATING) for part in PARTS]
        yield _fold(run, 0, features, *split)
        return
    everything = parts["train"].unionByName(parts["validation"]).unionByName(parts["test"])
    rows = everything.select(USER, ITEM, RATING, fold(settings.seed, settings.folds).alias("fold"))
    # Numbers of their own, so that validation rows are drawn from all folds alike.
    is_validation = uniform(settings.seed + 1) < run.config.split.validation
    for number in range(settings.folds):
        rest = rows.where(F.col("fold") != number).drop("fold")
        test = rows.where(F.col("fold") == number).drop("fold")
        fitted = rest.where(~is_validation), rest.where(is_validation)
        yield _fold(run, number, features, *fitted, test)


def _fold(
    run: RunDirectory,
    number: int,
    features: dict[Side, DataFrame],
    train: DataFrame,
    validation: DataFrame,
    test: DataFrame,
) -> Fold:
    """One fold; ``DataError`` without ratings to fit or to predict."""
    for name, rows in (("training", train), ("test", test)):
        if rows.isEmpty():
            raise DataError(
                f"there are no {name} ratings in fold {number + 1}: there is nothing to compare; "
                "check [split] and compare.folds"
            )
    ratings = mark_validation(train, validation, IS_VALIDATION)
    parts = {TEST: test} if validation.isEmpty() else {VALIDATION: validation, TEST: test}
    candidates = None
    if number == 0:
        candidates = persist(candidates_of(train, test, run.config.ranking))
    return Fold(number, persist(ratings), features, parts, candidates)


def _warm_up(entries: list[Entry], each: Fold) -> None:
    few = persist(train_of(each).limit(_WARM_UP_RATINGS))
    for entry in entries:
        if entry.contender.kind != "blend":
            warm_up(entry, few)
    unpersist(few)


def _lists(run: RunDirectory, each: Fold, entries: list[Entry], parts: str) -> Ranking | None:
    """How good lists are that the models' predictions of the candidates put in order; None without
    any model."""
    paths = [entry.path(parts, each.number, CANDIDATES) for entry in entries if not entry.reason]
    if not paths:
        return None
    predictions = files.read_parquet(each.ratings.sparkSession, *paths)
    return evaluate_predictions(predictions, train_of(each), each.parts[TEST], run.config.ranking)


def _write_tables(
    spark: SparkSession,
    run: RunDirectory,
    target: str,
    entries: list[Entry],
    lists: Ranking | None,
) -> dict[str, float]:
    """predictions, models, differences, folds, curves, weights, and those of the lists; returns the
    RMSE of each model."""
    settings = run.config.compare
    alive = [entry for entry in entries if entry.reason is None]
    if not alive:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in entries)
        raise DataError(f"every model failed, so there is nothing to compare: {reasons}")
    paths = [
        entry.path(f"{target}/parts", number, TEST)
        for entry in alive
        for number in range(settings.folds or 1)
    ]
    files.write_parquet(files.read_parquet(spark, *paths), f"{target}/predictions")
    predictions = files.read_parquet(spark, f"{target}/predictions")
    result = compare(predictions, settings.resamples, settings.seed)

    def rows(schema: str, of_entry: Any) -> DataFrame:
        return table_of(spark, [row for entry in entries for row in of_entry(entry)], schema)

    tables = {
        "models": rows(_MODELS_SCHEMA, _model_rows).join(result.metrics, "predictor", "left"),
        "differences": result.differences,
        "folds": result.folds,
        "curves": rows(_CURVES_SCHEMA, lambda entry: entry.curves),
        "weights": rows(_WEIGHTS_SCHEMA, lambda entry: entry.weights),
    }
    files.write_tables(tables | (lists.tables() if lists else {}), target)
    found = files.read_parquet(spark, f"{target}/models").where("state = 'succeeded'")
    return {row["predictor"]: row["rmse"] for row in found.collect()}


def _model_rows(entry: Entry) -> list[tuple[Any, ...]]:
    """A row of ``_MODELS_SCHEMA``; means over folds, of memory the highest."""
    name, kind = entry.name, entry.contender.kind
    if entry.reason is not None:
        return [(name, kind, "failed", entry.reason, *5 * [None])]
    means = [
        sum(figures) / len(figures)
        for figures in (entry.fit_seconds, entry.predict_seconds, entry.parameters)
    ]
    peaks = [
        max((getattr(memory, what) for memory in entry.memory), default=0.0) or None
        for what in ("jvm_mib", "workers_mib")
    ]
    return [(name, kind, "succeeded", None, *means, *peaks)]


def _table(run: RunDirectory) -> str:
    """Models by RMSE, and the verdicts between each and the next."""
    models: Any = files.read_pandas(run.current("comparison/models")).sort_values("rmse")
    differences = files.read_pandas(run.current("comparison/differences"))
    succeeded = models[models["state"] == "succeeded"]
    lists: Any = files.read_pandas(run.current("comparison/ranking"))
    k = usual_length(lists)
    ndcg = lists[(lists["measure"] == "NDCG") & (lists["k"] == k)].set_index("predictor")["value"]
    shown = pd.DataFrame(
        {
            "model": succeeded["predictor"],
            "RMSE": succeeded["rmse"].map("{:.4f}".format),
            "95 %": [
                f"{low:.4f} to {high:.4f}"
                for low, high in zip(succeeded["rmse_low"], succeeded["rmse_high"], strict=True)
            ],
            "MAE": succeeded["mae"].map("{:.4f}".format),
            f"NDCG@{k}": succeeded["predictor"].map(ndcg).map("{:.3f}".format),
            "unscored": succeeded["n_unscored"].map("{:.0f}".format),
            "fit s": succeeded["fit_seconds"].map("{:.2f}".format),
            "parameters": succeeded["parameters"].map("{:,.0f}".format),
        }
    )
    lines = ["", shown.to_string(index=False), ""]
    names = list(succeeded["predictor"])
    verdicts = differences.set_index(["better", "worse"])["verdict"]
    lines += [verdicts[pair] for pair in pairwise(names)]
    failed = models[models["state"] == "failed"]
    lines += [f"{row.predictor} failed: {row.reason}" for row in failed.itertuples()]
    return "\n".join(lines)
