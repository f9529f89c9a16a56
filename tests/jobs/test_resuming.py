"""Jobs that are broken off: what is there afterwards, and what the same command makes of it."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from killing import Job, assert_same_run, make_place
from running import run_job

from mfspark.app.config import load_config
from mfspark.app.run_directory import RunDirectory

STEPS = ("ingest", "train", "evaluate", "interpret", "report")


def skipped(result) -> set[str]:
    return set(re.findall(r"step \d of 5: (\w+): finished before", result.stdout))


def records(folder: Path) -> dict:
    return json.loads((folder / "runs/mine/run.json").read_text())["steps"]


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "copy", copy_function=shutil.copy2)


def test_a_pipeline_that_is_finished_does_nothing(spark, finished, copied):
    before = records(copied)
    again = run_job(spark, "pipeline", copied / "run.toml")
    assert again.returncode == 0, again.stdout[-3000:]
    assert skipped(again) == set(STEPS)
    assert records(copied) == before
    headlines = [each.stdout.partition("\nRMSE on the test")[2] for each in (again, finished[1])]
    assert headlines[0] == headlines[1] != ""


def finished_steps(folder: Path, *settings: str) -> set[str]:
    """Those that the pipeline would skip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = RunDirectory(load_config("run.toml", list(settings)))
        return {step for step in STEPS if run.is_finished(step)}


@pytest.mark.parametrize(
    ("setting", "finished_before"),
    [
        ("train.save_every=1h", set(STEPS)),
        ("sgd.rank=5", set(STEPS)),
        ("recommend.n=3", {"ingest", "train", "interpret"}),
        ("interpret.similar_to=[]", {"ingest", "train", "evaluate"}),
        ("als.max_iter=2", {"ingest"}),
        ("train.model=sgd", {"ingest"}),
        ("data.duplicates=last", {"train", "interpret"}),
        ("run.resume=false", set()),
    ],
)
def test_a_setting_has_those_steps_run_that_depend_on_it(finished, setting, finished_before):
    assert finished_steps(finished[0], setting) == finished_before


def test_changed_inputs_and_lost_outputs_are_noticed(copied):
    assert finished_steps(copied) == set(STEPS)
    os.utime(copied / "ratings.csv")
    assert finished_steps(copied) == set(STEPS[1:])
    shutil.rmtree(copied / "runs/mine/evaluation")
    assert finished_steps(copied) == {"train", "interpret"}
    # Other ratings than the model was made from.
    provenance = copied / "runs/mine/provenance/ratings.json"
    provenance.write_text(json.dumps({"identity": "another"}))
    assert finished_steps(copied) == set()


def test_outputs_of_an_attempt_that_was_killed_are_replaced(spark, copied):
    """Killed between the output and the end of the step, with and without provenance; without
    run.overwrite."""
    path = copied / "runs/mine/run.json"

    def pretend(**changes) -> None:
        content = json.loads(path.read_text())
        content["steps"]["train"] |= changes
        path.write_text(json.dumps(content))

    pretend(state="running")
    assert run_job(spark, "train", copied / "run.toml").returncode == 0
    # Of an attempt that has ended nothing is replaced, nor of another one.
    assert run_job(spark, "train", copied / "run.toml").returncode == 2
    pretend(state="failed", attempt="another one")
    assert run_job(spark, "pipeline", copied / "run.toml").returncode == 2
    (copied / "runs/mine/provenance/model.json").unlink()
    assert run_job(spark, "train", copied / "run.toml").returncode == 0


@pytest.fixture
def from_a_table(spark, tmp_path) -> Path:
    """A configuration of ratings in the catalog and items in a file."""
    spark.sql("CREATE DATABASE IF NOT EXISTS warehouse")
    rows = [(u, i, float(1 + (u * i + u) % 5)) for u in range(30) for i in range(20) if (u + i) % 3]
    ratings = spark.createDataFrame(rows, "customer long, product long, stars double")
    ratings.write.saveAsTable("warehouse.ratings")
    items = "".join(f"{n},Title {n}\n" for n in range(20))
    (tmp_path / "items.csv").write_text(f"item,title\n{items}")
    (tmp_path / "run.toml").write_text(
        '[data]\ntable = "warehouse.ratings"\nitems_path = "items.csv"\n'
        '[data.columns]\nuser = "customer"\nitem = "product"\nrating = "stars"\n'
        '[run]\nname = "mine"\n'
    )
    yield tmp_path
    spark.sql("DROP DATABASE warehouse CASCADE")


def test_a_table_of_the_catalog_is_ingested_again_when_it_has_changed(spark, from_a_table):
    config = from_a_table / "run.toml"
    done = run_job(spark, "ingest", config)
    assert done.returncode == 0, done.stdout[-3000:]
    run = from_a_table / "runs/mine"
    assert json.loads((run / "ingest.json").read_text())["origin"] == "warehouse.ratings"
    assert (run / "items").is_dir()
    assert finished_steps(from_a_table) == {"ingest"}
    spark.sql("INSERT INTO warehouse.ratings VALUES (99, 1, 5.0)")
    assert finished_steps(from_a_table) == set()
    spark.sql("DROP TABLE warehouse.ratings")
    assert finished_steps(from_a_table) == set()
    gone = run_job(spark, "ingest", config, "run.overwrite=true")
    assert gone.returncode == 3
    assert "the table warehouse.ratings cannot be read" in gone.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_place(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(spark, place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("ratings.csv", "run.toml"):
        shutil.copy2(place / name, folder)
    assert run_job(spark, "pipeline", folder / "run.toml").returncode == 0
    return folder / "runs/mine"


def killed_at(pattern: str, place: Path) -> str:
    """The console of a pipeline that is killed when it shows ``pattern``."""
    job = Job(place, "pipeline")
    assert job.watch(pattern), "".join(job.lines)
    job.kill()
    return "".join(job.lines)


@pytest.mark.slow
def test_a_pipeline_killed_again_and_again_ends_as_if_nothing_had_happened(place, undisturbed):
    """Each life goes on from the last one's end; no setting says that outputs may be replaced."""
    killed_at("ALS 3/", place)
    assert_sigterm_ends_tidily(place, "ALS 8/")
    assert "goes on after iteration" in killed_at("stability", place)
    last = Job(place, "pipeline")
    assert last.end() == 0, "".join(last.lines)
    assert "step 2 of 5: train: finished before" in "".join(last.lines)
    assert_same_run(place / "runs/mine", undisturbed)


def assert_sigterm_ends_tidily(place: Path, pattern: str) -> None:
    """In the middle of a fit that goes on from a snapshot."""
    job = Job(place, "pipeline")
    assert job.watch(pattern), "".join(job.lines)
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 5, "".join(job.lines)
    console = "".join(job.lines)
    assert "goes on after iteration" in console
    assert "mfspark: interrupted; what was finished is there" in job.lines[-1]
    assert "Traceback" not in console
    run = place / "runs/mine"
    assert json.loads((run / "run.json").read_text())["steps"]["train"]["state"] == "failed"
    assert not (run / ".lock").exists()
