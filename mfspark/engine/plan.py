"""How a fit is spread, and what that will cost: blocks, exchange, memory, bytes, time.

    python -m mfspark.engine.plan --ratings 1e9 --users 5e6 --items 1e5 --rank 64 --cores 40

Everything follows from sizes alone, before any rating is read; the figures are estimates.
"""

import argparse
import logging
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from mfspark.algorithms.running_mean import DRAWS_AT_A_TIME, KEPT
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.cells import ROWS_PER_PACK
from mfspark.errors import ConfigError
from mfspark.kernels.half_step import is_by_cg
from mfspark.settings import (
    ALSSettings,
    BayesianSettings,
    ExchangeName,
    Execution,
    SGDSettings,
    Solver,
)

logger = logging.getLogger("mfspark")

# Where factors are kept between the passes of a distributed fit; see ``Workspace.keep``.
Keep = Literal["driver", "executors", "durable"]

# Above this many bytes a broadcast strains a driver of Spark's default size (1 GiB), which holds
# the cell twice while it builds the broadcast.
BROADCAST_LIMIT = 128 * 2**20

# Code above 1 MiB (spark.broadcast.UDFCompressionThreshold) is broadcast by PySpark, which leaves a
# file on the driver until garbage is collected there.
CLOSURE_BYTES = 3 * 2**18

# Of an id that is a number.
_ID_BYTES = 8

# Collecting a table of this size takes no longer than persisting it.
CHEAP_BYTES = 16 * 2**20

# A task never sends or receives more than this many bytes of rows: an Arrow binary array ends at
# 2 GiB, and Spark doubles its buffers.
_CELL_BYTES = 2**30

# Blocks are as large as memory allows, with room for an estimate that is too low by half: each
# block is sent the fixed rows that it needs, so fewer blocks mean fewer bytes.
_FILL = 1 / 1.5

# What a Python worker may take when nothing else is said: the fit of some 30 million ratings.
_TASK_BYTES = 3 * 2**30

# Memory of a Python worker that has everything imported and compiled, and has done nothing.
_WORKER_BYTES = 250 * 2**20
# Bytes for each row that a worker packs while blocks are built: positions, rating, the order by
# block, the parts cut out.
_BYTES_PER_PACKED_ROW = 60
# That somebody rated something, as a feature of both sides, by row and by feature.
_BYTES_PER_RATED_FEATURE = 16
# Arrays of the size of all rows while a link is drawn: random numbers for rows, their features and
# themselves, the link and what it adds, and the vectors of conjugate gradients.
_LINK_ROWS = 12
# Bytes for each rating while it is sorted into a block, and in the block.
_BYTES_PER_SORTED_RATING = 24
_BYTES_PER_RATING = 8
# The most that moments may have of the bytes of routed factors.
SHARE_OF_ROUTED = 0.7
# In one task, measured: as a rating comes, as positions and rating, in two blocks, while sorting.
_BYTES_PER_ONE_TASK_RATING = 68

# Time of one core of a virtual machine with AVX-512, for ten million ratings at rank 10, 32 and 64;
# a million ratings stay in its cache and take half as long.
_SECONDS_PER_LOOKUP = 29e-9  # gather a row of the fixed side, twice
_SECONDS_PER_PRODUCT = 4.8e-9  # 8 × 16 sums for one rating
_SECONDS_PER_CG = 10.6e-9  # six steps of conjugate gradients for one rating, times w
_SECONDS_PER_SOLVE = 0.5e-6, 0.05e-6  # times w and w³, where w vectors of 16 hold a row
_SECONDS_PER_STAGE = 0.2
# What a core takes from one task to another through Python, Spark and its disk: so that iterations
# on two nodes take what they did (docs/performance.md). A network that is slower comes on top.
_BYTES_PER_SECOND = 80e6
# For each core: of moments that are worth a stage of each iteration, and the blocks of a side.
_WORTH_A_STAGE = 60e6


@dataclass(frozen=True)
class Machine:
    """Where a fit runs: ``cores`` of all executors together, ``task_cores`` of one executor, and
    what one Python worker may take."""

    cores: int
    task_cores: int
    task_bytes: int = _TASK_BYTES


@dataclass(frozen=True)
class Workload:
    """What is to be fitted."""

    n_ratings: int
    n_users: int
    n_items: int
    rank: int

    def n_rows(self, side: Side) -> int:
        """Users or items."""
        return self.n_users if side == USER else self.n_items

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of factors with its bias."""
        return 4 * (self.rank + 1)


@dataclass(frozen=True)
class Plan:
    """The choices, by solved side where there are two, and the estimates.

    ``n_threads``: of a fit in one task; ``n_cores``: of a distributed one. ``keep``: where the
    factors of a side are kept between passes. ``task_bytes``: peak memory of a Python worker.
    ``bytes_shipped``: factors sent per half-step. ``iteration_seconds``: one iteration, both sides.
    ``warnings``: what may go wrong, and what to do. ``has_few_ids``: all ids may travel with code.
    """

    in_one_task: bool
    n_threads: int
    n_cores: int
    n_blocks: dict[Side, int]
    exchange: dict[Side, ExchangeName]
    keep: dict[Side, Keep]
    task_bytes: int
    bytes_shipped: dict[Side, int]
    iteration_seconds: float
    warnings: tuple[str, ...] = field(default=())
    has_few_ids: bool = False

    @property
    def on_driver(self) -> tuple[Side, ...]:
        """The sides whose factors, and ids, fit the driver."""
        return tuple(side for side, keep in self.keep.items() if keep == "driver")

    def describe(self) -> str:
        """The plan in one line; the warnings are not in it."""
        memory = f"{self.task_bytes / 2**30:.1f} GiB of memory in a Python worker"
        pace = f"about {self.iteration_seconds:.2g} s per iteration"
        if self.in_one_task:
            return f"plan: one task with {self.n_threads} threads, {memory}, {pace}"
        blocks = ", ".join(
            f"{n} {side} blocks ({self.exchange.get(side, 'paired')}, "
            f"{self.bytes_shipped[side] / 2**20:.0f} MiB per pass)"
            for side, n in self.n_blocks.items()
        )
        return f"plan: distributed, {blocks}; {memory}, {pace}"

    def log_warnings(self) -> None:
        """Tell what may go wrong."""
        for warning in self.warnings:
            logger.warning("%s", warning)


def refuse_distributed_features(execution: Execution, has_features: bool) -> None:
    """``ConfigError`` for a fit that should be distributed and learn from features."""
    if execution == "distributed" and has_features:
        raise ConfigError(
            "execution = 'distributed' is there for fits without features alone, whose "
            "coefficients are learnt in one task; set implicitFeatures to False and give no "
            "features, or set execution to 'auto' or 'one_task'"
        )


def plan_als(
    workload: Workload, settings: ALSSettings, machine: Machine, may_sum: bool = True
) -> Plan:
    """Choose how to fit ``workload`` by ALS; what ``settings`` fixes is taken as it is.

    Without ``may_sum`` no moments are exchanged unless ``settings`` says so.
    """
    exchange = {side: _choose_exchange(workload, settings, side) for side in Side}
    blocks = _choose_blocks(workload, settings, exchange, machine)
    shipped = {side: _bytes_shipped(workload, settings, exchange, blocks, side) for side in Side}
    if may_sum and settings.exchange == "auto":
        summed = exchange | {ITEM: "moments"}
        of_summed = _choose_blocks(workload, settings, summed, machine)
        n_bytes = _bytes_shipped(workload, settings, summed, of_summed, ITEM)
        # What is not sent as sums is still added up as such, in a stage that should pay.
        compared = n_bytes if exchange[ITEM] == "routed" else _bytes_of_sums(workload, of_summed)
        if compared < _most_moments(workload, settings, machine, exchange[ITEM], shipped[ITEM]):
            exchange, blocks, shipped[ITEM] = summed, of_summed, n_bytes
    is_linked = settings.implicit_features
    in_one_task = is_linked or is_for_one_task(
        workload, settings.execution, machine, n_stages=2, solver=settings.solver
    )
    compute = _compute_seconds(workload, settings.solver)
    if in_one_task:
        task_bytes = one_task_bytes(workload, is_linked)
        seconds = compute / machine.task_cores
    else:
        task_bytes = max(
            _distributed_bytes(workload, side, blocks[side], exchange[side], blocks[side.other])
            for side in Side
        )
        seconds = compute / min(machine.cores, *blocks.values())
        transfer = _bytes_passed(workload, exchange, shipped) / (_BYTES_PER_SECOND * machine.cores)
        seconds += _n_stages(workload, exchange, shipped) * _SECONDS_PER_STAGE + transfer
    return Plan(
        in_one_task=in_one_task,
        n_threads=machine.task_cores,
        n_cores=machine.cores,
        n_blocks=blocks,
        exchange=exchange,
        keep=where_to_keep(workload, exchange),
        task_bytes=task_bytes,
        bytes_shipped=dict.fromkeys(shipped, 0) if in_one_task else shipped,
        iteration_seconds=seconds,
        warnings=tuple(_warnings(workload, machine, in_one_task, task_bytes, exchange)),
        has_few_ids=_ID_BYTES * (workload.n_users + workload.n_items) <= CLOSURE_BYTES,
    )


def plan_sgd(workload: Workload, settings: SGDSettings, machine: Machine) -> Plan:
    """Choose how to fit ``workload`` by SGD; what ``settings`` fixes is taken as it is.

    Each sub-epoch of a distributed fit is a stage, and there are as many as blocks. Both sides'
    parameters are sent in each, and kept together.
    """
    n_blocks = settings.num_blocks or machine.cores
    is_linked = settings.implicit_features
    in_one_task = is_linked or is_for_one_task(
        workload, settings.execution, machine, n_stages=n_blocks
    )
    # Factors, bias, AdaGrad's two sums and the number of ratings.
    sent = 4 * (workload.rank + 4) * (workload.n_users + workload.n_items)
    if in_one_task:
        task_bytes = one_task_bytes(workload, is_linked)
        seconds = _compute_seconds(workload) / machine.task_cores
    else:
        in_block = math.ceil(workload.n_ratings / n_blocks)
        building = max(
            _BYTES_PER_PACKED_ROW * min(ROWS_PER_PACK, in_block),
            _BYTES_PER_SORTED_RATING * in_block,
        )
        # Parameters as they come, in whole vectors, and as they go; for validation, all items.
        task_bytes = _WORKER_BYTES + max(
            building, 3 * sent // n_blocks + workload.row_bytes * workload.n_items
        )
        seconds = _compute_seconds(workload) / min(machine.cores, n_blocks)
        seconds += n_blocks * (_SECONDS_PER_STAGE + sent / (_BYTES_PER_SECOND * machine.cores))
    return Plan(
        in_one_task=in_one_task,
        n_threads=machine.task_cores,
        n_cores=machine.cores,
        n_blocks=dict.fromkeys(Side, n_blocks),
        exchange={},
        keep=dict.fromkeys(Side, "driver" if sent <= BROADCAST_LIMIT else "durable"),
        task_bytes=task_bytes,
        bytes_shipped=dict.fromkeys(Side, 0 if in_one_task else n_blocks * sent),
        iteration_seconds=seconds,
        warnings=tuple(_warnings(workload, machine, in_one_task, task_bytes, {})),
    )


def plan_bayes(
    workload: Workload, settings: BayesianSettings, machine: Machine, has_features: bool
) -> Plan:
    """Choose how to sample the posterior of ``workload``; with features in one task alone.

    Distributed it is the plan of ALS for rows as wide as those of the mean, which are sent to the
    blocks as well. With stored draws there are many copies of all rows, and none of them follows
    from another that is still there.
    """
    n_rows = workload.n_users + workload.n_items
    # Stored draws as they are and as a table, the mean of twice the rank and the next one, and
    # draws that wait to join it.
    n_copies = 2 * settings.keep_draws + 2 * KEPT + DRAWS_AT_A_TIME
    task_bytes = one_task_bytes(workload, settings.implicit_features)
    task_bytes += n_copies * workload.row_bytes * n_rows
    is_one_task = is_for_one_task(workload, settings.execution, machine, n_stages=2)
    is_too_big = settings.execution == "auto" and task_bytes > machine.task_bytes
    if not has_features and (is_too_big or not is_one_task):
        # Draws need the factored equations.
        distributed = ALSSettings(execution="distributed", solver="exact")
        plan = plan_als(
            replace(workload, rank=KEPT * workload.rank), distributed, machine, may_sum=False
        )
        of_draws = plan_als(workload, distributed, machine, may_sum=False)
        # While draws join the mean: all of them side by side, and the same in double.
        in_block = max(workload.n_rows(side) / plan.n_blocks[side] for side in Side)
        joining = 4 * (KEPT + DRAWS_AT_A_TIME) * workload.row_bytes * math.ceil(in_block)
        widest = max(workload.n_users, workload.n_items) * workload.row_bytes
        keep: Keep = "driver" if widest <= CHEAP_BYTES else "durable"
        return replace(
            plan,
            keep=dict.fromkeys(Side, keep),
            task_bytes=max(plan.task_bytes, _WORKER_BYTES + joining),
            bytes_shipped=of_draws.bytes_shipped,
            iteration_seconds=of_draws.iteration_seconds,
        )
    return Plan(
        in_one_task=True,
        n_threads=machine.task_cores,
        n_cores=machine.cores,
        n_blocks=dict.fromkeys(Side, 1),
        exchange={},
        keep=dict.fromkeys(Side, "driver"),
        task_bytes=task_bytes,
        bytes_shipped=dict.fromkeys(Side, 0),
        iteration_seconds=_compute_seconds(workload) / machine.task_cores,
        warnings=tuple(_warnings(workload, machine, True, task_bytes, {})),
    )


def where_to_keep(workload: Workload, exchange: dict[Side, ExchangeName]) -> dict[Side, Keep]:
    """Where the factors of each side are kept between half-steps.

    What is lost with an executor must follow from what is not: the factors of the smaller side, or
    of the one that is sent moments, collected or durable. Those of the other side are collected
    where that costs nothing.
    """
    first = ITEM if exchange[ITEM] == "moments" else min(Side, key=workload.n_rows)
    kept: dict[Side, Keep] = {}
    for side in Side:
        n_bytes = workload.n_rows(side) * workload.row_bytes
        if n_bytes <= (BROADCAST_LIMIT if side == first else CHEAP_BYTES):
            kept[side] = "driver"
        else:
            kept[side] = "durable" if side == first else "executors"
    return kept


def is_for_one_task(
    workload: Workload,
    execution: Execution,
    machine: Machine,
    n_stages: int,
    solver: Solver = "exact",
) -> bool:
    """Whether to fit in one task, where a distributed pass over the ratings has ``n_stages``.

    Automatically where the memory suffices, and the threads of one executor need no longer than
    all executors with the overhead of their stages.
    """
    if execution != "auto":
        return execution == "one_task"
    compute = _compute_seconds(workload, solver)
    distributed = compute / machine.cores + n_stages * _SECONDS_PER_STAGE
    is_fast = compute / machine.task_cores <= distributed
    return is_fast and one_task_bytes(workload) <= machine.task_bytes


def _choose_blocks(
    workload: Workload,
    settings: ALSSettings,
    exchange: dict[Side, ExchangeName],
    machine: Machine,
) -> dict[Side, int]:
    """Those that are given, and otherwise the fewest that fit."""
    users = settings.num_user_blocks or _automatic_blocks(workload, USER, exchange[USER], machine)
    items = settings.num_item_blocks or _automatic_blocks(
        workload, ITEM, exchange[ITEM], machine, users
    )
    return {USER: users, ITEM: items}


def _bytes_shipped(
    workload: Workload,
    settings: ALSSettings,
    exchange: dict[Side, ExchangeName],
    blocks: dict[Side, int],
    side: Side,
) -> int:
    """Bytes of factors, or of moments, that are sent before the half-step of ``side``."""
    if exchange[side] == "broadcast":
        return workload.row_bytes * workload.n_rows(side.other) * blocks[side]
    if exchange[side] == "moments":
        # Of an item that a block has rated less, its ratings and the rows of users are sent.
        of_ratings = workload.n_ratings * (workload.row_bytes + 8)
        return min(_bytes_of_sums(workload, blocks), of_ratings)
    row_bytes = workload.row_bytes // (2 if settings.half_width else 1)
    return row_bytes * _needed_rows(workload, side, blocks[side]) * blocks[side]


def _bytes_of_sums(workload: Workload, blocks: dict[Side, int]) -> int:
    """Bytes of moments for all pairs of an item and a block of users that has rated it."""
    rated = _needed_rows(workload, USER, blocks[USER])
    return moments_bytes(workload.rank) * rated * blocks[USER]


def _most_moments(
    workload: Workload,
    settings: ALSSettings,
    machine: Machine,
    exchange: ExchangeName,
    n_bytes: int,
) -> float:
    """The most bytes of moments to send in place of ``n_bytes`` of rows by ``exchange``."""
    if exchange == "routed":
        # Sums take longer to form than rows to gather.
        return SHARE_OF_ROUTED * n_bytes
    if is_by_cg(settings.solver, workload.rank):
        # Rows solved by conjugate gradients need no sums.
        return 0
    # A stage less in each iteration.
    return n_bytes + _WORTH_A_STAGE * machine.cores


def _bytes_passed(
    workload: Workload, exchange: dict[Side, ExchangeName], shipped: dict[Side, int]
) -> int:
    """Bytes that an iteration has pass through Spark: what is shipped, and rows that are routed
    once more, to where it is known who needs them."""
    routed = (side.other for side, name in exchange.items() if name == "routed")
    return sum(shipped.values()) + sum(workload.n_rows(s) for s in routed) * workload.row_bytes


def _n_stages(
    workload: Workload, exchange: dict[Side, ExchangeName], shipped: dict[Side, int]
) -> int:
    """Stages of an iteration."""
    n = 0
    for side, name in exchange.items():
        if name == "broadcast":
            fixed = workload.n_rows(side.other) * workload.row_bytes
            n += 1 if fixed <= CLOSURE_BYTES else 2
        elif name == "routed":
            n += 3
        elif not is_cheap(shipped[side]):
            n += 1
    return n


def is_cheap(n_bytes: int) -> bool:
    """Whether to collect so many bytes rather than let Spark work at them."""
    return n_bytes <= CHEAP_BYTES


def moments_bytes(rank: int) -> int:
    """Bytes of the moments of a row on their way: half of a matrix of rank + 2 rows, float32."""
    return 4 * (rank + 2) * (rank + 3) // 2


def _choose_exchange(workload: Workload, settings: ALSSettings, side: Side) -> ExchangeName:
    """How the blocks of ``side`` receive the factors of the other one."""
    if settings.exchange == "moments" and side == ITEM:
        return "moments"
    if settings.exchange not in ("auto", "moments"):
        return settings.exchange
    fixed_bytes = workload.n_rows(side.other) * workload.row_bytes
    return "broadcast" if fixed_bytes <= BROADCAST_LIMIT else "routed"


def one_task_bytes(workload: Workload, is_linked: bool = False) -> int:
    """Peak memory of the Python worker that fits everything in one task; ``is_linked``: with
    implicit features."""
    ratings = _BYTES_PER_ONE_TASK_RATING * workload.n_ratings
    links = 0
    if is_linked:
        links = _BYTES_PER_RATED_FEATURE * workload.n_ratings
        links += _LINK_ROWS * workload.row_bytes * (workload.n_users + workload.n_items)
    return _WORKER_BYTES + ratings + links + one_task_factor_bytes(workload)


def one_task_factor_bytes(workload: Workload) -> int:
    """What of ``one_task_bytes`` the factors take: the best ones so far, the last and the next
    ones, and a copy in double for the end."""
    return 5 * workload.row_bytes * (workload.n_users + workload.n_items)


def _distributed_bytes(
    workload: Workload, side: Side, n_blocks: int, exchange: ExchangeName, n_other: int
) -> int:
    """Peak memory of a Python worker: while packing, assembling or solving; ``n_other``: blocks of
    the other side."""
    if exchange == "moments":
        # What arrived, and the sums of training and validation ratings in double.
        in_block = math.ceil(workload.n_rows(side) / n_blocks)
        return _WORKER_BYTES + in_block * (n_other + 4) * moments_bytes(workload.rank)
    in_block = math.ceil(workload.n_ratings / n_blocks)
    packing = _BYTES_PER_PACKED_ROW * min(ROWS_PER_PACK, in_block)
    needed = _needed_rows(workload, side, n_blocks)
    arrived = workload.n_rows(side.other) if exchange == "broadcast" else needed
    # What arrived, the rows that the block needs in whole vectors, and the solved ones.
    width = 16 * math.ceil(workload.rank / 16) + 1
    solving = workload.row_bytes * (arrived + workload.n_rows(side) // n_blocks)
    solving += 4 * width * needed
    solving += _BYTES_PER_RATING * in_block
    return _WORKER_BYTES + max(packing, _BYTES_PER_SORTED_RATING * in_block, solving)


def _needed_rows(workload: Workload, side: Side, n_blocks: int) -> int:
    """Rows of the other side that a block refers to, if ratings fell on them at random.

    Popular rows draw ratings to themselves, so real blocks need fewer.
    """
    fixed = workload.n_rows(side.other)
    return round(-fixed * math.expm1(-workload.n_ratings / n_blocks / fixed)) if fixed else 0


def _compute_seconds(workload: Workload, solver: Solver = "exact") -> float:
    """Time of the kernels in one iteration on one core."""
    vectors = math.ceil(workload.rank / 16)
    linear, cubic = _SECONDS_PER_SOLVE
    if is_by_cg(solver, workload.rank):
        per_rating = _SECONDS_PER_LOOKUP + _SECONDS_PER_CG * vectors
        per_row = linear * vectors
    else:
        per_rating = _SECONDS_PER_LOOKUP + _SECONDS_PER_PRODUCT * vectors * (vectors + 1)
        per_row = linear * vectors + cubic * vectors**3
    return 2 * workload.n_ratings * per_rating + (workload.n_users + workload.n_items) * per_row


def _automatic_blocks(
    workload: Workload, side: Side, exchange: ExchangeName, machine: Machine, n_other: int = 0
) -> int:
    """The least number of blocks that fit; ``n_other``: of the other side, if they are chosen."""

    def fits(n: int) -> bool:
        task_bytes = _distributed_bytes(workload, side, n, exchange, n_other)
        n_bytes = workload.row_bytes * (workload.n_rows(side) // n)
        if exchange == "routed":
            n_bytes = max(n_bytes, workload.row_bytes * _needed_rows(workload, side, n))
        elif exchange == "moments":
            n_bytes = n_other * moments_bytes(workload.rank) * (workload.n_rows(side) // n)
        return task_bytes <= _FILL * machine.task_bytes and n_bytes <= _CELL_BYTES

    # Whole rounds: with 3 blocks on 2 cores one core would wait half of the time. At a tenth of a
    # million ratings per block more of them help no longer.
    last = max(1, workload.n_ratings // (100_000 * machine.cores))
    return machine.cores * next((r for r in range(1, last) if fits(r * machine.cores)), last)


def _warnings(
    workload: Workload,
    machine: Machine,
    in_one_task: bool,
    task_bytes: int,
    exchange: dict[Side, ExchangeName],
) -> list[str]:
    """What may go wrong, a sentence each with what to do about it."""
    remedy = (
        "set execution to distributed, without features if there are any"
        if in_one_task
        else "raise spark.executor.memoryOverhead or the numbers of blocks"
    )
    found = []
    if task_bytes > machine.task_bytes:
        found.append(
            f"a Python worker will need about {task_bytes / 2**30:.1f} GiB, more than the "
            f"{machine.task_bytes / 2**30:.1f} GiB it may take; {remedy}"
        )
    for side, name in exchange.items():
        fixed_bytes = workload.n_rows(side.other) * workload.row_bytes
        if not in_one_task and name == "broadcast" and fixed_bytes > 2 * BROADCAST_LIMIT:
            found.append(
                f"the factors to broadcast to the {side} blocks take "
                f"{fixed_bytes / 2**20:.0f} MiB; the driver needs a few times that; "
                "set exchange to auto or routed"
            )
    return found


def main() -> None:
    """Print the plan for sizes given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for name in ("ratings", "users", "items"):
        parser.add_argument(f"--{name}", type=float, required=True, help="how many, say 1e9")
    parser.add_argument("--rank", type=int, default=ALSSettings().rank)
    parser.add_argument("--cores", type=int, required=True, help="of all executors together")
    parser.add_argument("--executor-cores", type=int, default=1, help="of one executor")
    parser.add_argument(
        "--worker-memory", type=float, default=_TASK_BYTES / 2**30, help="GiB per Python worker"
    )
    given = parser.parse_args()
    workload = Workload(int(given.ratings), int(given.users), int(given.items), given.rank)
    machine = Machine(given.cores, given.executor_cores, int(given.worker_memory * 2**30))
    plan = plan_als(workload, ALSSettings(), machine)
    print("\n".join([plan.describe(), *(f"warning: {warning}" for warning in plan.warnings)]))


if __name__ == "__main__":
    main()
