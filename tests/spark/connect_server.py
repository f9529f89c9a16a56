"""A Spark Connect server in a process of its own, whose Python has everything but mfspark."""

import os
import re
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

from session_settings import SETTINGS

_SECONDS_TO_START = 120


def python_without_mfspark(folder: Path) -> Path:
    """An environment with the packages of this one but mfspark."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "mfspark" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin/python"


class ConnectServer:
    """``url``: for clients; ``log``: a file."""

    def __init__(self, folder: Path, python: Path) -> None:
        home = Path(find_spec("pyspark").origin).parent
        self.log = folder / "server.log"
        kept = ("PATH", "HOME", "LANG", "JAVA_HOME")
        environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "SPARK_HOME": str(home), "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(folder / "scratch"), "TMPDIR": str(folder),
        }  # fmt: skip
        conf = {
            **SETTINGS,
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": "0",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
        }
        properties = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
        with self.log.open("w") as sink:
            # spark-submit becomes the JVM.
            self.process = subprocess.Popen(
                [str(home / "bin/spark-submit"), "--master", "local[2]", "--class",
                 "org.apache.spark.sql.connect.service.SparkConnectServer", *properties,
                 "spark-internal"],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=folder, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.url = f"sc://127.0.0.1:{self._port()}"

    def _port(self) -> int:
        end = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < end and self.process.poll() is None:
            text = self.log.read_text(errors="replace")
            if found := re.search(r"Spark Connect server started at: \S*?:(\d+)", text):
                return int(found[1])
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(self.log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        """End it, and wait for its end."""
        self.process.terminate()
        self.process.wait()
