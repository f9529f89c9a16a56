"""Vectors of users and items for stores that find the largest inner products."""

import logging

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, USER
from mfspark.models.factor_model import FactorModel

logger = logging.getLogger("mfspark")


def export(spark: SparkSession, run: RunDirectory) -> None:
    """Write vectors/users (user, vector [p, 1]) and vectors/items (item, n_ratings, vector
    [q, b_i]), array<float> of rank + 1 numbers each.

    Their inner product is p·q + b_i, which is the prediction but for what is the same for all items
    of a user, so the items of the largest products are those of the recommend job: with
    ``recommend.caution`` b_i is lowered as it is there, and with ``recommend.min_ratings`` items
    with fewer ratings are left out.
    """
    with run.step("export", "vectors") as facts:
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
            files.write_parquet(items, f"{target}/items")
        facts["length"] = model.rank + 1
    print(f"Vectors of {model.rank + 1} numbers: {run.of('vectors')}")
