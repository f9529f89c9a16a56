"""Bringing a run up to date."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import run_job

from mfspark import BayesianMF, BiasedALS, FactorModel
from mfspark.app.update import folded_in


def rows(run: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run / name)


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory) -> Path:
    """The run "mine", and ratings since: of a new user, a new item, and pairs that were rated
    otherwise before, some of them in the test part."""
    folder = shutil.copytree(finished[0], tmp_path_factory.mktemp("update") / "user")
    test, train = (rows(folder / "runs/mine", f"ratings/{part}") for part in ("test", "train"))
    lines = ["user,item,rating"]
    lines += [f"newcomer,i-{n},{1 + n % 4}" for n in range(9)]
    lines += [f"u{n},i-new,4.5" for n in range(5)] + ["u1,i-new,oops"]
    for part in (test.head(3), train.head(4)):
        lines += [
            f"{row.user},{row.item},{row.rating + (0.5 if row.rating < 4 else -0.5)}"
            for row in part.itertuples()
        ]
    (folder / "since.csv").write_text("\n".join(lines) + "\n")
    return folder


def run_update(spark, place: Path, name: str, *settings: str):
    given = [f"run.name={name}", "data.path=since.csv", "data.max_bad_share=0.1"]
    return run_job(spark, "update", place / "run.toml", *given, "update.base=runs/mine", *settings)


@pytest.fixture(scope="module")
def folded(spark, place) -> tuple[Path, str]:
    found = run_update(spark, place, "folded")
    assert found.returncode == 0, found.stdout[-3000:]
    return place / "runs/folded", found.stdout


def test_ratings_are_those_of_both_and_each_pair_stays_in_its_part(place, folded):
    base, run = place / "runs/mine", folded[0]
    since = pd.read_csv(place / "since.csv")
    since = since[since["rating"] != "oops"].astype({"rating": float})
    since = since.set_index(["user", "item"])["rating"]
    for part in ("train", "validation", "test"):
        old, new = (
            rows(each, f"ratings/{part}").set_index(["user", "item"])["rating"]
            for each in (base, run)
        )
        expected = old.copy()
        again = since.index.intersection(old.index)
        expected[again] = since[again]
        if part == "train":
            known = pd.concat(
                [rows(base, f"ratings/{p}") for p in ("train", "validation", "test")]
            ).set_index(["user", "item"])
            expected = pd.concat([expected, since[~since.index.isin(known.index)]])
        pd.testing.assert_series_equal(
            new.sort_index(), expected.sort_index(), check_names=False, check_dtype=False
        )
    record = json.loads((run / "ingest.json").read_text())
    n_bad = sum(record["bad_rows"].values())
    assert n_bad == 1
    assert record["rows_read"] == record["rows_clean"] + record["rows_merged"] + n_bad
    assert record["rows_merged"] == 7


def test_rows_that_changed_are_the_solution_for_all_their_ratings(spark, place, folded):
    """And all other rows are as they were."""
    base, run = place / "runs/mine", folded[0]
    train = rows(run, "ratings/train")
    before, after = (rows(each, "model/user_factors").set_index("user") for each in (base, run))
    model = FactorModel.load(str(run / "model"))
    changed = {"newcomer", *(f"u{n}" for n in range(5))}
    changed |= set(rows(base, "ratings/train").head(4)["user"])
    for user in after.index:
        if user not in changed:
            np.testing.assert_array_equal(after.factors[user], before.factors[user])
    ratings = spark.createDataFrame(train[train["user"].isin(["newcomer", "u3"])])
    again = model.foldIn(ratings, "user").user_factors.toPandas().set_index("user")
    for user in ("newcomer", "u3"):
        np.testing.assert_allclose(again.factors[user], after.factors[user], atol=1e-5)
    assert "i-new" in set(rows(run, "model/item_factors")["item"])


def test_what_has_moved_is_told(folded):
    run, console = folded
    summary = rows(run, "update/summary").iloc[0]
    assert summary["method"] == "fold_in"
    assert (summary["new_ratings"], summary["changed_ratings"]) == (14, 4)
    assert (summary["new_users"], summary["new_items"]) == (1, 1)
    assert "14 new and 4 changed ratings, 1 new users, 1 new items: folded in" in console
    items = rows(run, "update/items").set_index("item")
    assert len(items) == 50
    change = (items["mean_after"] - items["mean_before"]).abs()
    assert list(change) == sorted(change, reverse=True)
    users, factors = rows(run, "model/user_factors"), rows(run, "model/item_factors")
    one = factors.set_index("item").loc[items.index[0]]
    metadata = json.loads((run / "model/metadata.json").read_text())
    mean = (
        metadata["global_mean"] + users["bias"].mean() + one["bias"]
        + np.stack(users["factors"]).astype(float).mean(axis=0) @ one["factors"]
    )  # fmt: skip
    assert items["mean_after"].iloc[0] == pytest.approx(mean, rel=1e-5)
    page = (run / "update/index.html").read_text()
    assert "their rows were solved for anew" in page
    assert "<script>alert(1)</script>" not in page


def test_the_updated_run_is_a_run(spark, place, folded):
    for job in ("evaluate", "recommend"):
        found = run_job(spark, job, place / "run.toml", "run.name=folded")
        assert found.returncode == 0, found.stdout[-3000:]
    assert "i-0" in set(rows(folded[0], "items")["item"])


def test_many_changes_are_fitted_anew_from_the_factors_of_the_base(spark, place):
    found = run_update(spark, place, "anew", "update.most_folded=0.001")
    assert found.returncode == 0, found.stdout[-3000:]
    run = place / "runs/anew"
    assert rows(run, "update/summary").iloc[0]["method"] == "warm_start"
    assert "newcomer" in set(rows(run, "model/user_factors")["user"])
    assert not (run / "snapshots").exists()


def rows_of(model: FactorModel, side: str) -> pd.Series:
    table = {"user": model.user_factors, "item": model.item_factors}[side].toPandas()
    return table.set_index(side)["bias"]


def test_rows_of_a_posterior_mean_stay_where_little_is_new(spark, rng):
    """Those of a minimum are solved for again, which is what they are."""
    user, item = np.nonzero(rng.random((60, 20)) < 0.6)
    known = pd.DataFrame({"user": user, "item": item, "rating": rng.integers(1, 6, len(user)) / 1})
    since = pd.DataFrame(
        {"user": [100, 100, 100, 101], "item": [0, 1, 50, 50], "rating": [5.0, 1.0, 4.0, 2.0]}
    )
    train, changed = spark.createDataFrame(pd.concat([known, since])), spark.createDataFrame(since)
    common = {"rank": 2, "seed": 1}
    mean = BayesianMF(**common, maxIter=12, burnIn=4, implicitFeatures=False).fit(known)
    minimum = BiasedALS(**common, maxIter=3, regParam=1.0, biasRegParam=1.0).fit(known)
    for model, moved in ((mean, [50]), (minimum, [0, 1, 50])):
        updated = folded_in(model, train, changed)
        before, after = rows_of(model, "item"), rows_of(updated, "item")
        assert set(after.index) == {*range(20), 50}
        stayed = before.index.difference(moved)
        assert (after[stayed] == before[stayed]).all()
        again = before.index.intersection(moved)
        assert (after[again] != before[again]).all()
        assert set(rows_of(updated, "user").index) == {*range(60), 100, 101}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("update.base=runs/none",), "runs/none/model is missing; run the train job"),
        (("run.name=mine",), "is the run to be written; give the new run another run.name"),
        (("update.method=shrink",), "update.method"),
    ],
)
def test_errors_say_what_to_do(spark, place, settings, message):
    found = run_update(spark, place, "refused", *settings)
    assert found.returncode in {2, 3}
    assert message in found.stdout
    assert not (place / "runs/refused").exists()
