"""Neighbourhood methods against a plain-Python twin on dense data."""

import shutil

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import PipelineModel

from mfspark.errors import ModelFormatError, OutputExistsError
from mfspark.models.knn import ItemKNN, KNNModel, UserKNN


def twin(frame: pd.DataFrame, pairs: list, side: str, settings: dict, base_of) -> list:
    """Predictions by the definition, one pair after another."""
    dense = frame.set_index(["user", "item"])["rating"].unstack()  # noqa: PD010
    if side == "user":
        dense = dense.T
    # Rows: raters; columns: what is compared.
    base = pd.DataFrame(
        {
            column: [
                base_of(*((rater, column) if side == "item" else (column, rater)))
                for rater in dense.index
            ]
            for column in dense.columns
        },
        index=dense.index,
    )
    compared = dense - base if settings["similarity"] == "pearson_baseline" else dense
    deviation = dense - base if settings["centring"] == "bias" else dense - dense.mean()

    def similarity(a, b):
        both = compared[[a, b]].dropna()
        n = len(both)
        if n < settings["minSupport"] or a == b:
            return 0.0
        x, y = both[a].to_numpy(), both[b].to_numpy()
        if settings["similarity"] == "pearson":
            x, y = x - x.mean(), y - y.mean()
        scale = np.sqrt((x @ x) * (y @ y))
        return 0.0 if scale < 1e-5 * n else x @ y / scale * n / (n + settings["shrinkage"])

    found = []
    for user, item in pairs:
        rater, column = (user, item) if side == "item" else (item, user)
        start = base_of(user, item) if settings["centring"] == "bias" else dense[column].mean()
        rated = deviation.loc[rater].dropna()
        near = sorted(
            ((similarity(column, other), value) for other, value in rated.items()), reverse=True
        )
        near = [(s, value) for s, value in near if s > 0][: settings["k"]]
        weight = sum(s for s, _ in near)
        correction = sum(s * value for s, value in near)
        found.append(
            start + correction / (settings["neighbourDamping"] + weight) if near else start
        )
    return found


@pytest.mark.parametrize(
    ("side", "similarity", "centring", "damping"),
    [
        ("item", "pearson_baseline", "bias", 0.0),
        ("user", "pearson_baseline", "bias", 0.5),
        ("item", "cosine", "mean", 0.2),
        ("user", "pearson", "mean", 0.0),
    ],
)
def test_predictions_follow_the_definition(
    spark, ratings, ratings_frame, side, similarity, centring, damping
):
    settings = {
        "similarity": similarity, "centring": centring, "k": 5, "shrinkage": 4.0, "minSupport": 3,
        "neighbourDamping": damping, "clipPredictions": False,
    }  # fmt: skip
    estimator = {"item": ItemKNN, "user": UserKNN}[side](**settings)
    model = estimator.fit(ratings)
    users, items = ratings_frame["user"].unique()[:12], ratings_frame["item"].unique()[:9]
    pairs = [(int(user), int(item)) for user in users for item in items]
    table = spark.createDataFrame(pairs, "user long, item long")
    found = model.transform(table).toPandas().set_index(["user", "item"])["prediction"]
    biases = model.biases
    b_u = biases.user_factors.toPandas().set_index("user")["bias"]
    b_i = biases.item_factors.toPandas().set_index("item")["bias"]
    expected = twin(
        ratings_frame, pairs, side, settings,
        lambda user, item: biases.global_mean + b_u[user] + b_i[item],
    )  # fmt: skip
    np.testing.assert_allclose([found[pair] for pair in pairs], expected, atol=2e-3)


def test_cold_pairs_go_by_the_strategy(spark, ratings):
    pairs = spark.createDataFrame([(100, 5), (100, -1), (-1, -1)], "user long, item long")
    model = ItemKNN(nStored=10).fit(ratings)
    found = model.transform(pairs).toPandas().set_index(["user", "item"])["prediction"]
    assert found[-1, -1] == pytest.approx(model.biases.global_mean)
    assert np.isfinite(found).all()
    nan = model.copy({model.coldStartStrategy: "nan"}).transform(pairs).toPandas()["prediction"]
    assert nan.isna().tolist().count(True) == 2
    dropped = model.copy({model.coldStartStrategy: "drop"}).transform(pairs)
    assert dropped.count() == 1


@pytest.mark.parametrize("centring", ["bias", "mean"])
def test_a_saved_model_predicts_the_same(ratings, tmp_path, centring):
    model = UserKNN(k=4, centring=centring, clipPredictions=True).fit(ratings)
    path = str(tmp_path / "model")
    model.save(path)
    with pytest.raises(OutputExistsError):
        model.save(path)
    pipeline = PipelineModel([model])
    pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    expected = model.transform(ratings).orderBy("user", "item").toPandas()
    for loaded in (KNNModel.load(path), PipelineModel.load(str(tmp_path / "pipeline")).stages[0]):
        assert loaded.getOrDefault(loaded.clipPredictions)
        found = loaded.transform(ratings).orderBy("user", "item").toPandas()
        pd.testing.assert_frame_equal(found, expected)


def test_a_damaged_model_is_refused(ratings, tmp_path):
    with pytest.raises(ModelFormatError, match=r"it has no knn\.json"):
        KNNModel.load(str(tmp_path))
    path = tmp_path / "model"
    ItemKNN(k=4).fit(ratings).save(str(path))
    document = (path / "knn.json").read_text()
    for text, message in (
        (document.replace('"schema_version": 2', '"schema_version": 7'), "schema version 7, but"),
        (document.replace('"k": 4', '"k": "four"'), "damaged at 'k'"),
        (document[:20], "is damaged"),
    ):
        (path / "knn.json").write_text(text)
        with pytest.raises(ModelFormatError, match=message):
            KNNModel.load(str(path))
    (path / "knn.json").write_text(document)
    shutil.rmtree(path / "rated")
    with pytest.raises(ModelFormatError, match=r"table .* of model .* is missing"):
        KNNModel.load(str(path))


@pytest.mark.parametrize("name", ["neighbours", "rated"])
def test_a_missing_part_of_a_table_is_noticed(ratings, tmp_path, name):
    path = tmp_path / "model"
    ItemKNN(k=5).fit(ratings).save(str(path))
    parts = [p for p in (path / name).glob("part-*.parquet") if len(pd.read_parquet(p))]
    parts[0].unlink()
    with pytest.raises(ModelFormatError, match=rf"table {name} of model .*(rows, but|missing)"):
        KNNModel.load(str(path))
