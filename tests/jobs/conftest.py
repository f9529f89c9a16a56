"""A pipeline run that several tests look at; who changes it takes a copy."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock
from pyspark.sql import SparkSession
from running import Finished, make_ratings, run_job


@pytest.fixture(scope="session")
def finished(spark, tmp_path_factory) -> tuple[Path, Finished]:
    """A pipeline run on a user's own CSV file."""
    # Processes of tests beside each other (pytest-xdist) share it: the first one makes it.
    together = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if together else base) / "finished"
    with FileLock(f"{folder}.lock"):
        console = folder / "console.json"
        if not console.is_file():
            folder.mkdir()
            result = finish(spark, folder)
            console.write_text(json.dumps(asdict(result)))
        return folder, Finished(**json.loads(console.read_text()))


def finish(spark: SparkSession, folder: Path) -> Finished:
    make_ratings(folder / "ratings.csv")
    items = [f"i-{n},Title {n},{1950 + n},A|B" for n in range(61)]
    items[0] = 'i-0,"<script>alert(1)</script> & Co. $x$",2000,A'
    items[1] = 'i-1,"Odd One, The",1951,A|B'
    (folder / "items.csv").write_text("item,title,year,genres\n" + "\n".join(items) + "\n")
    users = [f"u{n},{20 + n % 40},{'abc'[n % 3]}" for n in range(101)]
    (folder / "users.csv").write_text("user,age,group\n" + "\n".join([*users, "new,33,b"]) + "\n")
    (folder / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nitems_path = "items.csv"\n'
        'users_path = "users.csv"\n'
        'duplicates = "mean"\n[split]\nvalidation = 0.1\n[als]\nrank = 3\nmax_iter = 3\n'
        '[interpret]\nsimilar_to = ["i-0", "i-1"]\nrefits = 2\n'
    )
    return run_job(spark, "pipeline", folder / "run.toml")
