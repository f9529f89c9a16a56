"""The exchange of moments: the fit of any other exchange, from sums that blocks of users form."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F
from scratch import scratch_folder

from mfspark import BiasedALS
from mfspark.engine import fit_als, summed_iteration

SETTINGS = {"rank": 3, "maxIter": 4, "tol": 0.0, "regParam": 0.2, "biasRegParam": 0.1, "seed": 1}
MOMENTS = {"execution": "distributed", "exchange": "moments"}


@pytest.fixture(scope="module")
def ratings(spark):
    """With an item and a user that many ratings are of, validation ratings, and ids of each that
    have no other ones."""
    rng = np.random.default_rng(5)
    n = 9000
    item, user = rng.integers(0, 60, n), rng.integers(0, 700, n)
    item[: n // 3], user[-n // 4 :] = 0, 0
    frame = pd.DataFrame({"user": user, "item": item}).drop_duplicates()
    tastes, kinds = rng.normal(0, 1, 700), rng.normal(0, 1, 60)
    rating = 3 + tastes[frame["user"]] * kinds[frame["item"]] + rng.normal(0, 0.3, len(frame))
    frame["rating"] = rating.astype(np.float32)
    frame["is_validation"] = rng.random(len(frame)) < 0.2
    cold = pd.DataFrame(
        {"user": [1000, 3], "item": [1, 1000], "rating": [3.0, 4.0], "is_validation": [True] * 2}
    )
    table = spark.createDataFrame(pd.concat([frame, cold])).persist()
    yield table
    table.unpersist()


@pytest.fixture(params=["driver", "executors"])
def adding(request, monkeypatch):
    """Where moments are added up."""
    if request.param == "executors":
        monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", 0)


@pytest.fixture(scope="module")
def expected(ratings):
    return fitted(ratings, execution="one_task")


def fitted(ratings, **settings):
    return BiasedALS(**SETTINGS | settings, validationIndicatorCol="is_validation").fit(ratings)


def figures(model):
    table = model.history.orderBy("iteration", "side").toPandas()
    return table[["objective", "train_rmse", "validation_rmse"]]


def assert_same(found, expected, ratings):
    np.testing.assert_allclose(figures(found), figures(expected), rtol=2e-5)
    values = [
        model.transform(ratings.where("user < 1000 AND item < 1000"))
        .orderBy("user", "item")
        .toPandas()["prediction"]
        for model in (found, expected)
    ]
    np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize(
    "blocks",
    [
        {"numUserBlocks": 1, "numItemBlocks": 1},
        {"numUserBlocks": 3, "numItemBlocks": 5},
        {"numUserBlocks": 2, "numItemBlocks": 90},
    ],
)
def test_the_fit_is_that_of_one_task(ratings, expected, blocks):
    found = fitted(ratings, **MOMENTS, **blocks)
    assert found.metadata.exchange == {"user": "broadcast", "item": "moments"}
    assert_same(found, expected, ratings)
    assert found.metadata.n_cold_validation == expected.metadata.n_cold_validation


@pytest.mark.usefixtures("adding")
def test_routed_items_come_to_the_same(ratings, expected, monkeypatch):
    monkeypatch.setattr("mfspark.engine.plan.BROADCAST_LIMIT", 0)
    found = fitted(ratings, **MOMENTS, numUserBlocks=3, numItemBlocks=2)
    assert found.metadata.exchange == {"user": "routed", "item": "moments"}
    assert_same(found, expected, ratings)


@pytest.mark.classic
@pytest.mark.usefixtures("adding")
def test_files_that_are_lost_are_made_again(spark, ratings, expected, monkeypatch):
    scratch = scratch_folder(spark)
    lost = []
    run = summed_iteration.run_summed_iteration

    def lose_files(*arguments):
        paths = sorted(scratch.glob("mfspark-block-*.arrow"))
        for path in paths[len(lost) % 2 :]:
            path.unlink()
        lost.append(len(paths))
        return run(*arguments)

    monkeypatch.setattr(fit_als, "run_summed_iteration", lose_files)
    found = fitted(ratings, **MOMENTS, numUserBlocks=3, numItemBlocks=2)
    assert lost == [3] * 4
    assert_same(found, expected, ratings)


@pytest.mark.usefixtures("adding")
@pytest.mark.parametrize("rank", [20, 200])
def test_items_of_few_ratings_send_these(ratings, rank):
    """Half of them, or all but one."""
    settings = {"rank": rank, "maxIter": 2, "solver": "exact"}
    found, expected = (
        fitted(ratings, **settings, **how)
        for how in ({**MOMENTS, "numUserBlocks": 6}, {"execution": "one_task"})
    )
    assert_same(found, expected, ratings)


@pytest.mark.parametrize("rank", [3, 200])
def test_what_is_shipped_is_what_is_said(ratings, rank):
    train = ratings.where("not is_validation").toPandas()
    found = fitted(ratings, **MOMENTS | {"rank": rank}, numUserBlocks=1, numItemBlocks=1)
    row = found.history.where("side = 'item'").first()
    counts = train.groupby("item").size()
    few = counts[counts <= rank // 2]
    users = train[train["item"].isin(few.index)]["user"].nunique()
    # The number of an item, and the upper triangle of a matrix of rank + 2 rows; or how many
    # ratings it has, these, and who gave them; and the rows of all who did.
    numbers = (len(counts) - len(few)) * (1 + (rank + 2) * (rank + 3) // 2)
    numbers += 2 * len(few) + 2 * few.sum() + users * (rank + 1)
    assert row["bytes"] == 4 * numbers
    assert (len(few) > 10) == (rank == 200)


def test_users_of_the_best_iteration_are_those_that_its_items_came_from(ratings, expected):
    last = expected.history.orderBy(F.desc("iteration"), "side").first()
    found = fitted(ratings, **MOMENTS)
    told = found.history.orderBy(F.desc("iteration"), "side").first()
    assert told["objective"] == pytest.approx(last["objective"], rel=1e-5)
    users = [m.userFactors.orderBy("user").toPandas() for m in (found, expected)]
    np.testing.assert_allclose(users[0]["bias"], users[1]["bias"], atol=1e-4)
