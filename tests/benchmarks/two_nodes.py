"""A distributed fit on two nodes with a network between them, by exchange:

    sudo python tests/benchmarks/two_nodes.py [--rates 1gbit 10gbit] [--ratings 1e7] [--rank 64]
        [--exchanges broadcast routed moments]

Two network namespaces of this machine, joined by a link that ``tc`` shapes, have a standalone
Worker each, with one executor of one core; the driver is on the first. Of every rate and exchange:
bytes that crossed the link in an iteration and its seconds, the medians of one fit, beside what the
planner says. Of moments half are for the node where they are already, and of rows that are routed
as well, both on their way to where it is known who needs them and from there; what is broadcast is
collected from the second node and sent to it whole. To the planner's seconds, which know no
network, those are added that these bytes take on the link.

Needs root, Linux, ip and tc (iproute2). Nothing outside the namespaces is changed.
"""

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pyspark
from pyspark.sql import DataFrame, SparkSession
from solvers import made_ratings

from mfspark import BiasedALS
from mfspark.columns import Side
from mfspark.engine.plan import Machine, Plan, Workload, plan_als
from mfspark.settings import ALSSettings, ExchangeName

SPARK_CLASS = f"{Path(pyspark.__file__).parent}/bin/spark-class"
NODES = {"mfspark-a": "10.77.0.1", "mfspark-b": "10.77.0.2"}
FIRST, SECOND = NODES
MASTER = f"spark://{NODES[FIRST]}:7077"
EXCHANGES: tuple[ExchangeName, ...] = ("broadcast", "routed", "moments")
ITERATIONS = 7


def main() -> None:
    """Print a line for each rate and exchange."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", nargs="+", default=["1gbit", "10gbit"])
    parser.add_argument("--ratings", type=float, default=1e7)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--exchanges", nargs="+", default=EXCHANGES, choices=EXCHANGES)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--link-speed", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.rank, arguments.exchanges, arguments.link_speed)
        return
    # Whoever ends it finds no namespaces afterwards.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mfspark-nodes-") as folder, ExitStack() as stack:
        path = f"{folder}/ratings.parquet"
        table = made_ratings(int(arguments.ratings), arguments.users, arguments.items)
        pq.write_table(table.drop_columns(["is_validation"]), path)
        stack.enter_context(network())
        stack.enter_context(cluster(Path(folder)))
        print("    link   MB/s   exchange       MB  planned       s  planned")
        for rate in arguments.rates:
            shape(rate)
            speed = megabytes_per_second()
            command = [
                sys.executable, __file__, "--measure", path, "--rank", str(arguments.rank),
                "--link-speed", str(speed * 1e6), "--exchanges", *arguments.exchanges,
            ]  # fmt: skip
            done = subprocess.run(
                inside(FIRST, *command), env=environment(FIRST), stdout=subprocess.PIPE, check=True
            )
            for line in done.stdout.decode().splitlines():
                found = json.loads(line)
                print(
                    f"{rate:>8} {speed:>6.0f} {found['exchange']:>10} {found['megabytes']:>8.1f} "
                    f"{found['planned_megabytes']:>8.1f} {found['seconds']:>7.2f} "
                    f"{found['planned_seconds']:>8.2f}",
                    flush=True,
                )


def inside(node: str, *command: str) -> list[str]:
    """``command`` in the network of a node."""
    return ["ip", "netns", "exec", node, *command]


def environment(node: str) -> dict[str, str]:
    """Of processes on a node."""
    return {**os.environ, "SPARK_LOCAL_IP": NODES[node], "PYSPARK_PYTHON": sys.executable}


def run(*command: str) -> None:
    """A command that must succeed."""
    subprocess.run(command, check=True)


@contextmanager
def network() -> Iterator[None]:
    """Both namespaces and the link between them."""
    ends = {FIRST: "link-a", SECOND: "link-b"}
    made = []
    try:
        for node in NODES:
            run("ip", "netns", "add", node)
            made.append(node)
        run("ip", "link", "add", ends[FIRST], "netns", FIRST, "type", "veth",
            "peer", "name", ends[SECOND], "netns", SECOND)  # fmt: skip
        for node, address in NODES.items():
            run("ip", "-n", node, "address", "add", f"{address}/24", "dev", ends[node])
            for device in (ends[node], "lo"):
                run("ip", "-n", node, "link", "set", device, "up")
        yield
    finally:
        # The link goes with them.
        for node in made:
            run("ip", "netns", "delete", node)


def shape(rate: str) -> None:
    """Limit both directions of the link."""
    for node, device in ((FIRST, "link-a"), (SECOND, "link-b")):
        run("tc", "-n", node, "qdisc", "replace", "dev", device, "root", "tbf",
            "rate", rate, "burst", "8mb", "latency", "50ms")  # fmt: skip


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A Master and a Worker on the first node, a Worker on the second."""
    started = []

    def start(node: str, name: str, *command: str) -> None:
        scratch = folder / name
        scratch.mkdir()
        env = environment(node) | {
            "SPARK_LOCAL_DIRS": str(scratch),
            "SPARK_WORKER_DIR": str(scratch),
        }
        with (folder / f"{name}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    inside(node, SPARK_CLASS, *command), env=env, stdout=log, stderr=log,
                    start_new_session=True,
                )
            )  # fmt: skip

    deploy = "org.apache.spark.deploy"
    try:
        start(FIRST, "master", f"{deploy}.master.Master", "--host", NODES[FIRST], "--port", "7077")
        for node, address in NODES.items():
            start(node, node, f"{deploy}.worker.Worker", "--host", address, "--cores", "1",
                  "--memory", "4g", MASTER)  # fmt: skip
        yield
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


SEND = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 7078))
block = bytes(2**20)
for _ in range(int(sys.argv[2])):
    peer.sendall(block)
"""
RECEIVE = """
import socket, sys, time
door = socket.create_server((sys.argv[1], 7078))
print("open", flush=True)
peer, _ = door.accept()
begun, total = time.perf_counter(), 0
while part := peer.recv(2**20):
    total += len(part)
print(total / (time.perf_counter() - begun) / 1e6)
"""


def megabytes_per_second() -> float:
    """What the link carries."""
    with subprocess.Popen(
        inside(FIRST, sys.executable, "-c", RECEIVE, NODES[FIRST]),
        stdout=subprocess.PIPE,
        text=True,
    ) as receiver:
        assert receiver.stdout is not None
        receiver.stdout.readline()
        run(*inside(SECOND, sys.executable, "-c", SEND, NODES[FIRST], "500"))
        return float(receiver.stdout.readline())


def measure(path: str, rank: int, exchanges: list[ExchangeName], link_speed: float) -> None:
    """On the first node: print a line of JSON for each exchange; ``link_speed``: bytes a second."""
    builder = SparkSession.builder.master(MASTER)
    for name, value in {
        "spark.driver.host": NODES[FIRST],
        "spark.driver.bindAddress": NODES[FIRST],
        "spark.driver.memory": "4g",
        "spark.executor.memory": "3g",
        "spark.executor.cores": "1",
        "spark.cores.max": "2",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.sql.shuffle.partitions": "4",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    # One file would come to one node, and what is made of it would stay there.
    ratings = spark.read.parquet(path).repartition(8).persist()
    work = Workload(
        ratings.count(), *(ratings.select(side).distinct().count() for side in Side), rank
    )
    for exchange in exchanges:
        n_bytes, seconds = fit(ratings, rank, exchange)
        plan = plan_als(
            work, ALSSettings(rank=rank, exchange=exchange, execution="distributed"), Machine(2, 1)
        )
        planned = sum(planned_bytes(work, plan, side) for side in Side)
        found = {
            "exchange": exchange,
            "megabytes": n_bytes / 1e6,
            "planned_megabytes": planned / 1e6,
            "seconds": seconds,
            "planned_seconds": plan.iteration_seconds + planned / link_speed,
        }
        print(json.dumps(found), flush=True)
    spark.stop()


def planned_bytes(work: Workload, plan: Plan, side: Side) -> float:
    """Over the link before a half-step of ``side``."""
    fixed = work.n_rows(side.other) * work.row_bytes
    if plan.exchange[side] == "broadcast":
        return fixed * 3 / 2
    n_bytes = plan.bytes_shipped[side]
    return (n_bytes + fixed if plan.exchange[side] == "routed" else n_bytes) / 2


class LinkWatch(logging.Handler):
    """Notes how many bytes have crossed the link when the fit says that an iteration is over."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "n_iterations"):
            self.totals.append(link_bytes())


def fit(ratings: DataFrame, rank: int, exchange: ExchangeName) -> tuple[float, float]:
    """Bytes over the link in an iteration after the first, and the median seconds of one."""
    watch, logger = LinkWatch(), logging.getLogger("mfspark")
    logger.setLevel(logging.INFO)
    logger.addHandler(watch)
    model = BiasedALS(
        rank=rank, maxIter=ITERATIONS, tol=0.0, regParam=1.0, biasRegParam=0.25, exchange=exchange,
        execution="distributed",
    ).fit(ratings)  # fmt: skip
    logger.removeHandler(watch)
    each = [last - first for first, last in pairwise(watch.totals)]
    print(exchange, "MB of each:", *[round(n / 1e6) for n in each], file=sys.stderr, flush=True)
    assert len(each) == ITERATIONS - 1
    rows = model.history.orderBy("iteration", "side").collect()
    seconds = [
        first.seconds + second.seconds for first, second in zip(rows[::2], rows[1::2], strict=True)
    ]
    return statistics.median(each), statistics.median(seconds[1:])


def link_bytes() -> int:
    """Bytes that have crossed the link, in both directions."""
    folder = Path("/sys/class/net/link-a/statistics")
    return sum(int((folder / f"{way}_bytes").read_text()) for way in ("rx", "tx"))


if __name__ == "__main__":
    main()
