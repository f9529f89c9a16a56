"""The page about an update of a model, from its Parquet tables."""

from typing import Any

import pandas as pd

from mfspark import files
from mfspark.report.page import write_page


def write_update_page(name: str, ingest: dict[str, Any], uri: str, target: str, unit: str) -> None:
    """Render the tables at ``uri`` into the HTML file ``target``; ratings are counted in
    ``unit``."""
    summary = files.read_pandas(f"{uri}/summary").iloc[0].to_dict()
    items = files.read_pandas(f"{uri}/items")
    write_page(
        "update.html",
        target,
        name,
        ingest,
        summary={key: None if pd.isna(value) else value for key, value in summary.items()},
        items=_rows(items),
        unit=unit,
    )


def _rows(items: pd.DataFrame) -> list[dict[str, Any]]:
    """Items from the largest change of their mean prediction to the smallest, new ones last."""
    change = items["mean_after"] - items["mean_before"]
    items = items.assign(change=change, name=items.get("title", items["item"].astype(str)))
    items["name"] = items["name"].fillna(items["item"].astype(str))
    ordered = items.iloc[change.abs().sort_values(ascending=False, na_position="last").index]
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in ordered.to_dict("records")
    ]
