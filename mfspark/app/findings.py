"""What alerts are made from, gathered from a run and its evaluation."""

from typing import Any

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark import files
from mfspark.app.alerts import Findings, Gain
from mfspark.app.run_directory import RunDirectory
from mfspark.columns import ITEM, N_RATINGS, Side
from mfspark.models.factor_model import FactorModel


def findings_of(
    spark: SparkSession, run: RunDirectory, model: FactorModel, evaluation: str
) -> Findings:
    """Of a model and the folder with the tables of its evaluation."""
    tables = {Side.USER: model.user_factors, Side.ITEM: model.item_factors}
    most = {side: table.agg(F.max(N_RATINGS)).collect()[0][0] for side, table in tables.items()}
    n_matched = None
    if files.exists(run.of("items")):
        items = files.read_parquet(spark, run.require("items", "ingest"))
        rated = model.item_factors.where(F.col(N_RATINGS) > 0)
        n_matched = rated.join(items, ITEM, "semi").count()
    overall = files.read_pandas(f"{evaluation}/gains")
    by_slice = files.read_pandas(f"{evaluation}/slice_gains")
    return Findings(
        config=run.config,
        ingest=run.ingested(),
        metadata=model.metadata,
        gains=_gains(overall.assign(name=overall["baseline"])),
        slice_gains=_gains(by_slice.assign(name=by_slice["slice"] + " " + by_slice["value"])),
        last_change=last_change(model.history.toPandas()),
        n_matched=n_matched,
        most_ratings=most,
    )


def _gains(table: Any) -> list[Gain]:
    rows = table[["name", "n", "rmse", "baseline_rmse", "gain", "low", "high"]]
    return [
        Gain(**{name: None if pd.isna(value) else value for name, value in row.items()})
        for row in rows.to_dict("records")
    ]


def last_change(history: Any) -> float | None:
    """The share by which the last iteration lowered the validation error, or without validation
    rows the objective; None with fewer than two iterations."""
    for name in ("validation_rmse", "objective"):
        known = history.dropna(subset=name)
        ends = known.sort_values("iteration").groupby("iteration")[name].last()
        if len(ends) > 1 and ends.iloc[-2] > 0:
            return float(1 - ends.iloc[-1] / ends.iloc[-2])
    return None
