"""python -m mfspark."""

import os
import subprocess
import sys
from importlib import import_module

import pandas as pd
from running import ROOT, make_ratings
from session_settings import INTERPRETED

from mfspark.__main__ import JOBS


def run_main(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "mfspark", *arguments], capture_output=True, text=True, check=False,
        cwd=cwd, env={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip


def test_its_jobs_are_those_of_the_folder():
    assert set(JOBS) == {path.stem for path in (ROOT / "jobs").glob("*.py")}
    for module, name in JOBS.values():
        assert getattr(import_module(module), name).__doc__


def test_help_and_errors():
    assert run_main("--help").returncode == 0
    nothing = run_main()
    assert nothing.returncode == 2
    assert "pipeline, ingest, train" in nothing.stdout
    assert "invalid choice: 'trian'" in run_main("trian").stderr
    page = run_main("train", "--help").stdout
    assert 'als.execution ("auto")' in page
    assert '["auto", "one_task", "distributed"]' in " ".join(page.split())
    assert "--set data.columns.user=customer" in page
    missing = run_main("train", "--properties-file", "nowhere.conf")
    assert missing.returncode == 1
    assert missing.stderr.strip() == (
        "mfspark: error: there is no file nowhere.conf; set --properties-file"
    )


def test_a_job_runs_without_spark_submit(tmp_path):
    make_ratings(tmp_path / "ratings.csv", n=500)
    (tmp_path / "run.toml").write_text('[data]\npath = "ratings.csv"\nduplicates = "mean"\n')
    properties = tmp_path / "local.conf"
    given = {"spark.master": "local[2]", "spark.log.level": "ERROR",
             "spark.sql.shuffle.partitions": "2", **INTERPRETED}  # fmt: skip
    properties.write_text("".join(f"{name} {value}\n" for name, value in given.items()))
    result = run_main(
        "ingest", "--properties-file", str(properties), "--config", "run.toml",
        "--set", "run.name=plain", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(pd.read_parquet(tmp_path / "runs/plain/ratings/train")) > 300
