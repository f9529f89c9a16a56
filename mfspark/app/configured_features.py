"""Features of users and items as the configuration names them."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.config import TrainSettings
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import Side
from mfspark.errors import ConfigError
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
    tables = {
        side: files.read_parquet(spark, run.require(f"{side}s", "ingest"))
        for side in Side
        if run.config.train.features(side) and files.exists(run.of(f"{side}s"))
    }
    return features_of(run.config.train, tables, ratings)


def features_of(
    settings: TrainSettings, tables: dict[Side, DataFrame], ratings: DataFrame
) -> dict[Side, DataFrame]:
    """Id and the configured columns of the ``tables`` of users and items, by side; ids have the
    type that they have in ``ratings``. Raises ``ConfigError`` for a column that is not there."""
    found = {}
    for side in Side:
        names = settings.features(side)
        if not names:
            continue
        if side not in tables:
            raise ConfigError(
                f"train.{side}_features = {names} needs a table of {side}s, but these ratings come "
                f"without; set data.{side}s_path, or leave the features out"
            )
        known = [name for name in tables[side].columns if name != side]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"train.{side}_features names {name!r}, but the table of {side}s has "
                    f"{', '.join(known)}; choose among these"
                )
        ids = F.col(side).try_cast(ratings.schema[side].dataType).alias(side)
        table = tables[side].select(ids, *[column(name) for name in names])
        found[side] = table.where(F.col(side).isNotNull())
    return found
