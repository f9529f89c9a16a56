"""The page about a learning curve, from its Parquet table."""

import math
from typing import Any

import pandas as pd

from mfspark import files
from mfspark.report import charts
from mfspark.report.page import write_page


def write_learning_page(
    name: str, ingest: dict[str, Any], table_uri: str, target: str, unit: str, model: str
) -> None:
    """Render the table at ``table_uri`` into the HTML file ``target``; ratings are counted in
    ``unit``, and ``model`` was fitted."""
    curve = files.read_pandas(table_uri).sort_values("share")
    write_page(
        "learning_curve.html",
        target,
        name,
        ingest,
        rows=curve.to_dict("records"),
        verdict=learning_verdict(curve, unit),
        n_test=ingest["split"]["test"],
        chart=charts.learning_chart(curve, unit),
        model=model,
    )


def learning_verdict(curve: pd.DataFrame, unit: str) -> str:
    """What the last of the ratings were worth: between the largest share and all of them."""
    if len(curve) < 2:
        return "There is one share of the ratings, and nothing to compare it with."
    last, whole = curve.iloc[-2], curve.iloc[-1]
    change = "falls" if last["gain"] >= 0 else "rises"
    step = (
        f"From {last['share']:.0%} to all of the ratings RMSE {change} by "
        f"{abs(last['gain']):.4f} {unit} (paired interval of the gain {last['low']:.4f} to "
        f"{last['high']:.4f})"
    ).replace("-", "\u2212")
    if last["low"] > 0:
        per_doubling = last["gain"] / math.log2(whole["n_ratings"] / last["n_ratings"])
        return f"{step}, which is {per_doubling:.4f} for twice as many: more ratings would help."
    return f"{step}, which may be chance: more ratings of the same kind would hardly help."
