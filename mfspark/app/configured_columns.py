"""Columns of the tables of users and items, as the configuration names them."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.config import TrainSettings
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import TITLE, Side
from mfspark.errors import ConfigError
from mfspark.evaluation.metadata_slices import has_classes
from mfspark.ids import column


def refuse_unused_features(settings: TrainSettings) -> None:
    """``ConfigError`` where the model that is trained does not learn from the features named."""
    named = [f"train.{side}_features" for side in Side if settings.features(side)]
    if named and settings.model != "bayes":
        raise ConfigError(
            f"{' and '.join(named)} would have no effect: of the models bayes alone learns from "
            f"features, and train.model is {settings.model!r}; set it to bayes, or leave them out"
        )


def features_of_run(
    spark: SparkSession, run: RunDirectory, ratings: DataFrame
) -> dict[Side, DataFrame]:
    """As ``features_of``, from the tables that an earlier ingest left."""
    wanted = [side for side in Side if run.config.train.features(side)]
    return features_of(run.config.train, _tables_of_run(spark, run, wanted), ratings)


def features_of(
    settings: TrainSettings, tables: dict[Side, DataFrame], ratings: DataFrame
) -> dict[Side, DataFrame]:
    """Id and the configured columns of the ``tables`` of users and items, by side; ids have the
    type that they have in ``ratings``. Raises ``ConfigError`` for a column that is not there."""
    return {
        side: _chosen(f"train.{side}_features", names, tables, side, ratings)
        for side in Side
        if (names := settings.features(side))
    }


def slicing_columns_of_run(
    spark: SparkSession, run: RunDirectory, ratings: DataFrame
) -> dict[Side, DataFrame]:
    """As ``features_of_run``, the columns by which test ratings are sliced."""
    tables = _tables_of_run(spark, run, list(Side))
    found = {}
    for side in Side:
        names = run.config.evaluate.columns(side)
        if names is None and side in tables:
            table = tables[side]
            names = [n for n in table.columns if n not in (side, TITLE) and has_classes(table, n)]
        if names:
            found[side] = _chosen(f"evaluate.{side}_columns", names, tables, side, ratings)
    return found


def _tables_of_run(
    spark: SparkSession, run: RunDirectory, sides: list[Side]
) -> dict[Side, DataFrame]:
    return {
        side: files.read_parquet(spark, run.require(f"{side}s", "ingest"))
        for side in sides
        if files.exists(run.of(f"{side}s"))
    }


def _chosen(
    key: str, names: list[str], tables: dict[Side, DataFrame], side: Side, ratings: DataFrame
) -> DataFrame:
    """Id and the columns ``names`` of a table, for which the configuration has ``key``."""
    if side not in tables:
        raise ConfigError(
            f"{key} = {names} needs a table of {side}s, but these ratings come without; set "
            f"data.{side}s_path, or leave {key} out"
        )
    known = [name for name in tables[side].columns if name != side]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{key} names {name!r}, but the table of {side}s has {', '.join(known)}; choose "
                "among these"
            )
    ids = F.col(side).try_cast(ratings.schema[side].dataType).alias(side)
    table = tables[side].select(ids, *[column(name) for name in names])
    return table.where(F.col(side).isNotNull())
