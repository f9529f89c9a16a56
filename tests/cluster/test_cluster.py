"""Fits on two Workers with faults in the middle end in the same factors."""

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from faults import SCENARIOS

ROOT = Path(__file__).parents[2]
WITH_ARCHIVE = ["broadcast, no fault", "routed, no fault", "an executor in a half-step, routed"]
# Each kind of loss is there once (an executor, a Worker, files, scratch; in ALS, SGD, a chain); the
# others are put together otherwise of these, or are rarer.
IN_CI = [
    "broadcast, no fault",
    "ratings in one partition",
    "a Worker",
    "an executor that is decommissioned, routed",
    "big factors; an executor in a half-step, files, scratch; routed",
    "an executor in a sweep, both later, chain",
    "big factors; an executor while blocks are built, rows in another order",
    "scratch while strata are built, sgd",
]
NEED_SMALL_DISK = [name for name in SCENARIOS if name.startswith("full disk")]
ENDLESS = "executors die for ever"
NAMES = [
    pytest.param(name, marks=[] if name in IN_CI else pytest.mark.thorough)
    for name in SCENARIOS
    if name != ENDLESS
]

pytestmark = [
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc"),
    pytest.mark.slow,
]


def has_docker() -> bool:
    """Whether there is a daemon that builds images."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def results(request, packed, cluster, tmp_path_factory) -> dict[str, dict]:
    """What became of all scenarios that are asked for, in two applications."""
    script, state = Path(__file__).parent / "faults.py", Path(cluster.folder) / "cluster.json"
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [spec.params["name"] for spec in callspecs if spec and "name" in spec.params]
    wanted = [name for name in SCENARIOS if name in wanted]
    if set(NEED_SMALL_DISK) & set(wanted) and not request.getfixturevalue("small_scratch"):
        wanted = [name for name in wanted if name not in NEED_SMALL_DISK]
    found: dict[str, dict] = {}
    # Some start from the archive of the README.
    for sends_archive in (True, False):
        names = [name for name in wanted if (name in WITH_ARCHIVE) == sends_archive]
        if names:
            file = tmp_path_factory.mktemp("faults") / "results.json"
            run = packed.submit(
                cluster, script, str(state), str(file), *names, sends_archive=sends_archive
            )
            print(run.stdout[-20_000:])
            assert run.returncode == 0
            found |= json.loads(file.read_text())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_those_of_an_undisturbed_fit(results, name):
    if name in NEED_SMALL_DISK and name not in results:
        pytest.skip(f"a small disk can only be mounted by root, not by user {os.getuid()}")
    result = results[name]
    assert "failed" not in result, result["failed"]
    assert result["difference"] < 1e-5
    assert result["persistent"] == 0
    assert result["block_files"] == []


def test_the_package_is_whole(packed):
    """The wheel has all templates, the list of parts all that an executor imports."""
    dist = packed.archive.parent
    with zipfile.ZipFile(next(dist.glob("mfspark-*.whl"))) as wheel:
        names = set(wheel.namelist())
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "mfspark").rglob("*")
            if path.suffix in (".py", ".html", ".css", ".js", ".typed")}  # fmt: skip
    assert here <= names
    assert not [name for name in names if name.startswith(("tests", "jobs"))]
    parts = json.loads((dist / "mfspark-sbom.json").read_text())
    versions = {part["name"]: part["version"] for part in parts["components"]}
    assert {"pyspark", "numpy", "numba", "pyarrow", "scipy"} <= versions.keys()
    assert parts["metadata"]["component"]["name"] == "mfspark"
    assert (dist / "requirements.lock").read_text().count("--hash=sha256:") > len(versions)
    with tarfile.open(packed.archive) as archive:
        paths = archive.getnames()
    assert [path for path in paths if path.endswith("/mfspark/__init__.py")]
    assert not [path for path in paths if "/pyspark/" in path or "/tests/" in path]


@pytest.mark.thorough
@pytest.mark.skipif(not has_docker(), reason="needs Docker, and a registry")
def test_the_image_can_be_built(packed):
    dist = packed.archive.parent
    command = ["docker", "build", "--file", str(ROOT / "conf/Dockerfile"), str(dist)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("name", [ENDLESS])
def test_a_fit_whose_tasks_always_kill_their_executors_ends_in_one_line(results, name):
    error = results[name]["error"]
    assert error is not None
    assert "\n" not in error
    assert "Spark gave up the fit" in error
    assert "spark.executor.memoryOverhead" in error
