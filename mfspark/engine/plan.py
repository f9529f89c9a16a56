"""How a fit is spread: in one task or over many, how many blocks, how factors are exchanged."""

import math
from dataclasses import dataclass

from mfspark.columns import ITEM, USER
from mfspark.settings import ALSSettings, Exchange

# Above this many bytes a broadcast strains a driver of Spark's default size (1 GiB), which holds
# the cell twice while it builds the broadcast.
BROADCAST_LIMIT = 128 * 2**20

# A block of this many ratings takes 100 MB while it is assembled, in the JVM and in Python. A task
# never receives more than this many bytes of fixed rows: an Arrow binary array ends at 2 GiB.
_RATINGS_PER_BLOCK = 8_000_000
_BYTES_PER_BLOCK = 2**30

# What one task may take when nothing else is said: the fit of some 30 million ratings.
_ONE_TASK_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Machine:
    """Where a fit runs: ``cores`` of all executors together, ``task_cores`` of one executor."""

    cores: int
    task_cores: int


@dataclass(frozen=True)
class Plan:
    """The choices; ``n_blocks`` and ``exchange`` by solved side."""

    in_one_task: bool
    n_threads: int
    n_blocks: dict[str, int]
    exchange: dict[str, Exchange]


def make_plan(
    n_ratings: int, n_users: int, n_items: int, settings: ALSSettings, machine: Machine
) -> Plan:
    """Choose for ratings of a given size; what ``settings`` fixes is taken as it is."""
    automatic = _automatic_blocks(n_ratings, settings.rank, machine)
    row_bytes = 4 * (settings.rank + 1)
    exchange: dict[str, Exchange] = {
        side: settings.exchange
        if settings.exchange != "auto"
        else ("broadcast" if n_fixed * row_bytes <= BROADCAST_LIMIT else "routed")
        for side, n_fixed in ((USER, n_items), (ITEM, n_users))
    }
    fits = one_task_bytes(n_ratings, n_users, n_items, settings.rank) <= _ONE_TASK_BYTES
    return Plan(
        in_one_task=settings.execution == "one_task"
        or (settings.execution == "auto" and fits and machine.task_cores == machine.cores),
        n_threads=machine.task_cores,
        n_blocks={
            USER: settings.num_user_blocks or automatic,
            ITEM: settings.num_item_blocks or automatic,
        },
        exchange=exchange,
    )


def _automatic_blocks(n_ratings: int, rank: int, machine: Machine) -> int:
    # Whole rounds: with 3 blocks on 2 cores one core would wait half of the time.
    largest = min(_RATINGS_PER_BLOCK, _BYTES_PER_BLOCK // (4 * (rank + 1)))
    return machine.cores * math.ceil(n_ratings / (largest * machine.cores))


def one_task_bytes(n_ratings: int, n_users: int, n_items: int, rank: int) -> int:
    """Peak memory of the Python worker that fits in one task."""
    # 13 bytes as they come, 12 as positions and rating, 8 in each of two blocks, 12 while sorting.
    ratings = 53 * n_ratings
    # The best so far, the last and the next one of each side, and a copy in double for the end.
    factors = 4 * (rank + 1) * (n_users + n_items) * 5
    return ratings + factors
