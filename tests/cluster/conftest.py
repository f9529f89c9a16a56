"""A packed environment that holds the project, and a cluster that runs jobs from it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest
from session_settings import INTERPRETED, JAVA_OPTIONS
from standalone import Cluster

ROOT = Path(__file__).parents[2]
STAMPS = (".mfspark", ".mfspark-test", ".mfspark-lint")


@dataclass(frozen=True)
class Packed:
    """``python`` of the environment, and the archive for the executors."""

    python: Path
    archive: Path

    def submit(
        self,
        cluster: Cluster,
        script: Path,
        *arguments: str,
        sends_archive: bool = True,
    ) -> subprocess.CompletedProcess:
        """``spark-submit`` to the cluster, as the README says; or, quicker to start, executors use
        the environment where it is."""
        # A killed executor leaves there what it has fetched.
        temporary = Path(cluster.folder) / "temporary"
        temporary.mkdir(exist_ok=True)
        options = f"{JAVA_OPTIONS} -Djava.io.tmpdir={temporary}"
        conf = {
            "spark.executor.instances": "2",
            "spark.executor.cores": "1",
            "spark.executor.memory": "700m",
            "spark.driver.memory": "1g",
            # Many partitions of little data cost tasks and no more.
            "spark.sql.shuffle.partitions": "4",
            "spark.default.parallelism": "4",
            **INTERPRETED,
            "spark.ui.enabled": "false",
            "spark.log.level": "ERROR",
            "spark.driver.defaultJavaOptions": options,
            "spark.executor.defaultJavaOptions": options,
            # The small scratch folder has no room for the archive.
            "spark.files.useFetchCache": "false",
        }
        properties = [
            part for name, value in conf.items() for part in ("--conf", f"{name}={value}")
        ]
        archives = ["--archives", f"{self.archive}#environment"] if sends_archive else []
        return subprocess.run(
            [str(self.python.parent / "spark-submit"), "--master", cluster.url,
             "--properties-file", str(ROOT / "conf/cluster.conf"), *properties,
             *archives, str(script), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env={
                **os.environ,
                "PYSPARK_PYTHON": "./environment/bin/python" if archives else str(self.python),
                "PYSPARK_DRIVER_PYTHON": str(self.python),
                "SPARK_HOME": cluster.spark_home,
                "SPARK_LOCAL_IP": "127.0.0.1",
            },
        )  # fmt: skip


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """What ``make package`` makes, in an environment that does not see the checkout."""
    source = tmp_path_factory.mktemp("packed")
    # A copy: making a package leaves files.
    tracked = ["pyproject.toml", "README.md", "LICENSE", "Makefile", "mfspark", "jobs", ".ci"]
    subprocess.run(["cp", "-rp", *tracked, str(source)], cwd=ROOT, check=True)
    # This environment stays as it is.
    kept = [part for name in STAMPS for part in ("-o", f"{sys.prefix}/{name}")]
    subprocess.run(
        ["make", *kept, "package"],
        cwd=source, check=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix},
    )  # fmt: skip
    return Packed(source / "dist/environment/bin/python", source / "dist/mfspark-env.tar.gz")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    # Spark is the cluster's own: what is packed has none.
    running = Cluster.start(folder, Path(pyspark.__file__).parent)
    file = folder / "cluster.json"
    running.save(file)
    try:
        yield running
    finally:
        Cluster.load(file).stop()
        shutil.rmtree(folder / "temporary", ignore_errors=True)


@pytest.fixture(scope="session")
def small_scratch(cluster: Cluster) -> Iterator[bool]:
    """Whether the scratch folder of the last Worker could be put on a disk of 64 MiB."""
    scratch = str(cluster.scratch(1))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", scratch]
    is_mounted = os.getuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    yield is_mounted
    if is_mounted:
        subprocess.run(["umount", "--lazy", scratch], check=False)
