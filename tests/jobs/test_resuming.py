"""Jobs that are broken off: what is there afterwards, and what the same command makes of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import ROOT, make_ratings, run_job

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


class Job:
    """A job in a process group of its own, killed when its console has shown so many lines."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mfspark", *arguments, "--config", str(folder / "run.toml"),
             "--properties-file", str(folder / "local.conf")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
            start_new_session=True,
            env={**os.environ, "PYSPARK_PYTHON": sys.executable, "TMPDIR": str(folder / "tmp")},
        )  # fmt: skip
        self.lines: list[str] = []

    def watch(self, pattern: str) -> bool:
        """Whether a line like that came before the end."""
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return True
        return False

    def end(self) -> int:
        """Its exit code, when it has ended by itself."""
        self.lines += self.process.stdout
        return self.process.wait()

    def kill(self) -> None:
        """Kill driver, JVM and workers at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_ratings(folder / "ratings.csv")
    (folder / "tmp").mkdir()
    settings = (ROOT / "conf/local.conf").read_text().replace("local[*]", "local[2]")
    (folder / "local.conf").write_text(
        f"{settings}\nspark.driver.memory 2g\nspark.ui.showConsoleProgress false\n"
        "spark.driver.bindAddress 127.0.0.1\nspark.driver.host 127.0.0.1\n"
        "spark.driver.defaultJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC\n"
    )
    (folder / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nduplicates = "mean"\n'
        "[train]\nsave_every = '0s'\n"
        '[als]\nrank = 3\nmax_iter = 12\ntol = 0.0\nexecution = "distributed"\n'
        "[interpret]\nrefits = 1\n"
    )
    return folder


@pytest.fixture(scope="module")
def undisturbed(spark, place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("ratings.csv", "run.toml"):
        shutil.copy2(place / name, folder)
    assert run_job(spark, "pipeline", folder / "run.toml").returncode == 0
    return folder / "runs/mine"


def figures(page: Path) -> str:
    """The text of a report without times and what comes of them."""
    page = page.read_text(encoding="utf-8")
    text = re.sub(r"(?s)<style.*?</style>|<script.*?</script>|<svg.*?</svg>|<[^>]+>", " ", page)
    return re.sub(r"\d+(\.\d+)? s\b|\d{4}-\d\d-\d\dT\S+|\s+", " ", text)


def assert_same_run(run: Path, expected: Path) -> None:
    for table, key in (("user_factors", "user"), ("item_factors", "item")):
        ours, theirs = (
            pd.read_parquet(each / "model" / table).set_index(key).sort_index()
            for each in (run, expected)
        )
        assert list(ours.index) == list(theirs.index)
        np.testing.assert_allclose(
            np.stack(ours["factors"]), np.stack(theirs["factors"]), atol=1e-5
        )
    ours, theirs = (
        pd.read_parquet(each / "evaluation/metrics").sort_values(["slice", "value", "predictor"])
        for each in (run, expected)
    )
    np.testing.assert_allclose(ours["rmse"], theirs["rmse"], atol=1e-5)
    assert figures(run / "report/index.html") == figures(expected / "report/index.html")
    names = [{path.name for path in each.iterdir()} for each in (run, expected)]
    assert names[0] == names[1]
    assert not list(run.rglob(".*.partial")) + list(run.rglob(".*.replaced"))


# By what the console shows: the lines of all steps, and those of iterations.
MOMENTS = ["step 1", "good", "ALS 3/", "ALS 8/", "step 3", "stability"]


@pytest.mark.slow
def test_a_pipeline_killed_again_and_again_ends_as_if_nothing_had_happened(place, undisturbed):
    """Each life goes on from the last one's end; no setting says that outputs may be replaced."""
    n_resumed = 0
    for pattern in MOMENTS:
        job = Job(place, "pipeline")
        assert job.watch(pattern), "".join(job.lines)
        job.kill()
        n_resumed += any("goes on after iteration" in line for line in job.lines)
    last = Job(place, "pipeline")
    assert last.end() == 0, "".join(last.lines)
    assert n_resumed >= 1
    assert "step 2 of 5: train: finished before" in "".join(last.lines)
    assert_same_run(place / "runs/mine", undisturbed)


@pytest.mark.slow
def test_sigterm_ends_a_step_that_can_be_resumed(place, undisturbed):
    text = (place / "run.toml").read_text()
    (place / "run.toml").write_text(
        text.replace('name = "mine"', 'name = "mine"\ndirectory = "ended"')
    )
    job = Job(place, "pipeline")
    assert job.watch("ALS 4/"), "".join(job.lines)
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 5, "".join(job.lines)
    assert "mfspark: interrupted; what was finished is there" in job.lines[-1]
    assert "Traceback" not in "".join(job.lines)
    run = place / "ended/mine"
    assert json.loads((run / "run.json").read_text())["steps"]["train"]["state"] == "failed"
    assert not (run / ".lock").exists()
    again = Job(place, "pipeline")
    assert again.end() == 0, "".join(again.lines)
    assert "goes on after iteration" in "".join(again.lines)
    assert_same_run(run, undisturbed)
