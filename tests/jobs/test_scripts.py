"""Scripts of an environment that nobody activated."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from running import ROOT, make_ratings, submit_job

FIT = """
rows = spark.createDataFrame([(u, i, float(u + i)) for u in range(5) for i in range(4)],
                             "user int, item int, rating double")
print("predictions:", BiasedALS(rank=1, maxIter=1).fit(rows).transform(rows).count())
"""
SESSION = """
from pyspark.sql import SparkSession
spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", False)
         .config("spark.sql.shuffle.partitions", 1).config("spark.log.level", "OFF").getOrCreate())
"""
IMPORT = "from mfspark import BiasedALS\n"


def run(path: Path, code: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a script by this interpreter, the only python3 on the PATH being a bare one."""
    bare = path / "bare"
    venv.create(bare, symlinks=True)
    (path / "script.py").write_text(code)
    elsewhere = [p for p in os.environ["PATH"].split(":") if p != str(Path(sys.executable).parent)]
    dropped = {"PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "VIRTUAL_ENV", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, str(path / "script.py")],
        capture_output=True, text=True, check=False,
        env={**kept, **variables, "PATH": ":".join([str(bare / "bin"), *elsewhere])},
    )  # fmt: skip


def test_workers_run_the_python_of_the_script(tmp_path, of_short_life):
    result = run(tmp_path, IMPORT + SESSION + FIT, of_short_life)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "predictions: 20" in result.stdout


def test_a_session_that_was_there_first_is_told_about(tmp_path, of_short_life):
    result = run(tmp_path, SESSION + IMPORT + FIT, of_short_life)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "import mfspark before the session is made, or set PYSPARK_PYTHON" in last


@pytest.mark.thorough
def test_the_console_of_a_job_has_no_lines_of_spark(tmp_path):
    """From the checkout, as in the README; the Java virtual machine's own line stays."""
    make_ratings(tmp_path / "ratings.csv")
    config = tmp_path / "run.toml"
    config.write_text(
        f"[run]\nname = 'quiet'\ndirectory = '{tmp_path}/runs'\n"
        f"[data]\npath = '{tmp_path}/ratings.csv'\n[als]\nrank = 2\nmax_iter = 2\n"
    )
    result = submit_job("pipeline", config, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:]
    lines = [line for line in result.stdout.splitlines() if "incubator modules" not in line]
    assert not [line for line in lines if re.search(r"INFO|WARN|ERROR|Exception|Traceback", line)]
