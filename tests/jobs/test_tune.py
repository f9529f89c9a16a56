"""The search for hyper-parameters, stopped and started again."""

import shutil

import pandas as pd
import pytest
from running import make_planted_ratings, run_job

from mfspark.app.config import TuneSettings, load_config
from mfspark.app.search import Search
from mfspark.app.tune import TrialRow


@pytest.fixture(scope="module")
def ingested(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    make_planted_ratings(folder / "ratings.csv", n_users=120, n_items=60)
    (folder / "run.toml").write_text(
        '[run]\nname = "r"\n[data]\npath = "ratings.csv"\n[split]\nvalidation = 0.2\n'
        "[als]\nmax_iter = 6\n"
        '[tune]\ntrials = 3\nmethod = "random"\nrank = [1, 4]\nreg_exponent = [0.0, 1.0]\n'
    )
    result = run_job(spark, "ingest", folder / "run.toml")
    assert result.returncode == 0, result.stdout[-2000:]
    # Nobody needs the test ratings.
    shutil.rmtree(folder / "runs/r/ratings/test")
    return folder


def trials_of(folder):
    return pd.read_parquet(folder / "runs/r/tune/trials").sort_values("number", ignore_index=True)


def test_a_search_goes_on_and_its_best_is_a_configuration(spark, ingested, tmp_path):
    folder = shutil.copytree(ingested, tmp_path / "copy")
    first = run_job(spark, "tune", folder / "run.toml", "tune.trials=2")
    assert first.returncode == 0, first.stdout[-3000:]
    two = trials_of(folder)
    # Trials of the same ratings are kept, whatever may be replaced.
    second = run_job(spark, "tune", folder / "run.toml", "run.overwrite=true")
    assert second.returncode == 0, second.stdout[-3000:]
    assert "2 trials are there already" in second.stdout
    assert "trial 3 of 3" in second.stdout
    three = trials_of(folder)
    pd.testing.assert_frame_equal(three[:2], two)
    assert three["reg_param"].nunique() == 3
    assert set(three["state"]) <= {"complete", "pruned"}
    best = three.loc[three["validation_rmse"].idxmin()]
    config = load_config(str(folder / "runs/r/tune/best.toml"), [])
    assert config.als.rank == best["rank"]
    assert config.als.reg_param == best["reg_param"]
    assert config.als.max_iter == 6
    assert config.train.model == "als"
    shutil.copy(folder / "runs/r/tune/best.toml", folder / "best.toml")
    trained = run_job(spark, "train", folder / "best.toml")
    assert trained.returncode == 0, trained.stdout[-3000:]
    history = pd.read_parquet(folder / "runs/r/model/history")
    kept = history.dropna(subset="validation_rmse")["validation_rmse"].min()
    assert kept == pytest.approx(best["validation_rmse"], abs=1e-4)


def test_trials_of_other_ratings_are_refused(spark, ingested, tmp_path):
    folder = shutil.copytree(ingested, tmp_path / "copy")
    assert run_job(spark, "tune", folder / "run.toml", "tune.trials=1").returncode == 0
    path = next((folder / "runs/r/tune/trials").glob("*.parquet"))
    pd.read_parquet(path).assign(fingerprint="of others").to_parquet(path)
    refused = run_job(spark, "tune", folder / "run.toml", "tune.trials=2")
    assert refused.returncode == 3
    assert "has trials of other ratings than runs/r/ratings holds now; pass" in refused.stdout
    anew = run_job(spark, "tune", folder / "run.toml", "tune.trials=1", "run.overwrite=true")
    assert anew.returncode == 0, anew.stdout[-3000:]
    assert len(trials_of(folder)) == 1


def test_a_trial_that_fails_says_why(spark, ingested, tmp_path):
    folder = shutil.copytree(ingested, tmp_path / "copy")
    result = run_job(
        spark, "tune", folder / "run.toml", "tune.trials=1", 'als.initial_model="nowhere"'
    )
    assert result.returncode == 3
    assert "no trial came to an end: " in result.stdout
    assert "nowhere" in trials_of(folder).loc[0, "reason"]


def row(number, first, rmse):
    return TrialRow(
        number=number, fingerprint="x", model="als", rank=8, reg_param=1.0, bias_reg_param=0.5,
        reg_exponent=0.5, state="complete", validation_rmse=rmse, first_rmse=first, iterations=9,
        seconds=1.0,
    )  # fmt: skip


def test_hopeless_trials_end_early():
    past = [row(n, 0.9 + n / 100, 0.85) for n in range(7)]
    search = Search(TuneSettings(), 50.0, past)
    trial, _ = search.ask()
    assert not search.is_hopeless(trial, 0.91)
    trial, _ = search.ask()
    assert search.is_hopeless(trial, 0.99)
    young = Search(TuneSettings(), 50.0, past[:2])
    trial, _ = young.ask()
    assert not young.is_hopeless(trial, 0.99)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_choices_lie_in_their_ranges_and_weights_follow_the_exponent(method):
    settings = TuneSettings(
        method=method, models=["als", "bayes"], rank=(2, 5), reg_param=(1.0, 1.0),
        bias_reg_param=(0.5, 0.5), reg_exponent=(0.0, 1.0),
    )  # fmt: skip
    search = Search(settings, 100.0, [])
    seen = set()
    for number in range(20):
        trial, choice = search.ask()
        seen.add(choice["model"])
        assert 2 <= choice["rank"] <= 5
        if choice["model"] == "als":
            by = 100 ** (0.5 - choice["reg_exponent"])
            assert choice["reg_param"] == pytest.approx(by)
            assert choice["bias_reg_param"] == pytest.approx(0.5 * by)
        else:
            assert choice["reg_param"] is None
        search.tell(trial, 0.9 + number / 100, False)
    assert seen == {"als", "bayes"}
