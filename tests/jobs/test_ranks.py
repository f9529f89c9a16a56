"""The study of ranks: figures against pandas, the rule, and the job on planted factors."""

import numpy as np
import pandas as pd
import pytest
from running import make_planted_ratings, run_job

from mfspark.app.rank_study import validation_errors


def test_excess_by_hand(spark, rng):
    n = rng.integers(1, 9, 40).astype(float)
    squares = [n * 0.9 + rng.random(40), n * 0.8 + rng.random(40), n * 0.85 + rng.random(40)]
    tables = [
        spark.createDataFrame(pd.DataFrame({"user": np.arange(40), "n": n, "squares": each}))
        for each in squares
    ]
    found, error = validation_errors(tables)
    rmse = [np.sqrt(each.sum() / n.sum()) for each in squares]
    best = int(np.argmin(rmse))
    np.testing.assert_allclose(found, rmse, atol=1e-12)
    moved = [
        (each - root**2 * n) / (2 * root * n.sum())
        for each, root in zip(squares, rmse, strict=True)
    ]
    expected = [np.sqrt(((each - moved[best]) ** 2).sum()) for each in moved]
    np.testing.assert_allclose(error, expected, atol=1e-12)
    assert error[best] == 0


def test_the_job_finds_that_there_are_two_factors(spark, tmp_path):
    make_planted_ratings(tmp_path / "ratings.csv", n_users=250, n_items=80)
    (tmp_path / "run.toml").write_text(
        '[run]\nname = "r"\n[data]\npath = "ratings.csv"\nunit = "points"\n'
        '[als]\ncold_start_strategy = "nan"\n'
        "[split]\nvalidation = 0.15\ntest = 0.1\n[ranks]\nranks = [4, 0, 1, 2]\n"
    )
    result = run_job(spark, "ranks", tmp_path / "run.toml")
    assert result.returncode == 0, result.stdout[-3000:]
    table = pd.read_parquet(tmp_path / "runs/r/ranks/ranks").sort_values("rank")
    assert list(table["rank"]) == [0, 1, 2, 4]
    assert list(table["is_chosen"]) == [False, False, True, False]
    assert "standard error of the lowest validation RMSE: 2" in result.stdout
    assert table["train_rmse"].is_monotonic_decreasing
    by_rank = table.set_index("rank")
    assert by_rank.loc[2, "agreement"] > 0.95
    assert np.isnan(by_rank.loc[0, "agreement"])
    n_rows = 250 + 80
    assert by_rank.loc[2, "parameters"] == 3 * n_rows + 1
    assert by_rank.loc[2, "compression"] == pytest.approx(250 * 80 / (3 * n_rows + 1))
    assert by_rank.loc[2, "test_low"] < by_rank.loc[2, "test_rmse"] < by_rank.loc[2, "test_high"]
    page = (tmp_path / "runs/r/ranks/index.html").read_text(encoding="utf-8")
    assert "Rank 2 is the smallest" in page
    # The ratings that are there are used again, and nothing is replaced in silence.
    again = run_job(spark, "ranks", tmp_path / "run.toml")
    assert again.returncode == 2
    assert "runs/r/ranks exists" in again.stdout


@pytest.mark.thorough
def test_warm_starts_go_down_and_leave_nothing(spark, tmp_path):
    make_planted_ratings(tmp_path / "ratings.csv", n_users=250, n_items=80)
    (tmp_path / "run.toml").write_text(
        '[data]\npath = "ratings.csv"\n[split]\nvalidation = 0.15\n[ranks]\nranks = [0, 2, 6]\n'
    )
    tables = {}
    for name, warm in {"cold": "false", "warm": "true"}.items():
        result = run_job(
            spark, "ranks", tmp_path / "run.toml", f"run.name={name}", f"ranks.warm_start={warm}"
        )
        assert result.returncode == 0, result.stdout[-3000:]
        folder = tmp_path / "runs" / name / "ranks"
        assert {path.name for path in folder.iterdir()} == {"ranks", "index.html"}
        tables[name] = pd.read_parquet(folder / "ranks").set_index("rank").sort_index()
    cold, warm = tables["cold"], tables["warm"]
    assert list(warm.index) == [0, 2, 6]
    assert warm.loc[2, "iterations"] < cold.loc[2, "iterations"]
    assert abs(warm.loc[2, "validation_rmse"] - cold.loc[2, "validation_rmse"]) < 0.01
    assert warm.loc[2, "is_chosen"]
    # Nothing is above the highest rank, and biases have one solution.
    assert warm.loc[6, "train_rmse"] == pytest.approx(cold.loc[6, "train_rmse"], abs=1e-6)
    assert warm.loc[0, "train_rmse"] == pytest.approx(cold.loc[0, "train_rmse"], abs=1e-6)


def test_without_validation_ratings(spark, tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "user,item,rating\n" + "".join(f"{n % 9},{n // 9},{n % 5}\n" for n in range(90))
    )
    (tmp_path / "run.toml").write_text('[data]\npath = "ratings.csv"\n')
    result = run_job(spark, "ranks", tmp_path / "run.toml")
    assert result.returncode == 3
    assert "no validation ratings to choose a rank by; pass --set split.validation" in result.stdout
