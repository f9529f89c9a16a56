"""What a fit leaves behind from time to time, so that one that is broken off can go on.

A folder holds ``fit.json``, which says what fit it is and how far it was, and names a folder beside
itself that has the rows: arrays of NumPy, or tables of a distributed fit. ``fit.json`` is written
last and replaced whole, so a fit that is killed while it saves leaves the snapshot before.
"""

import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mfspark import files
from mfspark.algorithms.diagnostics import Trace
from mfspark.algorithms.history import HistoryState, Spread
from mfspark.algorithms.learning_rate import RateState
from mfspark.errors import DataError
from mfspark.kernels.arrays import Array
from mfspark.kernels.objective import Objective
from mfspark.settings import ExchangeName

# Of the files; another one is not gone on with.
_FORMAT = 1
_RECORD = "fit.json"
# Saving may take this share of the time of a fit.
_MOST_OF_TIME = 0.04


class _Stated(BaseModel):
    """Numbers in JSON as they are, infinity and NaN included."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class ChainPlace(_Stated):
    """How far a sampler is beside its rows: chain and sweep, Σ (r − r̂)², draws in the mean, spread
    of each draw after burn-in, and what is followed of them, by chain.

    Of a distributed one also Σ (r − r̂)² of validation ratings, the sums of the rows by side (see
    ``RowSums``) and the number of factors of the mean.
    """

    number: int
    sweep: int
    squared_error: float
    n_averaged: int
    spreads: list[Spread]
    traces: list[list[Trace]]
    validation_squared_error: float = 0.0
    sums: dict[str, list[float]] = {}
    width: int = 0


class LoopState(_Stated):
    """How far a fit is: the end of an iteration.

    ``rate`` and ``visits``, the epochs in the order in which they were run: of SGD. ``chain``: of a
    sampler. ``n_blocks`` and ``exchange``: of a distributed fit, by side.
    """

    objective: Objective
    history: HistoryState
    rate: RateState | None = None
    visits: list[int] = []
    chain: ChainPlace | None = None
    n_blocks: dict[str, int] = {}
    exchange: dict[str, ExchangeName] = {}

    @classmethod
    def before_best(cls, objective: Objective, past: HistoryState) -> "LoopState":
        """Of ALS before an iteration that is the best so far, as it will be when it is run again:
        rows of one side are enough then, for the others follow from them."""
        return cls(objective=objective, history=past._replace(best=math.inf))

    @property
    def iteration(self) -> int:
        """Iterations that the fit has behind it."""
        return self.history.rows[-1].iteration if self.history.rows else 0


class Snapshot(_Stated):
    """``fit.json``: whose state it is, the folder of its rows, and the files there with their
    sizes."""

    format: int
    identity: str
    execution: Literal["one_task", "distributed"]
    folder: str
    loop: LoopState
    sizes: dict[str, int] = {}


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of one fit, in a folder of their own.

    ``seconds``: saved at the end of the first iteration after so many; never so often that it takes
    more than 4 % of the time, unless it is 0, for every iteration. ``identity``: of everything that
    decides how the fit goes on: ratings, settings, rows to start from.
    """

    folder: str
    seconds: float
    identity: str
    execution: Literal["one_task", "distributed"] = "one_task"

    def latest(self) -> Snapshot | None:
        """The last snapshot of this very fit; None when there is none, or not all of it."""
        try:
            text = files.read_text(files.join(self.folder, _RECORD))
            found = Snapshot.model_validate_json(text)
        except (OSError, DataError, ValidationError, UnicodeDecodeError):
            return None
        ours = _FORMAT, self.identity, self.execution
        is_ours = (found.format, found.identity, found.execution) == ours
        # Names of folders are ours as well: no path leads out of the folder.
        if not is_ours or not found.folder.isalnum():
            return None
        return found if _sizes(self.path(found)) == found.sizes else None

    def path(self, snapshot: Snapshot) -> str:
        """Where the rows of a snapshot are."""
        return files.join(self.folder, snapshot.folder)


def _sizes(folder: str) -> dict[str, int]:
    return {name: size for name, size, _ in files.listing(folder)}


class Saver:
    """Saves the state of a running fit when time has come; without snapshots, never.

    ``resumed``: the snapshot that the fit goes on with, whose rows it may still read.
    """

    def __init__(self, snapshots: Snapshots | None, resumed: Snapshot | None = None) -> None:
        self._snapshots = snapshots
        self._kept = {_RECORD} | ({resumed.folder} if resumed else set())
        self._next = time.monotonic() + (snapshots.seconds if snapshots else 0.0)

    @property
    def is_due(self) -> bool:
        """Whether the state should be saved now. On a machine that does not see the folder it never
        is: a path of this machine's file system need not be there on another one."""
        snapshots = self._snapshots
        if snapshots is None or time.monotonic() < self._next:
            return False
        return files.is_folder(snapshots.folder)

    @contextmanager
    def saving(self, loop: LoopState) -> Iterator[str]:
        """Path of a new folder to put the rows of ``loop`` in; when the block ends well it is the
        latest snapshot, and those before are removed."""
        snapshots = self._snapshots
        assert snapshots is not None
        started = time.monotonic()
        snapshot = Snapshot(
            format=_FORMAT,
            identity=snapshots.identity,
            execution=snapshots.execution,
            folder=uuid.uuid4().hex,
            loop=loop,
        )
        path = snapshots.path(snapshot)
        try:
            yield path
            whole = snapshot.model_copy(update={"sizes": _sizes(path)})
            files.write_text(files.join(snapshots.folder, _RECORD), whole.model_dump_json())
        except BaseException:
            with suppress(OSError, DataError):
                files.remove(path)
            raise
        finally:
            now = time.monotonic()
            pause = 0.0
            if snapshots.seconds:
                pause = max(snapshots.seconds, (now - started) * (1 / _MOST_OF_TIME - 1))
            self._next = now + pause
        for name in files.names_in(snapshots.folder):
            if name not in self._kept | {snapshot.folder}:
                files.remove(files.join(snapshots.folder, name))


def save_arrays(saver: Saver, loop: LoopState, arrays: Mapping[str, Array]) -> None:
    """Save the state of a fit in one process. A fit does not end because its state cannot be saved:
    the snapshot before stays."""
    with suppress(OSError, DataError), saver.saving(loop) as folder:
        files.make_folder(folder)
        for name, array in arrays.items():
            with files.open_to_write(files.join(folder, f"{name}.npy")) as stream:
                np.save(stream, array, allow_pickle=False)


def load_arrays(folder: str) -> dict[str, Array]:
    """What ``save_arrays`` wrote, by name. Raises ``DataError`` for a file that is damaged."""
    arrays: dict[str, Array] = {}
    for name in files.names_in(folder):
        path = files.join(folder, name)
        try:
            with files.open_to_read(path) as stream:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(
                    stream, allow_pickle=False
                )
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); remove {folder}") from None
    return arrays


def resume(snapshots: Snapshots | None) -> tuple[LoopState | None, dict[str, Array]]:
    """The state that an earlier fit in one process left, and its arrays; None where there is no
    such state, or it is damaged."""
    saved = None if snapshots is None else snapshots.latest()
    if snapshots is None or saved is None:
        return None, {}
    try:
        return saved.loop, load_arrays(snapshots.path(saved))
    except DataError:
        return None, {}
