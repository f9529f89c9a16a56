"""A run of yesterday and the ratings of today: a run that is up to date."""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.config import RunSettings
from mfspark.app.ingest import checked_ratings, write_ratings
from mfspark.app.run_directory import RunDirectory
from mfspark.app.steps import fit_model
from mfspark.columns import ITEM, RATING, TIMESTAMP, TITLE, USER, Side
from mfspark.data.split import PARTS, SPLIT
from mfspark.data.validate import CheckedRatings
from mfspark.errors import ConfigError, DataError
from mfspark.evaluation.ratings import rmse_of
from mfspark.interpretation.changes import item_changes, kept_lists
from mfspark.models.factor_model import FactorModel
from mfspark.models.fold_in import fault_of_rows
from mfspark.persisted import persist, unpersist
from mfspark.report.update_page import write_update_page
from mfspark.small_tables import table_of

logger = logging.getLogger("mfspark")

# The rating that a pair had before; null for a new pair.
_BEFORE = "before"
_PAIR: list[str] = [USER, ITEM]
_SHOWN_ITEMS = 50
_FOLD_IN, _WARM_START = "fold_in", "warm_start"
# Share of its ratings that must be new or changed for a row of a posterior mean to be replaced.
_LEAST_CHANGED = 0.1


class Changes(NamedTuple):
    """What is new among the training ratings. ``share``: of all of them."""

    new_ratings: int
    changed_ratings: int
    users: int
    items: int
    share: float


def update(spark: SparkSession, run: RunDirectory) -> None:
    """Bring the model of another run up to date: ratings/, users/, items/, model/, update/.

    ``update.base`` is that run, and the configured data are the ratings since: a rating of a pair
    that the base has takes the place of the older one, in the part of the split where that was; all
    others are for training. So errors on test ratings before and after are of the same pairs.

    ``fold_in`` solves for the rows of users, of items and of users again whose ratings have
    changed, the others being as they were; ``warm_start`` fits anew, beginning with the factors of
    the base. ``auto`` folds in while at most ``update.most_folded`` of the training
    ratings are new or changed, and the model allows it (see ``FactorModel.foldIn``).
    """
    base = _base(run)
    with run.step("update", "ratings", "quarantine", "model", "update") as facts:
        model = FactorModel.load(base.require("model", "train"))
        old = _ratings_of(spark, base)
        with checked_ratings(spark, run) as (checked, known, origin):
            new = persist(_placed(checked, old))
            split = old.join(new, _PAIR, "anti").unionByName(new.drop(_BEFORE))
            merged = _merged(checked, base, new)
            tables = {side: _known(spark, base, side, known.get(side)) for side in Side}
            present = {side: table for side, table in tables.items() if table is not None}
            write_ratings(run, split, merged, present, f"{base.ingested().origin} and {origin}")
        train = persist(run.ratings(spark, "train"))
        is_new = F.col(_BEFORE).isNull() | (F.col(_BEFORE) != F.col(RATING))
        changed = persist(new.where((F.col(SPLIT) == "train") & is_new))
        changes = _count(changed, train.count())
        method = _method(run, model, changes)
        logger.info(
            "%d new and %d changed training ratings (%.2g%%) by %d users of %d items: %s",
            changes.new_ratings, changes.changed_ratings, 100 * changes.share, changes.users,
            changes.items, "folded in" if method == _FOLD_IN else "the model is fitted anew",
        )  # fmt: skip
        if method == _FOLD_IN:
            updated = folded_in(model, train, changed)
        else:
            updated = fit_model(spark, run, start=base.current("model"))
        with run.output("model", ("ratings",)) as target:
            updated.write_content(target)
        files.remove(run.of("snapshots"))
        updated = FactorModel.load(run.require("model", "train"))
        summary = {"method": method, **changes._asdict(), **_newcomers(model, updated)}
        summary |= _errors(model, updated, changed, run.ratings(spark, "test"))
        summary["lists_kept"] = kept_lists(model, updated, changed.select(USER))
        _write_report(spark, run, model, updated, summary)
        facts.update(summary)
        for table in (new, train, changed):
            unpersist(table)
    print(_headline(summary))
    print(f"Report: {run.current('update/index.html')}")


def _base(run: RunDirectory) -> RunDirectory:
    """The run that ``update.base`` names."""
    path = run.config.update.base
    if path is None:
        raise ConfigError(
            "update.base is not set; set it to the directory of the run to bring up to date, such "
            "as runs/yesterday"
        )
    folder, _, name = files.absolute(path).rstrip("/").rpartition("/")
    base = RunDirectory(
        run.config.model_copy(update={"run": RunSettings(directory=folder, name=name)})
    )
    if files.absolute(base.path) == files.absolute(run.path):
        raise ConfigError(
            f"update.base = {path} is the run to be written; give the new run another run.name"
        )
    return base


def _ratings_of(spark: SparkSession, run: RunDirectory) -> DataFrame:
    """All ratings of a run: user, item, rating, timestamp, split."""
    first, *others = (run.ratings(spark, part).withColumn(SPLIT, F.lit(part)) for part in PARTS)
    for other in others:
        first = first.unionByName(other)
    return first


def _placed(checked: CheckedRatings, old: DataFrame) -> DataFrame:
    """The new ratings with the part of the split that each goes to, and the rating ``before``."""
    clean = checked.clean
    ids = [F.col(side).try_cast(old.schema[side].dataType).alias(side) for side in Side]
    cast = clean.select(*ids, RATING, TIMESTAMP)
    for side in Side:
        kind = old.schema[side].dataType.simpleString()
        if n := cast.where(F.col(side).isNull()).count():
            raise DataError(
                f"{n} of the new ratings have a {side} id that is no {kind}, as the ids of "
                f"update.base are; check data.columns.{side}, or ingest and train anew"
            )
    before = old.select(USER, ITEM, F.col(RATING).alias(_BEFORE), SPLIT)
    found = cast.join(before, _PAIR, "left")
    return found.withColumn(SPLIT, F.coalesce(SPLIT, F.lit("train")))


def _merged(checked: CheckedRatings, base: RunDirectory, new: DataFrame) -> CheckedRatings:
    """The counts of both runs together: of a pair that was rated again, one rating is merged."""
    record = base.ingested()
    n_old = sum(record.split.values())
    n_again = new.where(F.col(_BEFORE).isNotNull()).count()
    return replace(
        checked,
        n_read=n_old + checked.n_read,
        n_clean=n_old + checked.n_clean - n_again,
        n_merged=checked.n_merged + n_again,
        scale=record.scale or checked.scale,
    )


def _known(
    spark: SparkSession, base: RunDirectory, side: Side, new: DataFrame | None
) -> DataFrame | None:
    """Users or items of which something is known: a new row takes the place of an older one."""
    name = f"{side}s"
    if not files.exists(base.of(name)):
        return new
    old = files.read_parquet(spark, base.require(name, "ingest"))
    if new is None:
        return old
    kind = old.schema[side].dataType
    new = new.withColumn(side, F.col(side).try_cast(kind))
    return new.unionByName(old.join(new, side, "anti"), allowMissingColumns=True)


def _count(changed: DataFrame, n_train: int) -> Changes:
    row = changed.agg(
        F.count(F.when(F.col(_BEFORE).isNull(), 1)),
        F.count(_BEFORE),
        F.count_distinct(USER),
        F.count_distinct(ITEM),
    ).first()
    assert row is not None
    n_new, n_changed, n_users, n_items = row
    return Changes(n_new, n_changed, n_users, n_items, (n_new + n_changed) / n_train)


def _method(run: RunDirectory, model: FactorModel, changes: Changes) -> str:
    chosen = run.config.update.method
    fault = fault_of_rows(model.metadata)
    if chosen == _FOLD_IN and fault:
        raise ConfigError(f"update.method = fold_in cannot be had: {fault}")
    if chosen != "auto":
        return str(chosen)
    is_small = changes.share <= run.config.update.most_folded
    return _FOLD_IN if is_small and not fault else _WARM_START


def folded_in(model: FactorModel, train: DataFrame, changed: DataFrame) -> FactorModel:
    """New rows for all whose ratings have changed, from all their ratings: users twice, since the
    first time they do not know the items that are new or have moved.

    A row of a posterior mean is better than the one that a single other side gives, so that it is
    given up only where enough of its ratings are new.
    """
    is_mean = model.metadata.posterior is not None
    for side in (USER, ITEM, USER):
        ids = changed.select(side).distinct()
        if is_mean:
            n_changed = changed.groupBy(side).agg(F.count("*").alias("_changed"))
            n = train.groupBy(side).agg(F.count("*").alias("_n"))
            is_enough = F.col("_changed") >= _LEAST_CHANGED * F.col("_n")
            ids = n.join(n_changed, side).where(is_enough).select(side)
        model = model.foldIn(train.join(ids, side, "semi"), side)
    return model


def _newcomers(model: FactorModel, updated: FactorModel) -> dict[str, int]:
    """Numbers of users and items that the model did not know and the updated one does."""
    found = {}
    for side, before, after in (
        (USER, model.user_factors, updated.user_factors),
        (ITEM, model.item_factors, updated.item_factors),
    ):
        found[f"new_{side}s"] = after.select(side).join(before, side, "anti").count()
    return found


def _errors(
    model: FactorModel, updated: FactorModel, changed: DataFrame, test: DataFrame
) -> dict[str, float | None]:
    """RMSE of the base on what it could not know, and of both on the test ratings."""
    return {
        "rmse_of_base_on_new": rmse_of(model, changed.select(*_PAIR, RATING)),
        "test_rmse_before": rmse_of(model, test),
        "test_rmse_after": rmse_of(updated, test),
    }


def _write_report(
    spark: SparkSession,
    run: RunDirectory,
    model: FactorModel,
    updated: FactorModel,
    summary: dict[str, Any],
) -> None:
    """update/: a table of one row, the items that have moved most, and a page about both."""
    moved = item_changes(model, updated, _SHOWN_ITEMS)
    if files.exists(run.of("items")):
        items = files.read_parquet(spark, run.require("items", "ingest"))
        if TITLE in items.columns:
            moved = moved.join(items.select(ITEM, TITLE), ITEM, "left")
    with run.output("update", ("ratings", "model")) as target:
        schema = (
            "method string, new_ratings long, changed_ratings long, users long, items long, "
            "share double, new_users long, new_items long, rmse_of_base_on_new double, "
            "test_rmse_before double, test_rmse_after double, lists_kept double"
        )
        table = table_of(spark, [tuple(summary.values())], schema)
        files.write_parquet(table.coalesce(1), f"{target}/summary")
        files.write_parquet(moved.coalesce(1), f"{target}/items")
        write_update_page(
            run.config.run.name, run.ingested().model_dump(), target, f"{target}/index.html",
            run.config.data.unit,
        )  # fmt: skip


def _headline(summary: dict[str, Any]) -> str:
    how = "folded in" if summary["method"] == _FOLD_IN else "fitted anew from the base's factors"
    lines = [
        f"{summary['new_ratings']} new and {summary['changed_ratings']} changed ratings, "
        f"{summary['new_users']} new users, {summary['new_items']} new items: {how}"
    ]
    if summary["test_rmse_after"] is not None:
        before, after = summary["test_rmse_before"], summary["test_rmse_after"]
        lines.append(f"RMSE on the test ratings: {before:.4f} before, {after:.4f} now")
    return "\n".join(lines)
