"""A fit that is broken off goes on from its last snapshot, in one task and distributed."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from killed_fits import KilledError, killed_after
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasedSGD
from mfspark.columns import Side
from mfspark.errors import DataError

ALS = {"rank": 3, "maxIter": 9, "tol": 0.0, "seed": 1}
SGD = ALS | {"schedule": "bold_driver"}
BAYES = {"rank": 2, "maxIter": 14, "burnIn": 3, "keepDraws": 3, "tol": 0.0, "seed": 1}
CASES = {
    "als": (BiasedALS, ALS | {"rank": 8, "regParam": 0.01}, {"exchange": "broadcast"}),
    "als routed": (BiasedALS, ALS, {"exchange": "routed"}),
    "als by moments": (BiasedALS, ALS, {"exchange": "moments"}),
    "als on its executors": (BiasedALS, ALS, {"exchange": "routed"}),
    "sgd": (BiasedSGD, SGD, {}),
    "sgd beyond its best epoch": (
        BiasedSGD,
        ALS | {"rank": 8, "regParam": 0.01, "learningRate": 0.5, "maxIter": 12},
        {},
    ),
    "bayes": (BayesianMF, BAYES, {"implicitFeatures": False}),
    "bayes with chains": (BayesianMF, BAYES, {"implicitFeatures": False, "numChains": 2}),
}

IN_CI = ["als", "als routed", "als by moments", "sgd", "bayes"]
NAMES = [pytest.param(name, marks=[] if name in IN_CI else pytest.mark.thorough) for name in CASES]


@pytest.fixture(scope="module")
def marked(ratings):
    """A sixth of the rows is ``held`` out."""
    return ratings.withColumn("held", F.expr("pmod(hash(user, item), 6) = 0")).cache()


def assert_same(model, expected) -> None:
    for side in Side:
        ours, theirs = (
            (each.user_factors if side == Side.USER else each.item_factors)
            .toPandas()
            .set_index(side)
            .sort_index()
            for each in (model, expected)
        )
        assert list(ours.index) == list(theirs.index)
        for column in ("bias", "factors"):
            found, right = (np.stack(part[column].to_numpy()) for part in (ours, theirs))
            np.testing.assert_allclose(found, right, atol=1e-5)
    ours, theirs = (
        each.history.toPandas().drop(columns=["seconds"]).sort_values(["iteration", "side"])
        for each in (model, expected)
    )
    assert list(ours["iteration"]) == list(theirs["iteration"])
    np.testing.assert_allclose(ours["objective"], theirs["objective"], rtol=1e-5)
    assert model.metadata.stopped == expected.metadata.stopped
    assert model.metadata.best_iteration == expected.metadata.best_iteration
    if model.metadata.posterior:
        ours, theirs = (each.metadata.posterior.model_dump() for each in (model, expected))
        assert ours["noise"] == pytest.approx(theirs["noise"], rel=1e-5)
        assert ours["n_draws"] == theirs["n_draws"]
        for one, other in zip(ours["diagnostics"], theirs["diagnostics"], strict=True):
            assert one["mean"] == pytest.approx(other["mean"], rel=1e-4)


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "goes on after" in r.getMessage()]


@pytest.mark.parametrize("name", NAMES)
def test_a_distributed_fit_goes_on_where_it_was_broken_off(
    name, marked, tmp_path, monkeypatch, caplog
):
    kind, arguments, more = CASES[name]
    estimator = kind(execution="distributed", validationIndicatorCol="held", **arguments, **more)
    if "executors" in name:
        monkeypatch.setattr("mfspark.engine.plan.BROADCAST_LIMIT", 0)
        monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", 0)
    expected = estimator.fit(marked)
    n_passes = expected.history.count()
    assert n_passes >= 8
    estimator.setSnapshots(str(tmp_path / "state"), seconds=0)
    # More than once, and the second time in what the first one left.
    for n in (n_passes // 2, n_passes // 3):
        with killed_after(n), pytest.raises(KilledError):
            estimator.fit(marked)
    estimator.setSnapshots(str(tmp_path / "state"), seconds=1000)
    # The fits before may have been heard too.
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="mfspark"):
        model = estimator.fit(marked)
    assert len(said(caplog)) == 1
    assert_same(model, expected)


def test_a_fit_keeps_its_exchange_where_it_would_be_planned_otherwise(
    marked, tmp_path, monkeypatch
):
    """Where the rows of hot items are depends on it."""
    hot = marked.withColumn("item", F.expr("IF(pmod(hash(user, item), 3) = 1, 0, item)"))
    ratings = hot.dropDuplicates(["user", "item"]).cache()
    estimator = BiasedALS(
        execution="distributed", numUserBlocks=3, numItemBlocks=12,
        validationIndicatorCol="held", **ALS,
    )  # fmt: skip
    with monkeypatch.context() as small:
        small.setattr("mfspark.engine.plan.BROADCAST_LIMIT", 0)
        small.setattr("mfspark.engine.plan.SHARE_OF_ROUTED", 100)
        expected = estimator.fit(ratings)
        assert expected.metadata.exchange["item"] == "moments"
        estimator.setSnapshots(str(tmp_path / "state"), seconds=0)
        with killed_after(expected.history.count() // 2), pytest.raises(KilledError):
            estimator.fit(ratings)
    found = estimator.fit(ratings)
    assert found.metadata.exchange == expected.metadata.exchange
    assert_same(found, expected)


@pytest.mark.parametrize("kind", [BiasedALS, BiasedSGD, BayesianMF])
def test_a_fit_in_one_task_goes_on_from_what_another_left(kind, marked, tmp_path, caplog):
    arguments = BAYES if kind is BayesianMF else ALS
    estimator = kind(execution="one_task", validationIndicatorCol="held", **arguments)
    expected = estimator.fit(marked)
    estimator.setSnapshots(str(tmp_path / "state"), seconds=0)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        assert_same(estimator.fit(marked), expected)
        assert said(caplog) == []
        # As if that one had been killed after its last snapshot.
        assert_same(estimator.fit(marked), expected)
        assert len(said(caplog)) == 1


def test_a_refit_goes_on_as_well(marked, tmp_path, caplog):
    estimator = BiasedALS(execution="distributed", validationIndicatorCol="held", refit=True, **ALS)
    expected = estimator.fit(marked)
    estimator.setSnapshots(str(tmp_path / "state"), seconds=0)
    with killed_after(expected.history.count() + 5), pytest.raises(KilledError):
        estimator.fit(marked)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"fit", "refit"}
    with caplog.at_level(logging.INFO, logger="mfspark"):
        assert_same(estimator.fit(marked), expected)
    assert len(said(caplog)) == 2


@pytest.fixture(scope="module")
def left(marked, tmp_path_factory) -> Path:
    """Snapshots of a fit that was broken off."""
    folder = tmp_path_factory.mktemp("left") / "state"
    estimator = BiasedALS(execution="distributed", validationIndicatorCol="held", **ALS)
    with killed_after(9), pytest.raises(KilledError):
        estimator.setSnapshots(str(folder), seconds=0).fit(marked)
    return folder


@pytest.mark.parametrize("change", ["rating", "row less", "split", "setting", "one task"])
def test_other_ratings_and_settings_begin_anew(change, marked, left, tmp_path, caplog):
    shutil.copytree(left, tmp_path / "state")
    arguments = ALS | ({"regExponent": 0.3} if change == "setting" else {})
    rows = {
        "rating": marked.withColumn("rating", F.expr("rating + if(user = 107, 0.001, 0)")),
        "row less": marked.where("not (user = 107 and item > 60)"),
        "split": marked.withColumn("held", F.expr("held and user != 107")),
    }.get(change, marked)
    execution = "one_task" if change == "one task" else "distributed"
    estimator = BiasedALS(execution=execution, validationIndicatorCol="held", **arguments)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        estimator.setSnapshots(str(tmp_path / "state")).fit(rows)
    assert said(caplog) == []


def test_the_same_ratings_in_another_order_go_on(marked, left, tmp_path, caplog):
    shutil.copytree(left, tmp_path / "state")
    estimator = BiasedALS(execution="distributed", validationIndicatorCol="held", **ALS)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        estimator.setSnapshots(str(tmp_path / "state")).fit(marked.repartition(5).orderBy("rating"))
    assert len(said(caplog)) == 1


def test_a_snapshot_that_is_not_whole_is_none(marked, left, tmp_path, caplog):
    shutil.copytree(left, tmp_path / "state")
    next((tmp_path / "state/fit").glob("*/name=items/*.parquet")).unlink()
    estimator = BiasedALS(execution="distributed", validationIndicatorCol="held", **ALS)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        estimator.setSnapshots(str(tmp_path / "state")).fit(marked)
    assert said(caplog) == []


def test_a_snapshot_with_other_bytes_is_an_error_that_says_what_to_do(marked, left, tmp_path):
    shutil.copytree(left, tmp_path / "state")
    file = next((tmp_path / "state/fit").glob("*/name=items/*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    estimator = BiasedALS(execution="distributed", validationIndicatorCol="held", **ALS)
    with pytest.raises(DataError, match=r"snapshot in .* cannot be read .* pass --no-resume"):
        estimator.setSnapshots(str(tmp_path / "state")).fit(marked)


def test_a_copy_has_snapshots_and_a_saved_estimator_has_none(tmp_path):
    estimator = BiasedALS(rank=2).setSnapshots(str(tmp_path / "state"))
    assert estimator.copy().snapshots("fit", estimator.settings()) is not None
    estimator.save(str(tmp_path / "estimator"))
    loaded = BiasedALS.load(str(tmp_path / "estimator"))
    assert loaded.snapshots("fit", loaded.settings()) is None
    assert estimator.setSnapshots(None).snapshots("fit", estimator.settings()) is None
