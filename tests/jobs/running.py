"""How tests run jobs, and on what."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_job(
    name: str, config: Path, *settings: str, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """``spark-submit`` of this environment, as in the README."""
    submit = Path(sys.executable).parent / "spark-submit"
    overrides = [part for setting in settings for part in ("--set", setting)]
    return subprocess.run(
        [str(submit), "--properties-file", str(ROOT / "conf/local.conf"), "--master", "local[2]",
         "--conf", "spark.driver.memory=2g",
         # A short life: the optimising compiler and parallel collection cost more than they save.
         "--conf", "spark.driver.defaultJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
         str(ROOT / "jobs" / f"{name}.py"), "--config", str(config), *overrides],
        # spark-submit passes the driver's standard error on to its own standard output.
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        # The console is to be quiet, as for who follows the README.
        cwd=cwd or config.parent,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip


def make_ratings(path: Path, n: int = 3000, sep: str = ",", user: str = "user") -> Path:
    """Ratings with string ids, Windows line ends, half stars and an odd title."""
    lines = [sep.join([user, "item", "rating"])]
    for k in range(n):
        u, i = (k * 37) % 101, (k * 53 + k // 101) % 61
        lines.append(sep.join([f"u{u}", f"i-{i}", str(1 + ((u * i + k) % 9) / 2)]))
    path.write_bytes(("\r\n".join(dict.fromkeys(lines)) + "\r\n").encode())
    return path
