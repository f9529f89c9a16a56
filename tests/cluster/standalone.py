"""A Spark cluster of this machine: a Master and two Workers of the installed pyspark, on loopback.

Whoever holds the cluster's file (``Cluster.save``) can kill its parts and start Workers again.
"""

import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
EXECUTOR = "CoarseGrainedExecutorBackend"


@dataclass
class Cluster:
    """``folder`` has a folder for each Worker, with its ``work`` and ``scratch``."""

    folder: str
    spark_home: str
    port: int
    master_pid: int = 0
    worker_pids: tuple[int, ...] = ()

    @classmethod
    def start(cls, folder: Path, spark_home: Path, n_workers: int = 2) -> "Cluster":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        cluster = cls(str(folder), str(spark_home), port)
        cluster.master_pid = cluster._launch("master", MASTER, ["--port", str(port)])
        wait_for(cluster._accepts, "the Master")
        cluster.worker_pids = tuple(cluster._launch_worker(n) for n in range(n_workers))
        return cluster

    @property
    def url(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    @property
    def workers(self) -> tuple[int, ...]:
        return tuple(range(len(self.worker_pids)))

    def scratch(self, worker: int) -> Path:
        """Where the executors of a Worker have their temporary files."""
        return Path(self.folder) / f"worker-{worker}" / "scratch"

    def executors(self, worker: int | None = None) -> list[int]:
        """Processes of executors, of one Worker or of all."""
        parents = self.worker_pids if worker is None else [self.worker_pids[worker]]
        return [
            pid for pid, parent, command in processes() if EXECUTOR in command and parent in parents
        ]

    def python_workers(self) -> list[int]:
        """Processes that run Python tasks."""
        executors = self.executors()
        found = processes()
        daemons = [pid for pid, parent, _ in found if parent in executors]
        return [pid for pid, parent, _ in found if parent in daemons]

    def kill_worker(self, worker: int) -> None:
        os.kill(self.worker_pids[worker], signal.SIGKILL)

    def restart_worker(self, worker: int) -> None:
        pids = list(self.worker_pids)
        pids[worker] = self._launch_worker(worker)
        self.worker_pids = tuple(pids)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Cluster":
        content = json.loads(path.read_text())
        return cls(**{**content, "worker_pids": tuple(content["worker_pids"])})

    def stop(self) -> None:
        for pid in (*self.executors(), *self.worker_pids, self.master_pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _launch_worker(self, worker: int) -> int:
        home = Path(self.folder) / f"worker-{worker}"
        self.scratch(worker).mkdir(parents=True, exist_ok=True)
        return self._launch(
            f"worker-{worker}", WORKER,
            ["--cores", "1", "--memory", "1g", "--work-dir", str(home / "work"), self.url],
            {"SPARK_LOCAL_DIRS": str(self.scratch(worker)), "SPARK_WORKER_DIR": str(home / "work")},
        )  # fmt: skip

    def _launch(
        self, name: str, main: str, arguments: list[str], environment: dict[str, str] | None = None
    ) -> int:
        log = (Path(self.folder) / f"{name}.log").open("a")
        process = subprocess.Popen(
            [f"{self.spark_home}/bin/spark-class", main, "--host", "127.0.0.1",
             "--webui-port", "0", *arguments],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env={
                **os.environ,
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_DAEMON_MEMORY": "256m",
                "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
                **(environment or {}),
            },
        )  # fmt: skip
        return process.pid


def processes() -> list[tuple[int, int, str]]:
    """(process, parent, command) of all that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if stat[0] != "Z":
            found.append((int(entry.name), int(stat[1]), command))
    return found


def wait_for(condition, what: str, seconds: float = 120) -> None:
    """Return as soon as ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up in {seconds:g} s")
        time.sleep(0.05)
