"""Pipelines that are killed, and what they must come to all the same."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from running import ROOT, make_ratings
from session_settings import INTERPRETED, JAVA_OPTIONS


def make_place(folder: Path) -> None:
    """Ratings, a configuration whose fit saves every iteration, and properties of Spark."""
    make_ratings(folder / "ratings.csv")
    (folder / "tmp").mkdir()
    settings = (ROOT / "conf/local.conf").read_text().replace("local[*]", "local[2]")
    interpreted = "".join(f"{name} {value}\n" for name, value in INTERPRETED.items())
    (folder / "local.conf").write_text(
        f"{settings}\n{interpreted}spark.driver.memory 2g\nspark.ui.showConsoleProgress false\n"
        "spark.sql.shuffle.partitions 2\n"
        "spark.driver.bindAddress 127.0.0.1\nspark.driver.host 127.0.0.1\n"
        f"spark.driver.defaultJavaOptions {JAVA_OPTIONS}\n"
    )
    (folder / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nduplicates = "mean"\n'
        "[train]\nsave_every = '0s'\n"
        '[als]\nrank = 3\nmax_iter = 12\ntol = 0.0\nexecution = "distributed"\n'
        "[interpret]\nrefits = 1\n"
    )


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

    def watch(self, pattern: str, n_times: int = 1) -> bool:
        """Whether lines like that came, so many, before the end."""
        for line in self.process.stdout:
            self.lines.append(line)
            n_times -= bool(re.search(pattern, line))
            if n_times == 0:
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
