"""Tastes that were planted are found, and groups of users are told apart from all users."""

import numpy as np
import pandas as pd
import pytest

from mfspark import FactorModel
from mfspark.columns import Side
from mfspark.interpretation.user_groups import describe_groups, taste_groups
from mfspark.models.metadata import CoordinateSystem

TASTES = np.array([[3.0, 0.0], [-3.0, 2.0], [0.0, -3.0]])
SIZES = (90, 60, 30)


@pytest.fixture(scope="module")
def planted(spark, model):
    """Users of three tastes by two factors, and a third factor of noise that is much wider."""
    rng = np.random.default_rng(0)
    taste = np.repeat(np.arange(3), SIZES)
    factors = np.column_stack(
        [TASTES[taste] + rng.normal(0, 0.5, (180, 2)), 50 * rng.normal(size=180)]
    )
    users = pd.DataFrame({"user": np.arange(180), "n_ratings": 10, "bias": taste - 1.0})
    users.loc[0, "n_ratings"] = 2
    users["factors"] = factors.tolist()
    items = pd.DataFrame({"item": np.arange(6), "n_ratings": 9, "bias": 0.0})
    items["factors"] = [[1, 0, 0], [-1, 0.5, 0], [0, -1, 0], [0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]]
    items["title"] = [f"title {n}" for n in range(6)]
    meta = model.metadata.model_copy(update={
        "rotation": CoordinateSystem(name="canonical", singular_values=[1.0] * 3)
    })  # fmt: skip
    tables = {
        side: spark.createDataFrame(
            frame[[side, "n_ratings", "bias", "factors"]].astype({"factors": object}),
            f"{side} long, n_ratings long, bias float, factors array<float>",
        )
        for side, frame in ((Side.USER, users), (Side.ITEM, items))
    }
    found = FactorModel(tables[Side.USER], tables[Side.ITEM], model.history, meta)
    described = tables[Side.ITEM].join(spark.createDataFrame(items[["item", "title"]]), "item")
    return found, described, users


def stability(spark, *is_stable):
    rows = list(enumerate(is_stable, start=1))
    return spark.createDataFrame(rows, "factor int, is_stable boolean")


def test_planted_tastes_are_found(spark, planted):
    model, described, users = planted
    groups = taste_groups(model, stability(spark, True, True, False), 5, 3)
    of_user = groups.toPandas().set_index("user")["taste"].sort_index()
    # Everybody but the user with two ratings, the largest taste first.
    assert list(of_user.index) == list(range(1, 180))
    assert list(of_user) == list(np.repeat([1, 2, 3], SIZES)[1:])
    found = describe_groups(model, groups, described, 1)
    sizes = found.user_groups.toPandas().set_index("taste")
    assert list(sizes["n_users"]) == [89, 60, 30]
    assert sizes["share"].sum() == pytest.approx(179 / 180)
    assert list(sizes["bias"]) == [-1, 0, 1]
    items = found.group_items.toPandas()
    assert list(items["title"]) == ["title 0", "title 1", "title 2"]
    factors = np.stack(users["factors"])
    moved = factors[90:150].mean(axis=0) - factors.mean(axis=0)
    assert items["difference"][1] == pytest.approx(moved @ [-1, 0.5, 0], abs=1e-5)


def test_any_filter_of_users_against_all(spark, planted):
    model, described, users = planted
    chosen = spark.createDataFrame([(n, 7) for n in range(80, 120)], "user long, taste int")
    found = describe_groups(model, chosen, described, 2)
    factors = np.stack(users["factors"])
    own, spread = factors[80:120], factors.std(axis=0, ddof=1)
    table = found.group_factors.toPandas()
    assert list(table["factor"]) == [1, 2, 3]
    z = (own.mean(axis=0) - factors.mean(axis=0)) / spread
    np.testing.assert_allclose(table["z"], z, atol=1e-5)
    half = 1.959964 * own.std(axis=0, ddof=1) / np.sqrt(40) / spread
    np.testing.assert_allclose(table["high"] - table["z"], half, atol=1e-5)
    assert list(found.group_items.toPandas()["place"]) == [1, 2]
    nobody = describe_groups(model, chosen.where("user < 0"), described, 2)
    assert all(table.isEmpty() for table in nobody.tables().values())


def test_without_a_stable_factor_there_are_no_tastes(spark, planted):
    model = planted[0]
    assert taste_groups(model, stability(spark, False, False, False), 5, 3).isEmpty()
    assert taste_groups(model, stability(spark, True, True, True), 5, 0).isEmpty()
    assert taste_groups(model, stability(spark, True, True, True), 11, 3).isEmpty()
