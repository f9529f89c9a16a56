"""Outputs that do not belong together are refused, and so are two jobs at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import make_ratings

from mfspark.app import steps
from mfspark.app.config import load_config
from mfspark.app.run_directory import RunDirectory
from mfspark.errors import DataError


@pytest.fixture
def open_run(tmp_path):
    make_ratings(tmp_path / "my ratings.csv")
    (tmp_path / "run.toml").write_text(
        f'[run]\nname = "run 1"\ndirectory = "{tmp_path}/My Runs"\noverwrite = true\n'
        f'[data]\npath = "{tmp_path}/my ratings.csv"\nduplicates = "mean"\n'
        "[als]\nrank = 2\nmax_iter = 2\n[interpret]\nrefits = 0\n"
    )

    def make(*settings):
        return RunDirectory(load_config(str(tmp_path / "run.toml"), list(settings)))

    return make


@pytest.mark.slow
def test_a_model_of_other_ratings_is_not_evaluated(spark, open_run):
    run = open_run()
    assert Path(run.path).parent.name == "My Runs"
    steps.ingest(spark, run)
    steps.train(spark, run)
    # The same again is the same.
    steps.ingest(spark, run)
    assert steps.evaluate_model(spark, run)["model"] > 0
    other = open_run("split.seed=7")
    steps.ingest(spark, other)
    for step in (steps.evaluate_model, steps.interpret_model, steps.recommend):
        with pytest.raises(DataError, match=r"model was made from other ratings .* run the train"):
            step(spark, other)
    steps.train(spark, other)
    steps.interpret_model(spark, other)
    with pytest.raises(DataError, match=r"evaluation was made from other .* run the evaluate job"):
        steps.report(spark, other)


def test_rows_add_up_and_lost_ones_are_noticed(spark, open_run):
    run = open_run()
    steps.ingest(spark, run)
    facts = json.loads(Path(run.of("ingest.json")).read_text())
    kept = sum(facts["split"].values())
    assert facts["rows_read"] == kept + facts["rows_merged"] + sum(facts["bad_rows"].values())
    part = next(Path(run.of("ratings/train")).glob("part-*.parquet"))
    part.unlink()
    with pytest.raises(DataError, match=r"ratings/train has \d+ rows, but \d+ were written"):
        steps.train(spark, run)


def test_an_ingest_that_was_broken_off_is_noticed(spark, open_run):
    run = open_run()
    steps.ingest(spark, run)
    path = Path(run.of("ingest.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0123"}))
    with pytest.raises(DataError, match="an ingest was broken off"):
        steps.train(spark, run)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_documents_are_said_in_a_line(spark, open_run, content):
    run = open_run()
    steps.ingest(spark, run)
    Path(run.of("ingest.json")).write_text(content)
    with pytest.raises(DataError, match=r"ingest.json is damaged"):
        steps.train(spark, run)
    Path(run.of("run.json")).write_text(content)
    with pytest.raises(DataError, match=r"run.json is damaged"):
        steps.ingest(spark, run)


HOLD = """
import sys
from mfspark.app.run_directory import RunDirectory
from mfspark.app.config import load_config
with RunDirectory(load_config(sys.argv[1], [])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_second_job_says_so_and_stops(open_run, tmp_path):
    run = open_run()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run.toml")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    message = rf"another job is at work .*process {process.pid}"
    with pytest.raises(DataError, match=message), run.lock():
        pass
    # A killed job holds no lock.
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with run.lock():
        pass
    assert list(Path(run.path).iterdir()) == []


def test_a_run_directory_that_is_a_file(open_run, tmp_path):
    run = open_run()
    (tmp_path / "My Runs").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"), run.lock():
        pass


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_run_directory_that_is_not_ours(open_run, tmp_path):
    run = open_run()
    (tmp_path / "My Runs").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot be written"), run.lock():
        pass


def test_items_of_an_earlier_source_go(spark, open_run, tmp_path):
    (tmp_path / "items.csv").write_text("item,title\ni-0,Zero\n")
    with_items = open_run(f"data.items_path={tmp_path}/items.csv")
    steps.ingest(spark, with_items)
    assert Path(with_items.of("items")).exists()
    steps.ingest(spark, open_run())
    assert not Path(with_items.of("items")).exists()
