"""Disk that a fit takes: estimated from sizes before it begins, and compared with what is free."""

import os
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mfspark import files
from mfspark.engine.plan import Plan, Workload
from mfspark.errors import DiskError

# Of each rating, half as much again as was measured at 5 million of them with integer ids: shuffle
# files and blocks, in one task and distributed.
_SCRATCH_BYTES, _DISTRIBUTED_SCRATCH_BYTES = 10, 70
# A factor table beside its floats, and what snapshots take: the last, and the one being written.
_ID_BYTES, _SNAPSHOTS = 24, 2


@dataclass(frozen=True)
class DiskNeed:
    """``n_bytes`` that will be written below ``folder`` of this machine, and what they are."""

    what: str
    folder: str
    n_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is free there now."""
        return shutil.disk_usage(_existing(self.folder)).free

    @property
    def device(self) -> int:
        """Which file system it is."""
        return os.stat(_existing(self.folder)).st_dev


def fit_needs(
    workload: Workload, plan: Plan, run_path: str, scratch: list[str], n_draws: int
) -> list[DiskNeed]:
    """What a fit writes into the run and into the ``scratch`` folders of Spark, as far as these are
    of this machine. ``n_draws``: copies of the rows that a posterior stores."""
    rows = workload.n_users + workload.n_items
    model = rows * (workload.row_bytes * (1 + n_draws) + _ID_BYTES)
    snapshots = _SNAPSHOTS * rows * workload.row_bytes
    needs = []
    if files.is_local(run_path):
        needs.append(DiskNeed("model and snapshots", files.absolute(run_path), model + snapshots))
    per_rating = _SCRATCH_BYTES if plan.in_one_task else _DISTRIBUTED_SCRATCH_BYTES
    for folder in scratch:
        n_bytes = per_rating * workload.n_ratings // len(scratch)
        needs.append(DiskNeed("shuffles and blocks of Spark", folder, n_bytes))
    return needs


def require_room(needs: list[DiskNeed]) -> None:
    """``DiskError`` where a file system has not room for all that will be written there."""
    by_device = defaultdict(list)
    for need in needs:
        by_device[need.device].append(need)
    for shared in by_device.values():
        needed, free = sum(need.n_bytes for need in shared), shared[0].free_bytes
        if needed > free:
            places = " and ".join(f"{need.what} in {need.folder}" for need in shared)
            raise DiskError(
                f"the fit will write about {shown_bytes(needed)} ({places}), but only "
                f"{shown_bytes(free)} are free there: {shown_bytes(needed - free)} are missing; "
                "make room, or set run.directory or Spark's scratch folder (SPARK_LOCAL_DIRS, "
                "spark.local.dir) to another disk"
            )


def scratch_folders(setting: str) -> list[str]:
    """Where Spark on this machine writes what does not fit memory; ``setting``:
    ``spark.local.dir``, or empty."""
    named = os.environ.get("SPARK_LOCAL_DIRS") or setting or tempfile.gettempdir()
    return [folder for folder in named.split(",") if folder]


def shown_bytes(n_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} GiB" if n_bytes < 1024 else f"{n_bytes / 1024:.3g} TiB"


def _existing(folder: str) -> Path:
    """The folder, or the one above it that is there."""
    path = Path(folder)
    return next(each for each in (path, *path.parents) if each.exists())
