"""The whole fit on Spark Connect, where there is no RDD, no sparkContext and no JVM to reach."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from connect_server import ConnectServer, python_without_mfspark

SCRIPT = """
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

spark = (
    SparkSession.builder.remote("local[2]")
    .config("spark.sql.shuffle.partitions", "2")
    .getOrCreate()
)
assert "connect" in type(spark).__module__
from mfspark import BiasedALS, BiasOnly, FactorModel

ratings = spark.range(2000).select(
    (F.col("id") % 50).alias("user"), (F.col("id") % 41).alias("item"),
    (F.col("id") % 5).cast("double").alias("rating"),
)
sums = []
for exchange in ("broadcast", "routed"):
    model = BiasedALS(rank=2, maxIter=1, exchange=exchange).fit(ratings)
    sums.append(model.transform(ratings).agg(F.sum("prediction")).first()[0])
assert abs(sums[0] - sums[1]) < 1e-3, sums
model.save("model")
lists = FactorModel.load("model").recommendForAllUsers(3)
print("users with lists:", lists.count())
from mfspark.evaluation.ranking import RankingSettings, evaluate_lists

pairs = ratings.dropDuplicates(["user", "item"])
held_out = F.col("item") % 7 == F.col("user") % 7
train, test = pairs.where(~held_out), pairs.where(held_out)
found = evaluate_lists(BiasedALS(rank=2, maxIter=1).fit(train), BiasOnly().fit(train), train,
                       test, RankingSettings(k=[3]), 1.0, 0)
print("measures:", found.ranking.count())
print("similar:", model.similarItems(model.item_factors, 2, minAgreement=0.0).count())
folded = model.foldIn(ratings.withColumn("user", F.col("user") + 1000), "user")
print("folded:", folded.user_factors.count(), len(model.local().items))
from mfspark.interpretation.explain import influences
from mfspark.interpretation.user_groups import describe_groups, taste_groups

print("influences:", len(influences(model, ratings, 3, 5)[0]))
stable = spark.createDataFrame([(1, True), (2, True)], "factor int, is_stable boolean")
tastes = taste_groups(model, stable, 1, 2)
described = model.item_factors.withColumn("title", F.lit("a"))
print("tastes:", describe_groups(model, tastes, described, 2).group_items.count())
# Without this the client waits for the server that it started.
spark.stop()
"""


def test_fit_save_load_and_recommend_on_connect(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            # Not a pipe: the local Connect server outlives the client and would hold it open.
            stdout=sink,
            stderr=subprocess.STDOUT,
            # This process's own gateway is none of the client's business.
            env={k: v for k, v in os.environ.items() if not k.startswith("PYSPARK_GATEWAY")},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=300)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, log.read_text()[-3000:]
    assert "users with lists: 50" in log.read_text()
    assert "measures: 48" in log.read_text()
    assert "similar: 41" in log.read_text()
    assert "folded: 100 41" in log.read_text()
    assert "influences: 40" in log.read_text()
    assert "tastes: 4" in log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server = ConnectServer(folder, python_without_mfspark(folder / "python"))
    yield server
    server.stop()


def run_client(script: str, server: ConnectServer, cwd) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYSPARK_GATEWAY")}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False,
        env={**environment, "SPARK_REMOTE": server.url},
    )  # fmt: skip


FIT = """
from pyspark.sql import SparkSession
from mfspark import BiasedALS, ship

spark = SparkSession.builder.getOrCreate()
ratings = spark.createDataFrame([(u, i, float(u * i % 5)) for u in range(9) for i in range(7)],
                                "user int, item int, rating double")
{}
model = BiasedALS(rank=2, maxIter=2).fit(ratings)
print("fitted", model.transform(ratings).count())
spark.stop()
"""


def test_a_server_without_the_package_is_sent_it_or_said_how(server, tmp_path):
    refused = run_client(FIT.format(""), server, tmp_path)
    assert refused.returncode == 1
    assert "No module named 'mfspark'" in refused.stderr
    assert "on Spark Connect call mfspark.ship(spark)" in refused.stderr
    sent = run_client(FIT.format("ship(spark); ship(spark)"), server, tmp_path)
    assert sent.returncode == 0, sent.stderr[-3000:]
    assert "fitted 63" in sent.stdout


SUITES = ["test_estimator.py", "test_factor_model.py", "test_comparison.py", "test_evaluation.py"]


@pytest.mark.slow
def test_suites_pass_on_a_server_without_the_package(server, tmp_path):
    """The estimator's, the model's and the comparison's tests against the server."""
    folder = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYSPARK_GATEWAY")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         *[str(folder / name) for name in SUITES]],
        cwd=folder.parents[1], capture_output=True, text=True, check=False,
        env={**environment, "MFSPARK_TEST_REMOTE": server.url},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:]
