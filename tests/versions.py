"""The suites on other versions: python tests/versions.py [--pyspark 4.1.0 …] [--python 3.11 …]

Of each pair of a PySpark and a Python an environment is made in a temporary folder (by uv, which
also fetches Pythons that are not here), the package is installed there with what its tests need,
and pytest is run. What follows ``--`` goes to pytest in place of ``tests/kernels tests/spark``.
``--with`` overrides the version of another package, whatever ``pyproject.toml`` allows, such as
``--with 'pandas>=3'``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOWEST, HIGHEST = "4.1.0", "4.3.0"
SUITES = ["tests/kernels", "tests/spark", "-m", "not slow and not thorough"]


def main() -> int:
    """Print a line for each pair; 1 when one of them has failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pyspark", nargs="+", default=[LOWEST, HIGHEST])
    parser.add_argument("--python", nargs="+", default=[f"3.{sys.version_info.minor}"])
    parser.add_argument("--with", nargs="+", default=[], dest="overrides", metavar="REQUIREMENT")
    parser.add_argument("pytest", nargs="*", default=SUITES, help="arguments of pytest, after --")
    arguments = parser.parse_args()
    results = {
        (python, spark): run(python, spark, arguments.overrides, arguments.pytest)
        for python in arguments.python
        for spark in arguments.pyspark
    }
    for (python, spark), end in results.items():
        print(f"Python {python}, PySpark {spark}: {end}")
    return int(any(not end.startswith("passed") for end in results.values()))


def run(python: str, spark: str, overrides: list[str], pytest: list[str]) -> str:
    """How the suites end in an environment of these versions."""
    with tempfile.TemporaryDirectory(prefix="mfspark-versions-") as folder:
        place = Path(folder) / "environment"
        environment = {**os.environ, "VIRTUAL_ENV": str(place)}
        for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_HOME", "PYTHONPATH"):
            environment.pop(name, None)
        forced = Path(folder) / "overrides.txt"
        # An override takes the extras of what it overrides away.
        forced.write_text("\n".join([f"pyspark[connect]=={spark}", *overrides]) + "\n")
        steps = [
            ["uv", "venv", "--quiet", "--python", python, str(place)],
            ["uv", "pip", "install", "--quiet", "--override", str(forced), f"{ROOT}[test]"],
        ]
        for step in steps:
            if subprocess.run(step, env=environment, check=False).returncode:
                return f"{' '.join(step[:3])} has failed"
        end = subprocess.run(
            [str(place / "bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest],
            cwd=ROOT, env=environment, check=False,
        )  # fmt: skip
        return "passed" if end.returncode == 0 else f"pytest ended with {end.returncode}"


if __name__ == "__main__":
    sys.exit(main())
