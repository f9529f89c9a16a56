"""A pipeline whose ratings and outputs are in an object store, killed in the middle."""

import json
import logging
from pathlib import Path

import pytest
from killing import Job, make_place
from object_store import CREDENTIALS, jars_for_s3

from mfspark import files

pytestmark = pytest.mark.slow


@pytest.fixture
def place(store, tmp_path, monkeypatch) -> Path:
    # A line for each request is more than a log should hold.
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    jars = jars_for_s3(tmp_path)
    if jars is None:
        pytest.skip("Hadoop's client for S3 cannot be had")
    make_place(tmp_path)
    with (tmp_path / "local.conf").open("a") as conf:
        # Few requests, since the server shares two cores with what it serves.
        settings = store.spark_settings(jars) | {
            "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2"
        }
        conf.writelines(f"{name} {value}\n" for name, value in settings.items())
    files.write_bytes(f"s3a://{store.bucket}/ratings.csv", (tmp_path / "ratings.csv").read_bytes())
    (tmp_path / "ratings.csv").unlink()
    return tmp_path


def run(job: str, place: Path, bucket: str, *settings: str) -> Job:
    given = [f"data.path=s3a://{bucket}/ratings.csv", f"run.directory=s3a://{bucket}/runs"]
    # Each iteration is saved, and takes a second here.
    given.append("als.max_iter=6")
    parts = [part for value in (*given, *settings) for part in ("--set", value)]
    return Job(place, job, *parts)


def test_a_pipeline_is_killed_resumed_and_its_model_made_anew(store, place):
    folder = f"s3://{store.bucket}/runs/mine"
    broken_off = run("pipeline", place, store.bucket)
    assert broken_off.watch(r"ALS 4/6"), "".join(broken_off.lines[-40:])
    broken_off.kill()
    assert not files.exists(f"{folder}/model")

    resumed = run("pipeline", place, store.bucket)
    assert resumed.end() == 0, "".join(resumed.lines[-40:])
    console = "".join(resumed.lines)
    assert "ingest: finished before, and nothing has changed since: skipped" in console
    assert "ALS: goes on after iteration" in console
    assert f"Report: s3a://{store.bucket}/runs/mine/report/versions/" in console
    first = files.current(folder, "model")
    page = files.read_text(files.current(folder, "report/index.html"))
    assert "RMSE" in page
    assert not files.exists(f"{folder}/snapshots")

    again = run("train", place, store.bucket, "run.overwrite=true", "als.rank=2")
    assert again.end() == 0, "".join(again.lines[-40:])
    ranks = {
        json.loads(files.read_text(f"{version}/metadata.json"))["rank"]
        for version in (first, files.current(folder, "model"))
    }
    assert ranks == {2, 3}
    assert len(files.names_in(f"{folder}/model/versions")) == 2
    # Who reads the version before is not disturbed.
    assert len(files.read_pandas(f"{first}/user_factors")) == 101

    written = [console, "".join(again.lines), page, files.read_text(f"{folder}/run.json")]
    assert not [text for text in written if CREDENTIALS["AWS_SECRET_ACCESS_KEY"] in text]
