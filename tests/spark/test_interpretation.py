"""Interpretation tables against plain pandas, and explanations that add up exactly."""

import numpy as np
import pytest

from mfspark.errors import DataError
from mfspark.interpretation.explain import example_explained, explain
from mfspark.interpretation.readings import read_factors
from mfspark.interpretation.tables import InterpretSettings, describe_items, interpret

RATINGS = "user long, item long, rating double"


@pytest.fixture(scope="module")
def items(spark, model):
    ids = sorted(row["item"] for row in model.item_factors.select("item").collect())
    rows = [
        # Ids as text, as a CSV item table has them; one item without genres.
        (str(id_), f"Title {id_}", 1990 + n, [] if n == 0 else ["Even" if n % 2 == 0 else "Odd"])
        for n, id_ in enumerate(ids[:-1])
    ]
    return spark.createDataFrame(rows, "item string, title string, year int, genres array<string>")


@pytest.fixture(scope="module")
def tables(model, items):
    found = interpret(model, items, InterpretSettings(n_shown=3, min_ratings=15, n_similar=4))
    return {name: table.toPandas() for name, table in found.tables().items()}


@pytest.fixture(scope="module")
def described(model, items):
    """Item factors beside metadata, joined by pandas."""
    frame = model.item_factors.toPandas()
    meta = items.toPandas().assign(item=lambda rows: rows["item"].astype(int))
    return frame.merge(meta, on="item", how="left")


def test_shares_sum_to_one_and_fall(tables):
    share = tables["factors"]["share"]
    assert share.sum() == pytest.approx(1)
    assert (np.diff(share) <= 0).all()


def test_shares_are_those_of_the_interaction_matrix(model, tables):
    p = np.stack(model.user_factors.toPandas()["factors"]).astype(float)
    q = np.stack(model.item_factors.toPandas()["factors"]).astype(float)
    of_factor = [np.square(np.outer(p[:, f], q[:, f])).sum() for f in range(3)]
    np.testing.assert_allclose(
        tables["factors"]["share"], np.array(of_factor) / np.square(p @ q.T).sum(), rtol=1e-3
    )


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_ends_of_factors(model, items, described, weight):
    settings = InterpretSettings(n_shown=3, min_ratings=15, relevance=weight)
    found = interpret(model, items, settings).factor_items.toPandas()
    supported = described[described["n_ratings"] >= 15].set_index("item")
    known = np.log(supported["n_ratings"])
    for factor in (1, 2, 3):
        value = supported["factors"].map(lambda factors, at=factor - 1: float(factors[at]))
        rows = found.query("factor == @factor").sort_values("place")
        for end, sign in (("top", 1), ("bottom", -1)):
            z = sign * weight * (value - value.mean()) / value.std()
            z += (1 - weight) * (known - known.mean()) / known.std()
            chosen = value[z.nlargest(3).index].sort_values(ascending=end == "bottom")
            assert list(rows[rows["end"] == end]["item"]) == list(chosen.index)


def test_biases_with_support(tables, model):
    users = model.user_factors.where("n_ratings >= 15").toPandas().sort_values("bias")
    rows = tables["biases"].query("side == 'user'").sort_values("place")
    assert list(rows[rows["end"] == "lowest"]["id"]) == [str(u) for u in users["user"][:3]]
    assert list(rows[rows["end"] == "highest"]["id"]) == [str(u) for u in users["user"][::-1][:3]]


def test_similar_items_have_titles(tables, described, model):
    rows = tables["similar_items"]
    chosen = described.sort_values(["n_ratings", "item"], ascending=[False, True])["item"][:6]
    assert set(rows["item"]) == set(chosen)
    found = rows.dropna(subset="place")
    assert (found["item"] != found["similar_item"]).all()
    n_ratings = described.set_index("item")["n_ratings"]
    assert (found["n_ratings"] == n_ratings[found["similar_item"]].to_numpy()).all()
    assert (found["agreement"] >= 0.5).all()
    # Items without reliable neighbour are there, too.
    without = rows[rows["place"].isna()]
    assert without["similar_item"].isna().all()
    assert not set(without["item"]) & set(found["item"])
    lists = model.similarItems(model.item_factors, 4, among=described_rows(model, 15))
    sizes = {row["item"]: len(row["recommendations"]) for row in lists.collect()}
    assert found.groupby("item").size().to_dict() == {i: sizes[i] for i in chosen if sizes[i]}


def described_rows(model, least):
    return model.item_factors.where(f"n_ratings >= {least}")


def test_chosen_items_must_exist(model, items):
    chosen = interpret(model, items, InterpretSettings(similar_to=[5, "8"], n_similar=2))
    assert {row["item"] for row in chosen.similar_items.collect()} == {5, 8}
    with pytest.raises(DataError, match="similar_to names 4"):
        interpret(model, items, InterpretSettings(similar_to=[5, 4]))


def test_storage(tables, model):
    storage = tables["storage"].set_index("quantity")["value"]
    n_users, n_items = model.metadata.n_users, model.metadata.n_items
    assert storage["parameters of the model"] == (n_users + n_items) * 4 + 1
    assert storage["compression ratio"] == pytest.approx(
        n_users * n_items / ((n_users + n_items) * 4 + 1)
    )


def test_without_metadata(spark, model):
    found = interpret(model, None, InterpretSettings(min_ratings=1))
    assert found.factor_items.where("title is not null").isEmpty()
    stability = spark.createDataFrame([], "factor int, is_stable boolean")
    readings = read_factors(describe_items(model, None), stability, {})
    kinds = {row["kind"] for row in readings.factor_metadata.collect()}
    assert kinds == {"popularity"}


def test_explanations_sum_to_the_prediction_exactly(model, ratings):
    for row in model.transform(ratings.limit(5)).collect():
        parts = explain(model, row["user"], row["item"])
        assert parts.prediction == row["prediction"]
        assert len(parts.contributions) == 3


def test_the_example_is_a_held_out_rating_of_a_usual_user(spark, model, ratings, items):
    users = model.user_factors.toPandas().set_index("user")["n_ratings"].sort_index()
    # A user with as many ratings as most, the most active one, and two whom nobody knows.
    usual = (users - users.quantile(0.5, interpolation="lower")).abs().idxmin()
    known = model.item_factors.toPandas().sort_values("n_ratings")["item"].tolist()
    rows = [
        (int(usual), known[0], 2.5),
        (int(usual), known[-1], 3.5),
        (int(users.idxmax()), 5, 1.0),
    ]
    test = spark.createDataFrame([*rows, (-9, known[-1], 4.0), (int(usual), -9, 4.0)], RATINGS)
    described = describe_items(model, items)
    example = example_explained(model, described, ratings, test)
    table = example.explanation.toPandas().set_index("part")
    user = int(table.loc["user", "name"])
    assert users[user] == users[usual]
    assert (table.loc["item", "name"], table.loc["rating", "value"]) == (str(known[-1]), 3.5)
    expected = explain(model, user, known[-1])
    assert table.loc["prediction", "value"] == expected.prediction
    assert list(table.loc["factor", "value"]) == list(expected.contributions)
    # Beside μ and b_i, the user's own ratings and what the last half-step left make it up.
    own = example.explanation_ratings.toPandas()
    assert list(own["place"]) == list(range(1, users[user] + 1))
    assert own["influence"].abs().is_monotonic_decreasing
    assert own["title"].notna().any()
    rest = table.loc["unsettled", "value"] + table.loc[["global mean", "item bias"], "value"].sum()
    assert own["influence"].sum() + rest == pytest.approx(expected.prediction, abs=1e-5)
    example = example_explained(model, described, ratings, test.limit(0))
    nothing = example.explanation.toPandas().set_index("part")
    assert nothing.loc["user", "name"] == str(users.idxmax())
    assert np.isnan(nothing.loc["rating", "value"])


def test_explanation_needs_known_ids(model):
    with pytest.raises(DataError, match="user -1 has no training rating"):
        explain(model, -1, 5)
