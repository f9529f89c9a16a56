"""Other libraries as peers of a comparison; those that are not installed are left out."""

import numpy as np
import pandas as pd
import pytest

from mfspark.app.config import (
    CmfrecSettings,
    Config,
    LibmfSettings,
    MyfmSettings,
    SurpriseSettings,
)
from mfspark.app.estimators import contenders
from mfspark.app.package_estimator import PackageEstimator, fit_package
from mfspark.app.packages import PACKAGES, Numbered
from mfspark.errors import ConfigError

SETTINGS = {
    "libmf": LibmfSettings(rank=4),
    "cmfrec": CmfrecSettings(rank=4, reg_param=3.0),
    "myfm": MyfmSettings(rank=4, max_iter=30),
    "surprise": SurpriseSettings(rank=4),
}


@pytest.fixture(scope="module")
def ratings():
    """Planted: 60 users, 40 items with text ids, biases and one factor, some noise."""
    rng = np.random.default_rng(3)
    users, items = rng.normal(0, 0.5, (60, 2)), rng.normal(0, 0.5, (40, 2))
    user, item = np.nonzero(rng.random((60, 40)) < 0.5)
    rating = 3 + users[user, 0] + items[item, 0] + 2 * users[user, 1] * items[item, 1]
    rating = np.clip(rating + rng.normal(0, 0.2, len(user)), 1, 5)
    names = pd.DataFrame({"user": user, "item": [f"i{n}" for n in item], "rating": rating})
    return names.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(params=sorted(PACKAGES))
def settings(request):
    pytest.importorskip(PACKAGES[request.param][0])
    return SETTINGS[request.param]


def test_a_peer_learns_more_than_the_mean(ratings, settings):
    train, test = ratings[:1000], ratings[1000:]
    numbered = Numbered.of(train)
    fitted = fit_package(settings, numbered)
    error = test["rating"].to_numpy() - fitted.predict(*numbered.numbers(test))
    of_mean = test["rating"] - train["rating"].mean()
    assert np.sqrt(np.mean(error**2)) < 0.75 * np.sqrt(np.mean(of_mean**2))
    assert fitted.n_parameters >= 4 * sum(numbered.shape)


def test_unknown_ids_are_predicted_or_nan_but_never_those_of_another(ratings, settings):
    numbered = Numbered.of(ratings)
    predict = fit_package(settings, numbered).predict
    unknown = predict(np.array([-1, 5, -1]), np.array([7, -1, -1]))
    if isinstance(settings, LibmfSettings):
        assert np.isnan(unknown).all()
    else:
        assert unknown[2] == pytest.approx(ratings["rating"].mean(), abs=0.3)
        last = predict(np.array([59, 5]), np.array([7, 39]))
        assert (unknown[:2] != last).all()


def test_implicit_features_change_what_is_learnt(ratings):
    pytest.importorskip("myfm")
    numbered = Numbered.of(ratings)
    pairs = numbered.numbers(ratings[:50])
    plain, implicit = (
        fit_package(MyfmSettings(rank=4, max_iter=20, implicit_features=chosen), numbered)
        for chosen in (False, True)
    )
    assert implicit.n_parameters == 2 * plain.n_parameters - 1
    assert (plain.predict(*pairs) != implicit.predict(*pairs)).any()


def test_as_an_estimator_it_keeps_rows_and_columns(spark, ratings):
    pytest.importorskip("surprise")
    train = spark.createDataFrame(ratings)
    pairs = [(3, "i4", "a"), (999, "i4", "b"), (3, "new", None)]
    model = PackageEstimator(SETTINGS["surprise"]).fit(train)
    found = model.transform(spark.createDataFrame(pairs, "user long, item string, note string"))
    assert found.columns == ["user", "item", "note", "prediction"]
    assert [row[:3] for row in found.collect()] == pairs
    assert found.where("prediction between 1 and 5").count() == 3


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = Config.model_validate(
        {"data": {"path": "x"}, "compare": {"models": ["als", "surprise"]}}
    )
    with pytest.raises(ConfigError, match=r"models\[1\] names 'surprise'.*scikit-surprise"):
        contenders(config)


def test_rank_is_that_of_als_unless_it_is_set():
    pytest.importorskip("surprise")
    models = ["surprise", {"kind": "surprise", "name": "SVD 3", "rank": 3}]
    config = {"data": {"path": "x"}, "als": {"rank": 7}, "compare": {"models": models}}
    found = contenders(Config.model_validate(config))
    assert [each.settings.rank for each in found] == [7, 3]
