"""Top-N lists of a slice of the users over a big catalogue, as they are planned and by each way:

    python tests/benchmarks/top_n.py [--items 1e6] [--users 1e6] [--slice 10000] [--rank 32]

The factors are random numbers, and with each user travel a hundred seen items. Told are the plan
for all users, the seconds of the slice with the candidates whole in every task and in blocks
(the best of two rounds, taken in turns), the pairs scored in a second, and what that makes for all
users. The lists of both ways are compared. Two cores.
"""

import argparse
import time

from local_session import local_session
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import BiasedALS, FactorModel
from mfspark.columns import ITEM, USER
from mfspark.models import matching
from mfspark.models.candidate_blocks import n_blocks_of

N_BEST = 10
N_SEEN = 100
LIMITS = {"whole": 2**40, "in blocks": 0}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for name, default in (("items", 1e6), ("users", 1e6), ("slice", 1e4)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--rank", type=int, default=32)
    given = parser.parse_args()
    n_items, n_users, n_slice = int(given.items), int(given.users), int(given.slice)
    n_bytes = matching.candidate_bytes(n_items, given.rank)
    print(
        f"{n_users} users x {n_items} items, rank {given.rank}: the candidates take "
        f"{n_bytes / 2**20:.0f} MiB, sent whole up to {matching.BROADCAST_LIMIT / 2**20:.0f} MiB, "
        f"otherwise in {n_blocks_of(n_bytes)} blocks"
    )
    spark = local_session("6g", n_partitions=4)
    model = random_model(spark, n_slice, n_items, given.rank)
    first = F.col("user") * F.lit(7919)
    items = F.transform(F.sequence(F.lit(0), F.lit(N_SEEN - 1)), lambda n: (first + n) % n_items)
    seen = spark.range(n_slice).select(F.col("id").alias("user"))
    seen = seen.select("user", F.explode(items).alias("item"))
    seen = seen.select("user", F.col("item").cast("int")).persist()
    seen.count()
    seconds: dict[str, list[float]] = {way: [] for way in LIMITS}
    sums = {}
    for _ in range(2):
        for way, limit in LIMITS.items():
            matching.BROADCAST_LIMIT = limit
            begun = time.perf_counter()
            sums[way] = checksum(model.recommendForAllUsers(N_BEST, seen=seen, caution=0.0))
            seconds[way].append(time.perf_counter() - begun)
    for way, taken in seconds.items():
        pairs = n_slice * n_items / min(taken)
        print(
            f"{way}: {min(taken):.1f} s for {n_slice} users, {pairs / 1e9:.2f} billion pairs a "
            f"second, {n_users * n_items / pairs / 3600:.2f} h for all"
        )
    is_same = len(set(sums.values())) == 1
    print(f"the lists of both ways are {'' if is_same else 'not '}the same")
    spark.stop()


def random_model(spark: SparkSession, n_users: int, n_items: int, rank: int) -> FactorModel:
    """A model of normal factors and biases."""
    pairs = spark.range(2000).selectExpr(
        "int(id % 50) user", "int(id % 39) item", "float(id % 7) rating"
    )
    small = BiasedALS(rank=rank, maxIter=1).fit(pairs)

    def table(side: str, n: int, seed: int) -> DataFrame:
        def normal(number: int) -> Column:
            return (F.randn(seed + number) * 0.3).cast("float")

        made = spark.range(0, n, 1, 2).select(
            F.col("id").cast("int").alias(side),
            F.lit(1).cast("long").alias("n_ratings"),
            normal(rank).alias("bias"),
            F.array(*map(normal, range(rank))).alias("factors"),
        )
        made = made.persist()
        made.count()
        return made

    metadata = small.metadata.model_copy(update={"n_users": n_users, "n_items": n_items})
    users, items = table(USER, n_users, 1000), table(ITEM, n_items, 5000)
    return FactorModel(users, items, small.history, metadata)


def checksum(lists: DataFrame) -> int:
    """Of the ids in all lists, in their order."""
    ids = F.xxhash64("user", F.col("recommendations.item"))
    row = lists.agg(F.bit_xor(ids).alias("sum")).first()
    assert row is not None
    return int(row["sum"])


if __name__ == "__main__":
    main()
