"""What is sent in an iteration of a distributed fit, and how long one takes, by exchange:

    python tests/benchmarks/exchanges.py ratings.csv --columns userId movieId rating
        [--ranks 32 64] [--user-blocks 2 8]

Of ``ml-1m/ratings.csv`` or any other table of ratings in a CSV with a header.
"""

import argparse
import statistics

from local_session import local_session
from pyspark.sql import functions as F

from mfspark import BiasedALS
from mfspark.settings import ExchangeName

EXCHANGES: tuple[ExchangeName, ...] = ("broadcast", "routed", "moments")


def main() -> None:
    """Print a line for each rank, number of blocks and exchange."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings")
    parser.add_argument("--columns", nargs=3, default=["user", "item", "rating"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--user-blocks", nargs="+", type=int, default=[2, 8])
    arguments = parser.parse_args()
    spark = local_session("6g", n_partitions=8)
    user, item, rating = arguments.columns
    ratings = (
        spark.read.csv(arguments.ratings, header=True, inferSchema=True)
        .select(F.col(user).alias("user"), F.col(item).alias("item"), F.col(rating).alias("rating"))
        .persist()
    )
    print(f"{ratings.count()} ratings")
    print("rank  blocks  exchange   MB of users to items   s an iteration   training RMSE")
    for rank in arguments.ranks:
        for n_blocks in arguments.user_blocks:
            for exchange in EXCHANGES:
                model = BiasedALS(
                    rank=rank, maxIter=5, tol=0.0, seed=1, regParam=1.0, biasRegParam=0.25,
                    execution="distributed", exchange=exchange, numUserBlocks=n_blocks,
                ).fit(ratings)  # fmt: skip
                rows = model.history.where("iteration > 1").orderBy("iteration", "side").collect()
                items, users = rows[::2], rows[1::2]
                seconds = statistics.median(
                    each.seconds + other.seconds for each, other in zip(items, users, strict=True)
                )
                print(
                    f"{rank:4} {n_blocks:7}  {exchange:<9} {items[-1].bytes / 1e6:21.1f} "
                    f"{seconds:16.2f} {rows[-1].train_rmse:15.6f}",
                    flush=True,
                )
                model.unpersist()
    spark.stop()


if __name__ == "__main__":
    main()
