"""Spark Connect, where there is no RDD, no sparkContext and no JVM to reach, and a server whose
Python has no mfspark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from connect_server import ConnectServer, python_without_mfspark

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server = ConnectServer(folder, python_without_mfspark(folder / "python"))
    yield server
    server.stop()


def run_client(
    arguments: list[str], server: ConnectServer, cwd: Path, variable: str = "SPARK_REMOTE"
) -> subprocess.CompletedProcess:
    # This process's own gateway is none of the client's business.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYSPARK_GATEWAY")}
    # Of any table each answer takes longer here.
    environment.setdefault("MFSPARK_FUZZ_EXAMPLES", "2")
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**environment, variable: server.url},
    )  # fmt: skip


SMALL_FIT = """
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
    refused = run_client(["-c", SMALL_FIT.format("")], server, tmp_path)
    assert refused.returncode == 1
    assert "No module named 'mfspark'" in refused.stdout
    assert "on Spark Connect call mfspark.ship(spark)" in refused.stdout
    sent = run_client(["-c", SMALL_FIT.format("ship(spark); ship(spark)")], server, tmp_path)
    assert sent.returncode == 0, sent.stdout[-3000:]
    assert "fitted 63" in sent.stdout


FUNCTIONS = """
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import BiasedALS, BiasOnly, ship

spark = SparkSession.builder.getOrCreate()
assert "connect" in type(spark).__module__
ship(spark)
ratings = spark.range(2000).select(
    (F.col("id") % 50).alias("user"), (F.col("id") % 41).alias("item"),
    (F.col("id") % 5).cast("double").alias("rating"),
)
sums = []
for exchange in ("broadcast", "routed", "moments"):
    als = BiasedALS(rank=2, maxIter=1, execution="distributed", exchange=exchange)
    model = als.fit(ratings)
    assert model.metadata.exchange["item"] == exchange
    sums.append(model.transform(ratings).agg(F.sum("prediction")).first()[0])
assert max(sums) - min(sums) < 1e-3, sums
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
spark.stop()
"""


def test_functions_of_the_api(server, tmp_path):
    found = run_client(["-c", FUNCTIONS], server, tmp_path)
    assert found.returncode == 0, found.stdout[-3000:]
    for line in ("measures: 48", "similar: 41", "folded: 100 41", "influences: 40", "tastes: 4"):
        assert line in found.stdout


SUITES = [
    "test_estimator.py",
    "test_factor_model.py",
    "test_comparison.py",
    "test_small_tables.py",
    "../hostile/test_any_table.py",
]


@pytest.mark.slow
def test_suites_pass_on_a_server_without_the_package(server, tmp_path):
    """Tests of the estimator, the model, the comparison, and of any table, against the server."""
    found = run_client(
        ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist",
         f"--basetemp={tmp_path / 'tests'}", *[str(HERE / name) for name in SUITES]],
        server, ROOT, "MFSPARK_TEST_REMOTE",
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-5000:]
    assert "passed" in found.stdout


@pytest.mark.slow
def test_the_pipeline_runs_on_a_server_without_the_package(server, tmp_path):
    lines = [
        f"u{u},i{i},{1 + (u * i + u) % 9 / 2}"
        for u in range(60)
        for i in range(40)
        if (u + i * 7) % 3
    ]
    (tmp_path / "ratings.csv").write_text("user,item,rating\n" + "\n".join(lines) + "\n")
    (tmp_path / "run.toml").write_text(
        '[run]\nname = "far"\n[data]\npath = "ratings.csv"\n[als]\nrank = 2\nmax_iter = 3\n'
        "[interpret]\nrefits = 2\n"
    )
    found = run_client([str(ROOT / "jobs/pipeline.py"), "--config", "run.toml"], server, tmp_path)
    assert found.returncode == 0, found.stdout[-3000:]
    run = tmp_path / "runs/far"
    assert (run / "report/index.html").read_text().startswith("<!")
    outputs = json.loads((run / "run.json").read_text())["steps"]
    assert {step["state"] for step in outputs.values()} == {"succeeded"}
