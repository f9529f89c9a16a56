"""Vectors of users and items for stores that find the largest inner products."""

import logging

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.run_directory import RunDirectory
from mfspark.app.vector_stores import require_packages, write_store
from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, USER
from mfspark.errors import ConfigError
from mfspark.models.factor_model import FactorModel

logger = logging.getLogger("mfspark")


def export(spark: SparkSession, run: RunDirectory) -> None:
    """Write vectors/users (user, vector [p, 1]) and vectors/items (item, n_ratings, vector
    [q, b_i]), array<float> of rank + 1 numbers each.

    Their inner product is p·q + b_i, which is the prediction but for what is the same for all items
    of a user, so the items of the largest products are those of the recommend job: with
    ``recommend.caution`` b_i is lowered as it is there, and with ``recommend.min_ratings`` items
    with fewer ratings are left out.

    ``export.stores`` are written beside them, on the driver, which holds the vectors of all items
    meanwhile; items.faiss numbers them by the order of item in vectors/items, which has one file.
    """
    stores = run.config.export.stores
    with run.step("export", "vectors") as facts:
        require_packages(stores)
        if stores and not files.is_local(run.path):
            raise ConfigError(
                f"export.stores = {', '.join(stores)} are files of this machine, but the run is at "
                f"{run.path}; export Parquet alone, or to a local run.directory"
            )
        model = FactorModel.load(run.require("model", "train"))
        settings = run.config.recommend
        listed = model.cautious(settings.caution).item_factors
        items = listed.where(F.col(N_RATINGS) >= settings.min_ratings).select(
            ITEM, N_RATINGS, F.concat(FACTORS, F.array(BIAS)).alias("vector")
        )
        one = F.array(F.lit(1.0).cast("float"))
        users = model.user_factors.select(USER, F.concat(FACTORS, one).alias("vector"))
        with run.output("vectors", ("model",)) as target:
            files.write_parquet(users, f"{target}/users")
            if stores:
                items = items.coalesce(1).sortWithinPartitions(ITEM)
            files.write_parquet(items, f"{target}/items")
            if stores:
                written = files.read_parquet(spark, f"{target}/items").orderBy(ITEM).toArrow()
                for store in stores:
                    write_store(store, written, target)
        facts["length"] = model.rank + 1
        facts["stores"] = stores
    print(f"Vectors of {model.rank + 1} numbers: {run.current('vectors')}")
