"""Maps of items and users: the factors that were asked for, or what UMAP makes of all."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BiasedALS
from mfspark.errors import ConfigError
from mfspark.interpretation import maps
from mfspark.interpretation.maps import MapSettings, draw_maps
from mfspark.interpretation.tables import describe_items


@pytest.fixture(scope="module")
def described(model):
    genres = F.when(F.col("item") % 2 == 0, F.array(F.lit("Even"), F.lit("All")))
    return describe_items(model, None).withColumn(
        "genres", F.coalesce(genres, F.array().cast("array<string>"))
    )


@pytest.fixture(scope="module")
def tastes(model):
    return model.user_factors.where("user < 200").select("user", F.lit(2).alias("taste"))


def test_axes_are_the_factors_that_were_asked_for(model, described, tastes):
    found = draw_maps(model, described, tastes, MapSettings("factors", (3, 1)))
    items = found.item_map.toPandas().set_index("item")
    own = model.item_factors.toPandas().set_index("item")
    assert list(items["n_ratings"]) == sorted(own["n_ratings"], reverse=True)
    for item, row in items.iterrows():
        assert (row["x"], row["y"]) == (own["factors"][item][2], own["factors"][item][0])
        assert (row["genre"] == "Even") if item % 2 == 0 else pd.isna(row["genre"])
    users = found.user_map.toPandas()
    assert len(users) == 60
    assert users["taste"].notna().sum() == tastes.count()
    p = np.stack(model.user_factors.toPandas()["factors"])
    np.testing.assert_array_equal(np.sort(users["x"]), np.sort(p[:, 2]))


def test_factors_that_are_not_there(model, described, tastes, ratings):
    with pytest.raises(ConfigError, match="map_axes names factor 4, but the model has 3"):
        draw_maps(model, described, tastes, MapSettings("factors", (1, 4)))
    one = BiasedALS(rank=1, maxIter=2).fit(ratings)
    items = describe_items(one, None)
    found = draw_maps(one, items, tastes, MapSettings("factors", (1, 2))).item_map.toPandas()
    assert (found["y"] == 0).all()
    assert found["x"].nunique() > 5


def test_umap_has_to_be_installed(model, described, tastes, monkeypatch):
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install mfspark\[umap\], or draw factors"):
        draw_maps(model, described, tastes, MapSettings("umap", (1, 2)))


def test_what_umap_is_given(spark, described, monkeypatch):
    """Factors in units of their deviation; its places come back beside the right items."""

    class Umap:
        def __init__(self, **settings):
            assert settings["random_state"] == 0

        def fit_transform(self, rows):
            np.testing.assert_allclose(rows.std(axis=0), 1)
            return rows[:, :2].astype(np.float32)

    module = ModuleType("umap")
    module.UMAP = Umap
    module.__spec__ = ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    table = described.select("item", "factors").toArrow().combine_chunks()
    (batch,) = maps.folded(iter(table.to_batches()))
    rows = np.stack(table["factors"].to_numpy(zero_copy_only=False))
    expected = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    assert batch.column("item").equals(table["item"].combine_chunks())
    np.testing.assert_allclose(batch.column("x").to_numpy(), expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(batch.column("y").to_numpy(), expected[:, 1], atol=1e-5)


@pytest.mark.thorough
def test_umap_itself(model, described, tastes):
    pytest.importorskip("umap")
    found = draw_maps(model, described, tastes, MapSettings("umap", (1, 2)))
    again = draw_maps(model, described, tastes, MapSettings("umap", (1, 2)))
    places = found.item_map.toPandas().set_index("item")[["x", "y"]].sort_index()
    np.testing.assert_allclose(
        places, again.item_map.toPandas().set_index("item")[["x", "y"]].sort_index()
    )
    assert np.isfinite(places.to_numpy()).all()
    assert len(found.user_map.toPandas()) == 60
