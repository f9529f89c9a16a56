"""The steps of a run after ingest: train, evaluate, interpret, recommend, report; and all in a row.

Each reads the files of the steps before it and writes its own, whole or not at all.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.alerts import Alert, alerts_of
from mfspark.app.configured_columns import (
    features_of_run,
    refuse_unused_features,
    slicing_columns_of_run,
)
from mfspark.app.disk import require_room, scratch_folders
from mfspark.app.estimators import make_estimator, mark_validation
from mfspark.app.findings import findings_of
from mfspark.app.fit_plan import needs_of, plan_of, workload_of
from mfspark.app.ingest import ingest
from mfspark.app.lists import facts_of, with_titles
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import ITEM, N_RATINGS, TITLE, USER
from mfspark.data.split import PARTS
from mfspark.engine.compiling import start_compiling
from mfspark.engine.machine import machine_of
from mfspark.engine.workspace import setting
from mfspark.errors import DataError
from mfspark.evaluation.ranking import evaluate_lists
from mfspark.evaluation.ratings import evaluate
from mfspark.interpretation.coordinates import VARIMAX, in_simple_structure
from mfspark.interpretation.explain import example_explained
from mfspark.interpretation.maps import MapSettings, draw_maps
from mfspark.interpretation.readings import read_factors
from mfspark.interpretation.stability import factor_stability
from mfspark.interpretation.tables import describe_items, interpret
from mfspark.interpretation.user_groups import describe_groups, taste_groups
from mfspark.interpretation.worth import worth_of_parts
from mfspark.kernels.warm import Part
from mfspark.models.baselines import BiasOnly
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import Factorisation
from mfspark.report.render import write_report
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")
_VALIDATION = "is_validation"
# Steps of the pipeline, and the output of each that tells whether it was run before.
_OUTPUTS = {
    "ingest": "ratings",
    "train": "model",
    "evaluate": "evaluation",
    "interpret": "interpretation",
    "report": "report",
}


def train(spark: SparkSession, run: RunDirectory) -> None:
    """Fit the model to ratings/train, stopping by ratings/validation: model/."""
    with run.step("train", "model") as facts:
        model = fit_model(spark, run)
        with run.output("model", ("ratings",)) as target:
            model.write_content(target)
        files.remove(run.of("snapshots"))
        facts |= {
            "rank": model.rank,
            "iterations": model.metadata.best_iteration,
            "stopped": model.metadata.stopped,
            "rows": model.metadata.n_ratings,
            "users": model.metadata.n_users,
            "items": model.metadata.n_items,
        }


def fit_model(spark: SparkSession, run: RunDirectory, start: str | None = None) -> FactorModel:
    """The model of the ratings of the run, which leaves snapshots there; ``start``: the directory
    of a model whose factors it begins with."""
    fitted, validation = run.ratings(spark, "train"), run.ratings(spark, "validation")
    settings = run.config.trained
    if start is not None:
        settings = settings.model_copy(update={"initial_model": start})
    indicator = None
    if not validation.isEmpty():
        indicator = _VALIDATION
        fitted = mark_validation(fitted, validation, indicator)
    refuse_unused_features(run.config.train)
    features = features_of_run(spark, run, fitted)
    estimator = make_estimator(run.config.train.model, settings, indicator, features)
    assert isinstance(estimator, Factorisation)
    snapshots = run.of("snapshots")
    if not run.config.run.resume:
        files.remove(snapshots)
    estimator.setSnapshots(snapshots, run.config.train.seconds_between_snapshots)
    workload = workload_of(run)
    plan = plan_of(run, workload, machine_of(spark))
    logger.info("%s", plan.describe())
    is_local = setting(spark, "spark.master").startswith("local")
    scratch = scratch_folders(setting(spark, "spark.local.dir")) if is_local else []
    require_room(needs_of(run, workload, plan, scratch))
    model: FactorModel = estimator.fit(fitted)
    return model


def evaluate_model(spark: SparkSession, run: RunDirectory) -> dict[str, float]:
    """Measure the model on ratings/test: evaluation/. Returns the RMSE of each predictor."""
    with run.step("evaluate", "evaluation") as facts:
        model = FactorModel.load(run.require("model", "train"))
        test = run.ratings(spark, "test")
        if test.isEmpty():
            raise DataError("ratings/test is empty: there is nothing to measure; raise split.test")
        fitted, settings = run.ratings(spark, "train"), run.config.recommend
        biases: FactorModel = BiasOnly().fit(fitted)
        known = slicing_columns_of_run(spark, run, fitted)
        result = evaluate(model, biases, fitted, test, known)
        lists = evaluate_lists(
            model, biases, fitted, test, run.config.ranking, settings.caution, settings.min_ratings
        )
        with run.output("evaluation", ("ratings", "model")) as target:
            files.write_tables(result.tables() | lists.tables(), target)
            result.release()
            biases.unpersist()
            alerts = alerts_of(findings_of(spark, run, model, target))
            rows = [tuple(alert.model_dump().values()) for alert in alerts]
            table = table_of(spark, rows, ", ".join(f"{n} string" for n in Alert.model_fields))
            files.write_parquet(table.coalesce(1), f"{target}/alerts")
        rmse = _rmse(run)
        facts["rows"], facts["rmse"] = run.ingested().split["test"], rmse
        facts["alerts"] = [alert.name for alert in alerts]
    _print_alerts(alerts)
    return rmse


def _print_alerts(alerts: list[Alert]) -> None:
    """Warnings at length, notes by their names."""
    for alert in alerts:
        if alert.level == "warning":
            print(f"\nWarning: {alert.text} {alert.remedy}")
    if notes := [alert.name for alert in alerts if alert.level == "note"]:
        print(f"\nNotes (see the report): {', '.join(notes)}")


def interpret_model(spark: SparkSession, run: RunDirectory) -> None:
    """Describe factors, biases and neighbours: interpretation/."""
    with run.step("interpret", "interpretation"):
        canonical = FactorModel.load(run.require("model", "train"))
        items = None
        if files.exists(run.of("items")):
            items = files.read_parquet(spark, run.require("items", "ingest"))
        settings = run.config.interpret
        model = canonical
        if settings.rotation == VARIMAX:
            model = in_simple_structure(canonical, settings.min_ratings)
        result = interpret(model, items, settings, canonical)
        train, validation, test = (run.ratings(spark, part) for part in PARTS)
        worth = worth_of_parts(model, train, test)
        fitted = train
        if not validation.isEmpty():
            fitted = mark_validation(train, validation, _VALIDATION)
        logger.info("stability of the factors: %d refits on resampled users", settings.refits)
        stability = factor_stability(model, fitted, settings.refits, settings.min_ratings)
        described = describe_items(model, items)
        supported = described.where(F.col(N_RATINGS) >= settings.min_ratings)
        readings = read_factors(supported, stability.of_factors, settings.labels)
        logger.info("tastes of users, and one prediction taken apart")
        tastes = taste_groups(
            model, stability.of_factors, settings.min_ratings, settings.taste_groups
        )
        groups = describe_groups(model, tastes, supported, settings.n_shown)
        # A refit has learnt from the validation ratings as well.
        learnt_from = train.unionByName(validation) if run.config.trained.refit else train
        example = example_explained(model, described, learnt_from, test)
        maps = draw_maps(
            model, supported, tastes, MapSettings(settings.map_method, settings.map_axes)
        )
        parts = result, worth, stability, readings, groups, maps, example
        tables = {name: table for part in parts for name, table in part.tables().items()}
        with run.output("interpretation", ("model",)) as target:
            files.write_tables(tables, target)


def recommend(spark: SparkSession, run: RunDirectory) -> None:
    """Top-N lists: recommendations/; and what they are made of."""
    with run.step("recommend", "recommendations") as facts:
        settings = run.config.recommend
        model = FactorModel.load(run.require("model", "train"))
        seen = None
        if settings.exclude_seen:
            seen = run.ratings(spark, "train")
        for_users = settings.lists == "items_for_users"
        method = model.recommendForAllUsers if for_users else model.recommendForAllItems
        lists = method(settings.n, seen, settings.min_ratings, settings.caution)
        if for_users and files.exists(run.of("items")):
            items = files.read_parquet(spark, run.require("items", "ingest"))
            if TITLE in items.columns:
                lists = with_titles(lists, items)
        with run.output("recommendations", ("model",)) as target:
            files.write_parquet(lists, target)
        written = files.read_parquet(spark, run.current("recommendations"))
        found = facts_of(written, model, ITEM if for_users else USER)
        facts.update(found._asdict())
    print(f"Lists: {run.current('recommendations')}")
    for line in found.lines(ITEM if for_users else USER):
        print(f"  {line}")


def report(spark: SparkSession, run: RunDirectory) -> None:
    """Write report/index.html from the files that the other jobs left."""
    _write_report(run)
    print(f"Report: {_report_path(run)}")


def _write_report(run: RunDirectory) -> None:
    with run.step("report", "report"):
        needed = {"model": "train", "evaluation": "evaluate", "interpretation": "interpret"}
        for name, job in needed.items():
            run.require(name, job)
        with run.output("report") as target:
            write_report(run.of(""), f"{target}/index.html")


def _report_path(run: RunDirectory) -> str:
    return run.current("report/index.html")


def pipeline(spark: SparkSession, run: RunDirectory) -> None:
    """ingest → train → evaluate → interpret → report, and the headline at the end.

    Steps that are finished and whose inputs have not changed are skipped.
    """
    for name, output in _OUTPUTS.items():
        if not run.is_finished(name):
            run.refuse_existing(name, output)
    if _is_to_do(run, "ingest"):
        with kernels_compiled(spark, "als", run.config.train.model, "predict"):
            ingest(spark, run)
    if _is_to_do(run, "train"):
        train(spark, run)
    if _is_to_do(run, "evaluate"):
        evaluate_model(spark, run)
    if _is_to_do(run, "interpret"):
        interpret_model(spark, run)
    if _is_to_do(run, "report"):
        _write_report(run)
    print(f"\nRMSE on the test ratings ({run.ingested().origin}):")
    for predictor, value in sorted(_rmse(run).items(), key=lambda pair: pair[1]):
        print(f"  {predictor:<12} {value:.4f}")
    print(f"Report: {_report_path(run)}")


def _is_to_do(run: RunDirectory, step: str) -> bool:
    """Whether a step of the pipeline has to be run, which is said."""
    place = f"step {list(_OUTPUTS).index(step) + 1} of {len(_OUTPUTS)}: {step}"
    if run.is_finished(step):
        logger.info("%s: finished before, and nothing has changed since: skipped", place)
        return False
    logger.info("%s", place)
    return True


def _rmse(run: RunDirectory) -> dict[str, float]:
    """That of each predictor on all test ratings."""
    metrics = files.read_pandas(run.current("evaluation/metrics"))
    overall = metrics[metrics["slice"] == "all"]
    return dict(zip(overall["predictor"], overall["rmse"].astype(float), strict=True))


@contextmanager
def kernels_compiled(spark: SparkSession, *parts: Part) -> Iterator[None]:
    """Have parts of the kernels compiled on every node while the work inside goes on."""
    thread = start_compiling(spark, machine_of(spark).cores, parts)
    yield
    thread.join()
