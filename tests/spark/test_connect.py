"""The whole fit on Spark Connect, where there is no RDD, no sparkContext and no JVM to reach."""

import os
import signal
import subprocess
import sys

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
