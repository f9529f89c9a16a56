"""What a fit keeps from one step to the next: cells on the driver, or in a table of Spark."""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.columns import Side
from mfspark.engine.factor_cells import FACTORS
from mfspark.engine.plan import Keep


@dataclass(frozen=True)
class KeptTable:
    """Rows that were collected, ``on_driver``, or that Spark keeps, ``in_spark``.

    Of those on the driver ``table`` is made when it is first asked for, which many a step does not
    do.
    """

    spark: SparkSession
    on_driver: pa.Table | None = None
    in_spark: DataFrame | None = None

    @cached_property
    def table(self) -> DataFrame:
        """The rows for whatever Spark is to do with them."""
        if self.in_spark is not None:
            return self.in_spark
        return self.spark.createDataFrame(self.on_driver)


class KeptCells(KeptTable):
    """Cells, with at least the columns ``FACTORS``."""

    def of_block(self, number: int) -> pa.Table:
        """The cells of a block, on the driver."""
        if self.on_driver is not None:
            return self.on_driver.filter(pc.equal(self.on_driver["number"], number))
        return self.table.where(F.col("number") == number).toArrow()

    def of_side(self, side: Side) -> "KeptCells":
        """Of the parameters of both sides those of one, with the columns ``FACTORS``."""
        if self.on_driver is not None:
            own = self.on_driver.filter(pc.equal(self.on_driver["side"], str(side)))
            return KeptCells(self.spark, on_driver=own.select(FACTORS))
        return KeptCells(
            self.spark, in_spark=self.table.where(F.col("side") == side).select(*FACTORS)
        )

    def with_cell(self, number: int, rows: bytes) -> "KeptCells":
        """These cells of the columns ``FACTORS`` and one more."""
        cell = pa.table({"number": pa.array([number], pa.int32()), "rows": [rows]})
        if self.on_driver is not None:
            cells = pa.concat_tables([self.on_driver, cell.cast(self.on_driver.schema)])
            return KeptCells(self.spark, on_driver=cells)
        union = self.table.union(self.spark.createDataFrame(cell))
        return KeptCells(self.spark, in_spark=union)

    def mended(self, missing: list[int], again: "KeptCells", keep: Keep) -> "KeptCells":
        """These cells, those of the ``missing`` blocks being null, with what was made ``again``."""
        if self.on_driver is not None and again.on_driver is not None:
            made = self.on_driver.filter(pc.is_valid(self.on_driver["rows"]))
            return KeptCells(self.spark, on_driver=pa.concat_tables([made, again.on_driver]))
        is_first = F.col("rows").isNotNull()
        if keep == "executors":
            # Computed again, a row that was null may be none.
            is_first = ~F.col("number").isin(missing)
        return KeptCells(self.spark, in_spark=self.table.where(is_first).unionByName(again.table))
