"""What jobs tell of themselves: lines of JSON, a dry run, room on disks, metrics."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, make_ratings, run_job

from mfspark.app import disk
from mfspark.app.disk import DiskNeed, fit_needs, require_room
from mfspark.engine.plan import Machine, Workload, plan_als
from mfspark.errors import DiskError
from mfspark.settings import ALSSettings

SECRET = "xK3+/9w"


@pytest.fixture
def place(tmp_path) -> Path:
    make_ratings(tmp_path / "ratings.csv")
    (tmp_path / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nduplicates = "mean"\n'
        "[als]\nrank = 2\nmax_iter = 2\ntol = 0.0\n"
    )
    return tmp_path


def dry_run(folder: Path, job: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mfspark", job, "--config", "run.toml", "--dry-run", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        # Whoever starts Spark fails.
        env={**os.environ, "JAVA_HOME": "/nowhere", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def records(console: str) -> list[dict]:
    return [json.loads(line) for line in console.splitlines() if line.startswith("{")]


def test_json_lines_have_run_step_iteration_seconds_and_rows(spark, place):
    console = ""
    for job in ("ingest", "train"):
        result = run_job(spark, job, place / "run.toml", arguments=("--log-format", "json"))
        assert result.returncode == 0, result.stdout
        console += result.stdout
    found = records(console)
    assert {record["run"] for record in found} == {"mine"}
    iterations = [record for record in found if "iteration" in record]
    assert [record["iteration"] for record in iterations] == [1, 2]
    assert all(record["step"] == "train" and record["seconds"] > 0 for record in iterations)
    assert iterations[1]["train_rmse"] > 0
    ends = {record["step"]: record for record in found if "rows" in record}
    assert ends.keys() == {"ingest", "train"}
    assert ends["ingest"]["rows"] == 3000
    assert ends["train"]["iterations"] == 2


def test_an_error_is_a_record_with_its_exit_code(spark, place):
    settings = ("data.path=nowhere.csv",)
    arguments = ("--log-format", "json")
    result = run_job(spark, "ingest", place / "run.toml", *settings, arguments=arguments)
    last = records(result.stdout)[-1]
    assert (result.returncode, last["exit_code"], last["levelname"]) == (3, 3, "ERROR")
    assert "nowhere.csv" in last["message"]


def test_secrets_are_not_logged(spark, place):
    result = run_job(spark, "ingest", place / "run.toml", f"data.path=s3a://A:{SECRET}@b/r.csv")
    assert result.returncode == 2
    assert "holds a secret" in result.stdout
    assert SECRET not in result.stdout
    assert not list(place.glob("runs/**/*.json"))


def test_a_dry_run_starts_and_writes_nothing(place):
    before = sorted(place.rglob("*"))
    result = dry_run(place, "pipeline", "--set", "als.rank=5")
    assert result.returncode == 0, result.stderr
    assert "  * als.rank = 5\n" in result.stdout
    assert "    als.fit_biases = true\n" in result.stdout
    size = (place / "ratings.csv").stat().st_size
    assert f"ratings: ratings.csv, 1 file, {disk.shown_bytes(size)}" in result.stdout
    assert "run runs/mine\n  is new" in result.stdout
    assert sorted(place.rglob("*")) == before


def test_a_dry_run_names_what_is_missing(place):
    result = dry_run(place, "ingest", "--set", "data.items_path=nowhere.csv")
    assert result.returncode == 3
    assert "items: there is nothing at nowhere.csv" in result.stderr
    assert dry_run(place, "ingest", "--set", "als.rang=5").returncode == 2


def test_a_dry_run_knows_what_is_there_and_plans_the_fit(spark, place):
    assert run_job(spark, "ingest", place / "run.toml").returncode == 0
    before = sorted(place.rglob("*"))
    told = dry_run(place, "train").stdout
    assert "ingest: finished, and nothing has changed since" in told
    assert "train: not run yet" in told
    assert "plan: one task with" in told
    assert "disk: model and snapshots, about " in told
    # Other settings of the ratings.
    changed = dry_run(place, "train", "--set", "split.test=0.3").stdout
    assert "ingest: finished, but its settings or inputs may have changed since" in changed
    assert sorted(place.rglob("*")) == before


def test_needs_grow_with_rows_ratings_draws_and_distribution():
    def needs(execution: str, n_draws: int, n: int = 10**6) -> list[int]:
        workload = Workload(n, 10**4, 10**3, 32)
        plan = plan_als(workload, ALSSettings(execution=execution), Machine(2, 2))
        return [need.n_bytes for need in fit_needs(workload, plan, "/tmp/x", ["/tmp"], n_draws)]

    model, scratch = needs("one_task", 0)
    # Two snapshots and the tables themselves.
    assert 3 * 11_000 * 33 * 4 < model < 4 * 11_000 * 33 * 4
    assert needs("one_task", 10)[0] > 3 * model
    assert needs("distributed", 0)[1] > scratch
    assert needs("one_task", 0, 10**7)[1] == 10 * scratch
    workload = Workload(10**6, 10, 10, 2)
    plan = plan_als(workload, ALSSettings(), Machine(2, 2))
    assert fit_needs(workload, plan, "s3://bucket/run", [], 0) == []


def test_what_lies_on_one_disk_is_added_up(tmp_path):
    free = DiskNeed("", str(tmp_path), 0).free_bytes
    first = DiskNeed("model", str(tmp_path / "not/there"), free // 2)
    require_room([first])
    with pytest.raises(DiskError, match=r"model in .* and blocks in .* are missing; make room"):
        require_room([first, DiskNeed("blocks", str(tmp_path), free)])


def test_a_fit_that_has_no_room_does_not_begin(spark, place, monkeypatch):
    assert run_job(spark, "ingest", place / "run.toml").returncode == 0
    monkeypatch.setattr(DiskNeed, "free_bytes", 1000)
    result = run_job(spark, "train", place / "run.toml")
    assert result.returncode == 4
    last = result.stdout.strip().splitlines()[-1]
    assert "are missing" in last
    assert "runs/mine" in last
    assert "ALS 1/2" not in result.stdout
    monkeypatch.undo()
    assert run_job(spark, "train", place / "run.toml").returncode == 0


@pytest.fixture
def small_disk(place):
    """The run's folder on a file system that ends at 2 MiB; where only root may do that."""
    folder = place / "runs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root, and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_in_the_middle_leaves_the_last_good_state(
    spark, place, small_disk, monkeypatch
):
    for job in ("ingest", "train"):
        assert run_job(spark, job, place / "run.toml").returncode == 0
    before = (small_disk / "mine/model/metadata.json").read_text()
    # Something else fills it after the check.
    monkeypatch.setattr(DiskNeed, "free_bytes", 2**40)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**12)):
                pass
        except OSError:
            pass
    changed = ("als.rank=7", "run.overwrite=true")
    result = run_job(spark, "train", place / "run.toml", *changed)
    assert result.returncode in (3, 4), result.stdout
    told = [line for line in result.stdout.splitlines() if line.startswith("mfspark: ")]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert (small_disk / "mine/model/metadata.json").read_text() == before
    filler.unlink()
    assert run_job(spark, "train", place / "run.toml", *changed).returncode == 0
    assert json.loads((small_disk / "mine/model/metadata.json").read_text())["rank"] == 7


def test_fits_are_measured_by_opentelemetry(spark, monkeypatch):
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from mfspark import BiasedALS

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    rows = spark.createDataFrame(
        [(u, i, float(u % 3 + i % 2)) for u in range(20) for i in range(9)],
        "user int, item int, rating double",
    )
    model = BiasedALS(rank=1, maxIter=3, tol=0.0, regParam=1.0, biasRegParam=0.2).fit(rows)
    found = {
        metric.name: list(metric.data.data_points)
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics
        for metric in scope.metrics
    }
    (duration,) = found["mfspark.fit.iteration.duration"]
    assert duration.count == 3
    assert duration.attributes == {"fit": "ALS"}
    history = model.history.toPandas()
    assert duration.sum == pytest.approx(history["seconds"].sum())
    (rmse,) = found["mfspark.fit.rmse"]
    assert rmse.attributes["part"] == "train"
    assert rmse.value == pytest.approx(history["train_rmse"].iloc[-1])
    assert found["mfspark.fit.exchanged"][0].value == history["bytes"].sum()


def test_logging_is_as_it_was_after_a_job(spark, place):
    handlers = list(logging.getLogger("mfspark").handlers)
    run_job(spark, "ingest", place / "run.toml", arguments=("--log-format", "json"))
    assert logging.getLogger("mfspark").handlers == handlers
    assert "TQDM_DISABLE" not in os.environ
