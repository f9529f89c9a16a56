"""Jobs as users run them: files in, files out, one clear line for bad input."""

import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from running import make_ratings, run_job, submit_job


def test_pipeline_ends_with_headline_and_report(finished):
    folder, result = finished
    assert result.returncode == 0, result.stdout[-3000:]
    assert "RMSE on the test ratings (ratings.csv)" in result.stdout
    assert "Report: runs/mine/report/index.html" in result.stdout
    left = {entry.name for entry in (folder / "runs/mine").iterdir()}
    assert left == {
        "run.json", "ingest.json", "ratings", "quarantine", "users", "items", "model",
        "description", "evaluation", "interpretation", "report", "provenance",
    }  # fmt: skip


def test_run_json_tells_the_story(finished):
    folder, _ = finished
    run = json.loads((folder / "runs/mine/run.json").read_text())
    assert list(run["steps"]) == ["ingest", "train", "evaluate", "interpret", "report"]
    assert {step["state"] for step in run["steps"].values()} == {"succeeded"}
    assert run["config"]["als"]["rank"] == 3
    assert set(run["versions"]) >= {"mfspark", "pyspark", "python", "numpy"}
    ingest = json.loads((folder / "runs/mine/ingest.json").read_text())
    assert len(ingest["fingerprint"]) == 16
    assert sum(ingest["split"].values()) == ingest["rows_clean"]
    assert (ingest["users"], ingest["items"]) == (101, 61)


def test_what_ratings_there_are_is_a_page_and_in_the_report(finished):
    folder, result = finished
    assert "what ratings there are: runs/mine/description/index.html" in result.stdout
    ingest = json.loads((folder / "runs/mine/ingest.json").read_text())
    density = f"{100 * ingest['rows_clean'] / (101 * 61):.3g} % of all pairs"
    for page in ("description", "report"):
        text = (folder / f"runs/mine/{page}/index.html").read_text(encoding="utf-8")
        assert density in text
        assert text.count(">The ratings</h2>") == 1
    values = pd.read_parquet(folder / "runs/mine/description/rating_values")
    assert values["n"].sum() == ingest["rows_clean"]


def test_report_is_one_file_and_escapes_titles(finished):
    folder, _ = finished
    report = (folder / "runs/mine/report/index.html").read_text(encoding="utf-8")
    own = ['<script type="application/json" id="search-index">', "<script>"]
    assert re.findall("<script[^>]*>", report) == own
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; Co." in report
    assert "<h3>The Odd One</h3>" in report
    assert 'src="http' not in report
    assert 'href="http' not in report
    run = json.loads((folder / "runs/mine/run.json").read_text())
    assert f"{run['steps']['evaluate']['rmse']['model']:.4f}" in report


def test_factors_are_read_as_far_as_they_are_stable(finished):
    """These ratings have no factors that other users would have, too."""
    folder, _ = finished
    interpretation = folder / "runs/mine/interpretation"
    stability = pd.read_parquet(interpretation / "factor_stability")
    assert list(stability["factor"]) == [1, 2, 3]
    report = (folder / "runs/mine/report/index.html").read_text(encoding="utf-8")
    assert report.count('class="badge"') == stability["is_stable"].sum()
    n = (~stability["is_stable"]).sum()
    text = "None of the 3 factors is stable" if n == 3 else f"{n} other factors, "
    assert n == 1 or text in report
    gains = pd.read_parquet(interpretation / "factor_gains")
    assert list(gains["n_factors"]) == [0, 1, 2, 3]
    assert pd.read_parquet(interpretation / "variance")["share"].sum() == pytest.approx(1)


@pytest.mark.thorough
def test_factors_are_read_in_other_coordinates(spark, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    settings = ("run.overwrite=true", "interpret.rotation=varimax", "interpret.refits=1")
    for job in ("interpret", "report"):
        result = run_job(spark, job, folder / "run.toml", *settings)
        assert result.returncode == 0, result.stdout[-3000:]
    canonical, rotated = (
        {
            name: pd.read_parquet(run / "runs/mine/interpretation" / name)
            for name in ("similar_items", "explanation", "factors")
        }
        for run in (finished[0], folder)
    )
    pd.testing.assert_frame_equal(canonical["similar_items"], rotated["similar_items"])
    before, after = (
        each["explanation"].set_index("part")["value"] for each in (canonical, rotated)
    )
    assert after["prediction"] == pytest.approx(before["prediction"], abs=1e-5)
    assert after["unsettled"] == pytest.approx(before["unsettled"], abs=1e-5)
    assert not np.allclose(after["factor"], before["factor"], atol=1e-3)
    assert rotated["factors"]["share"].is_monotonic_decreasing
    report = (folder / "runs/mine/report/index.html").read_text(encoding="utf-8")
    assert "(varimax; the same predictions)" in report


def test_ids_come_back_as_they_went_in(finished):
    folder, _ = finished
    users = pd.read_parquet(folder / "runs/mine/model/user_factors")
    items = pd.read_parquet(folder / "runs/mine/model/item_factors")
    assert set(users["user"]) == {f"u{n}" for n in range(101)}
    assert set(items["item"]) == {f"i-{n}" for n in range(61)}


def test_recommend_leaves_out_what_was_rated(spark, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    result = run_job(spark, "recommend", folder / "run.toml", "recommend.n=4")
    assert result.returncode == 0, result.stdout[-3000:]
    lists = pd.read_parquet(folder / "runs/mine/recommendations")
    train = pd.read_parquet(folder / "runs/mine/ratings/train")
    seen = set(zip(train["user"], train["item"], strict=True))
    assert len(lists) == 101
    for row in lists.itertuples():
        assert len(row.recommendations) == 4
        assert not {(row.user, entry["item"]) for entry in row.recommendations} & seen
        assert all(entry.keys() == {"item", "title", "rating"} for entry in row.recommendations)
    assert "Lists: runs/mine/recommendations\n  101 lists, with" in result.stdout


def test_second_run_does_not_replace_the_first(spark, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    before = (folder / "runs/mine/model/metadata.json").read_text()
    result = run_job(spark, "train", folder / "run.toml")
    assert result.returncode == 2
    assert "runs/mine/model exists and would be replaced" in result.stdout
    assert (folder / "runs/mine/model/metadata.json").read_text() == before
    run = json.loads((folder / "runs/mine/run.json").read_text())
    # What is there is what is told of.
    assert run["steps"]["train"]["state"] == "succeeded"


def test_folds_and_the_section_in_the_report(spark, finished, tmp_path):
    """A comparison in the run of a pipeline uses its ratings and becomes part of its report."""
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    settings = ['compare.models=["als","global_mean"]', "compare.folds=2"]
    result = run_job(spark, "compare", folder / "run.toml", *settings)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "ingest:" not in result.stdout
    folds = pd.read_parquet(folder / "runs/mine/comparison/folds")
    assert sorted(map(tuple, folds[["predictor", "fold"]].to_numpy())) == [
        ("ALS", 0), ("ALS", 1), ("global mean", 0), ("global mean", 1),
    ]  # fmt: skip
    predictions = pd.read_parquet(folder / "runs/mine/comparison/predictions")
    n_clean = json.loads((folder / "runs/mine/ingest.json").read_text())["rows_clean"]
    ours = predictions[predictions["predictor"] == "ALS"]
    assert len(ours) == n_clean == len(ours[["user", "item"]].drop_duplicates())
    result = run_job(spark, "report", folder / "run.toml", "run.overwrite=true")
    assert result.returncode == 0, result.stdout[-3000:]
    page = (folder / "runs/mine/report/index.html").read_text()
    assert ">Comparison</h2>" in page
    assert "RMSE by fold" in page


BAD = {
    "missing file": (
        ["data.path=nowhere.csv"],
        "there is no file or folder nowhere.csv; set data.path",
    ),
    "empty file": (["data.path=empty.csv"], "empty.csv is empty"),
    "only a header": (["data.path=header.csv"], "has no rows"),
    "wrong column": (["data.path=wrong.csv"], "has no column 'user' for the user; it has userId"),
    "all rows invalid": (["data.path=invalid.csv"], "3 of 3 rows are bad (3 × unparsable rating)"),
    "NaN rating": (["data.path=nan.csv"], "1 × NaN or infinite rating"),
    "unknown key": (["als.rnak=3"], "unknown key 'als.rnak'; did you mean 'rank'?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_output(spark, tmp_path, case):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("user,item,rating\n")
    make_ratings(tmp_path / "wrong.csv", user="userId")
    (tmp_path / "invalid.csv").write_text("user,item,rating\n1,1,x\n1,2,y\n1,3,z\n")
    (tmp_path / "nan.csv").write_text("user,item,rating\n1,1,NaN\n1,2,3\n1,3,4\n")
    (tmp_path / "run.toml").write_text('[data]\npath = "ratings.csv"\n')
    make_ratings(tmp_path / "ratings.csv", n=50)
    settings, message = BAD[case]
    before = set(tmp_path.iterdir())
    result = run_job(spark, "ingest", tmp_path / "run.toml", *settings)
    assert_one_line(result, message, code=2 if case == "unknown key" else 3)
    left = [path for path in set(tmp_path.iterdir()) - before if any(path.rglob("*"))]
    assert left == []


def test_spark_submit_adds_nothing_to_that_line(tmp_path):
    make_ratings(tmp_path / "ratings.csv", n=50, user="userId")
    (tmp_path / "run.toml").write_text('[data]\npath = "ratings.csv"\n')
    result = submit_job("ingest", tmp_path / "run.toml", cwd=tmp_path)
    assert_one_line(result, "has no column 'user' for the user; it has userId")


def assert_one_line(result, message, code=3):
    assert result.returncode == code
    lines = [line for line in result.stdout.splitlines() if line.startswith("mfspark: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in result.stdout


def test_model_of_another_schema_is_refused(spark, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    metadata = folder / "runs/mine/model/metadata.json"
    content = metadata.read_text()
    metadata.write_text(content.replace('"schema_version": 1', '"schema_version": 7'))
    result = run_job(spark, "evaluate", folder / "run.toml", "run.overwrite=true")
    assert result.returncode == 3
    assert "has model schema version 7, but this mfspark reads version 1" in result.stdout
    assert (folder / "runs/mine/evaluation/metrics").exists()


@pytest.mark.parametrize(
    ("model", "algorithm"),
    [
        pytest.param("sgd", "BiasedSGD", marks=pytest.mark.thorough),
        ("bayes", "BayesianMF"),
    ],
)
def test_other_models_are_trained_and_reported(spark, finished, tmp_path, model, algorithm):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    settings = [
        "run.overwrite=true", f"train.model={model}", f"{model}.max_iter=20", "interpret.refits=1"
    ]  # fmt: skip
    for job in ("train", "evaluate", "interpret", "report"):
        result = run_job(spark, job, folder / "run.toml", *settings)
        assert result.returncode == 0, result.stdout[-3000:]
    metadata = json.loads((folder / "runs/mine/model/metadata.json").read_text())
    assert metadata["algorithm"] == algorithm
    assert '<h2 id="factors">' in (folder / "runs/mine/report/index.html").read_text()


FEATURES = ('train.user_features=["age","group"]', 'train.item_features=["genres","year"]')


@pytest.mark.thorough
def test_features_of_the_tables_are_learnt_from(spark, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    settings = [
        "run.overwrite=true", "bayes.max_iter=20", "bayes.rank=2", "interpret.refits=1", *FEATURES
    ]  # fmt: skip
    result = run_job(spark, "train", folder / "run.toml", "train.model=bayes", *settings)
    assert result.returncode == 0, result.stdout[-3000:]
    assert (
        "4 features of users; of 101 that have ratings 101 have features, 1 have" in result.stdout
    )
    metadata = json.loads((folder / "runs/mine/model/metadata.json").read_text())
    assert metadata["features"]["user"] == {
        "columns": ["age", "group"], "n_features": 4, "n_rated": 101, "n_unrated": 1
    }  # fmt: skip
    assert metadata["features"]["item"]["columns"] == ["genres", "year"]
    users = pd.read_parquet(folder / "runs/mine/model/user_factors")
    assert users.set_index("user").loc["new", "n_ratings"] == 0
    for job in ("evaluate", "interpret", "recommend", "report"):
        result = run_job(spark, job, folder / "run.toml", *settings)
        assert result.returncode == 0, result.stdout[-3000:]
    report = (folder / "runs/mine/report/index.html").read_text()
    assert "known of 101 users, too: age, group; 1 without ratings are predicted" in report
    lists = pd.read_parquet(folder / "runs/mine/recommendations")
    assert "new" in set(lists["user"])
    result = run_job(spark, "cross_validate", folder / "run.toml", "train.model=bayes", *settings)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FEATURES, "bayes alone learns from features"),
        (
            ("train.model=bayes", 'train.user_features=["sex"]'),
            "'sex', but the table of users has age, group; choose",
        ),
        (
            ("train.model=bayes", 'train.item_features=["year"]', "run.name=plain"),
            "needs a table of items, but these ratings come without; set data.items_path",
        ),
    ],
)
def test_features_that_cannot_be_used_are_refused(spark, finished, tmp_path, settings, message):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    shutil.copytree(folder / "runs/mine", folder / "runs/plain")
    shutil.rmtree(folder / "runs/plain/items")
    result = run_job(spark, "train", folder / "run.toml", "run.overwrite=true", *settings)
    assert_one_line(result, message, code=2)


def test_steps_say_what_must_come_first(spark, tmp_path):
    (tmp_path / "run.toml").write_text('[data]\ndataset = "synthetic"\n')
    result = run_job(spark, "train", tmp_path / "run.toml")
    assert result.returncode == 3
    assert "runs/default/ratings is missing; run the ingest job" in result.stdout


def test_benchmark_measures_both_and_writes_json(spark, tmp_path):
    (tmp_path / "run.toml").write_text(
        '[run]\nname = "b"\n[data]\ndataset = "synthetic"\n'
        "[benchmark]\nn_ratings = [20000]\nranks = [4]\niterations = 3\nrounds = 1\n"
    )
    result = run_job(spark, "benchmark", tmp_path / "run.toml")
    assert result.returncode == 0, result.stdout[-3000:]
    content = json.loads((tmp_path / "runs/b/benchmark.json").read_text())
    assert [row["peer"] for row in content["results"]] == ["mfspark", "mllib"]
    assert content["machine"]["cores"] == os.cpu_count()
    for row in content["results"]:
        assert row["n_train"] > 40 * row["n_test"] > 0
        assert 0.5 < row["rmse"] < 1.5
        assert min(row[name] for name in ("fit", "transform", "recommend", "jvm_mib")) > 0
    assert "ratio" in result.stdout
    ours, theirs = (row["phases"] for row in content["results"])
    assert list(ours) == ["prepare", "penalties", "task", "tables"]
    assert 0 < sum(ours.values()) <= content["results"][0]["fit"]
    assert theirs == {}
    assert "Seconds of a fit by phase:" in result.stdout
