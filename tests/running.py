"""How tests run jobs, and on what."""

import io
import logging
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from session_settings import INTERPRETED, JAVA_OPTIONS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Finished:
    """A job that has ended: its exit code and its console."""

    returncode: int
    stdout: str


def run_job(
    spark: SparkSession, name: str, config: Path, *settings: str, arguments: tuple[str, ...] = ()
) -> Finished:
    """The script of a job in this process and on this session, from the folder of ``config``."""
    console, code, folder = io.StringIO(), 0, Path.cwd()
    logger = logging.getLogger("mfspark")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    root_handlers = list(logging.getLogger().handlers)
    with (
        redirect_stdout(console),
        redirect_stderr(console),
        patch.object(sys, "argv", [name, *_arguments(config, settings), *arguments]),
        patch.dict(os.environ),
        # The session is shared with other tests.
        patch.object(SparkSession, "stop"),
    ):
        try:
            os.chdir(config.parent)
            runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            # What the interpreter does with it.
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=console)
        finally:
            os.chdir(folder)
            logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
            logging.getLogger().handlers[:] = root_handlers
    return Finished(code, console.getvalue())


def submit_job(name: str, config: Path, *settings: str, cwd: Path) -> Finished:
    """``spark-submit`` of this environment, as in the README."""
    submit = Path(sys.executable).parent / "spark-submit"
    given = {
        **INTERPRETED,
        "spark.master": "local[2]",
        "spark.driver.memory": "2g",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.defaultJavaOptions": JAVA_OPTIONS,
    }
    conf = [part for name, value in given.items() for part in ("--conf", f"{name}={value}")]
    result = subprocess.run(
        [str(submit), "--properties-file", str(ROOT / "conf/local.conf"), *conf,
         str(ROOT / "jobs" / f"{name}.py"), *_arguments(config, settings)],
        # spark-submit passes the driver's standard error on to its own standard output.
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        cwd=cwd, env={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip
    return Finished(result.returncode, result.stdout)


def _arguments(config: Path, settings: tuple[str, ...]) -> list[str]:
    return ["--config", str(config), *(part for value in settings for part in ("--set", value))]


def make_ratings(path: Path, n: int = 3000, sep: str = ",", user: str = "user") -> Path:
    """Ratings with string ids, Windows line ends, half stars and an odd title."""
    lines = [sep.join([user, "item", "rating"])]
    for k in range(n):
        u, i = (k * 37) % 101, (k * 53 + k // 101) % 61
        lines.append(sep.join([f"u{u}", f"i-{i}", str(1 + ((u * i + k) % 9) / 2)]))
    path.write_bytes(("\r\n".join(dict.fromkeys(lines)) + "\r\n").encode())
    return path


def make_planted_ratings(path: Path, n_users: int, n_items: int) -> Path:
    """Ratings that two factors explain but for noise."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((n_users, n_items)) < 0.35)
    taste, kind = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    rating = 3 + 0.7 * (taste[user] * kind[item]).sum(axis=1) + rng.normal(0, 0.5, len(user))
    pd.DataFrame({"user": user, "item": item, "rating": rating}).to_csv(path, index=False)
    return path
