"""Snapshots of fits: what tells one fit from another, and the state of a distributed one.

See :mod:`mfspark.algorithms.snapshots`. The rows of a distributed fit are saved as cells, one table
for all of them, which a fit on as many blocks can go on with.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark import files
from mfspark.algorithms.snapshots import LoopState, Saver, Snapshot, Snapshots
from mfspark.engine.factor_cells import FACTORS
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import Keep, Plan
from mfspark.engine.training import Training
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError, one_line
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")


def fingerprint(table: DataFrame) -> str:
    """The same for the same rows in any order."""
    row = table.agg(F.count("*"), F.hex(F.bit_xor(F.xxhash64(*table.columns)))).first()
    assert row is not None
    return f"{row[0]} {row[1]}"


class FitSnapshots:
    """The snapshots of one fit: the latest that an earlier fit left, and those that it leaves.

    ``snapshots``: where, or None for none; ``ratings`` and ``tables``: the fingerprint of the one,
    and what else the fit was given. ``loop``: the state that it goes on with, which is told in the
    log under the ``name`` of the fit; None for one that begins. Cost: a pass over the ``tables``.
    """

    def __init__(
        self,
        snapshots: Snapshots | None,
        training: Training,
        tables: Iterable[DataFrame],
        plan: Plan,
        name: str | None,
    ) -> None:
        self.snapshots: Snapshots | None = None
        self._saved: Snapshot | None = None
        if snapshots is not None:
            told = [snapshots.identity, training.summary.fingerprint, *map(fingerprint, tables)]
            files.make_folder(snapshots.folder)
            self.snapshots = replace(
                snapshots,
                identity=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
                execution="one_task" if plan.in_one_task else "distributed",
            )
            self._saved = self.snapshots.latest()
        self.loop = None if self._saved is None else self._saved.loop
        if self.loop is not None and name is not None:
            logger.info(
                "%s: goes on after iteration %d of a fit that was broken off",
                name,
                self.loop.iteration,
            )
        self.saver = Saver(self.snapshots, self._saved)

    def resumed(self, training: Training, plan: Plan) -> tuple[Training, Plan]:
        """With the objective, the numbers of blocks and the exchange of the fit that was broken
        off: where rows are follows from them."""
        if self.loop is None:
            return training, plan
        loop = self.loop
        laid_out = replace(
            plan,
            n_blocks={side: loop.n_blocks.get(side, n) for side, n in plan.n_blocks.items()},
            exchange={side: loop.exchange.get(side, name) for side, name in plan.exchange.items()},
        )
        return replace(training, objective=loop.objective), laid_out

    def save(self, loop: LoopState, plan: Plan, kept: dict[str, KeptCells]) -> None:
        """Save the state of a distributed fit: cells of the columns ``FACTORS``, by name. A fit
        does not end because its state cannot be saved: the snapshot before stays."""
        layout = {
            "n_blocks": {str(side): n for side, n in plan.n_blocks.items()},
            "exchange": {str(side): name for side, name in plan.exchange.items()},
        }
        named = [
            cells.table.select(F.lit(name).alias("name"), *FACTORS) for name, cells in kept.items()
        ]
        try:
            with self.saver.saving(loop.model_copy(update=layout)) as folder:
                everything = reduce(DataFrame.unionAll, named)
                # Cells are long, and random to a compressor.
                options = {"compression": "none", "parquet.enable.dictionary": "false"}
                writer = everything.write.partitionBy("name").options(**options)
                writer.parquet(files.for_spark(folder))
        except (OSError, DataError, *SPARK_ERRORS) as error:
            logger.warning("the state of the fit could not be saved: %s", one_line(error))

    def names(self) -> list[str]:
        """Names of the tables that an earlier fit saved."""
        return [name.removeprefix("name=") for name in files.names_in(self._folder())]

    def _folder(self) -> str:
        assert self.snapshots is not None
        assert self._saved is not None
        return self.snapshots.path(self._saved)

    def cells(self, workspace: Workspace, name: str, keep: Keep) -> KeptCells:
        """Cells that an earlier fit saved, copied to where this one keeps its own."""
        folder = files.join(self._folder(), f"name={name}")
        try:
            saved = files.read_parquet(workspace.spark, folder).select(*FACTORS)
            return workspace.keep(saved, keep, FACTORS)[0]
        except SPARK_ERRORS as error:
            raise DataError(
                f"the snapshot in {self._folder()} cannot be read ({one_line(error)}), so the fit "
                "cannot go on from it; remove that folder (in jobs: pass --no-resume), and it "
                "begins anew"
            ) from error
