"""Tables of what ratings there are → a page of its own, and a section of the run's report."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mfspark import files
from mfspark.kernels.arrays import Float64s
from mfspark.report import charts
from mfspark.report.page import write_page

_FEW = 5


class Activity(NamedTuple):
    """Ratings of the users or of the items. ``half``: the share of the ids, most rated first, that
    have half of the ratings; ``few``: of those with fewer than five ratings."""

    n_ids: int
    mean: float
    median: float
    most: int
    half: float
    few: float


def description_section(uri: str, ingest: dict[str, Any], unit: str) -> dict[str, object]:
    """What the template ``description_section.html`` shows of the tables at ``uri``."""
    activity, values, over_time = (
        files.read_pandas(f"{uri}/{name}") for name in ("activity", "rating_values", "over_time")
    )
    sides = {
        side: activity[activity["side"] == side].sort_values("n_ratings", ascending=False)
        for side in ("user", "item")
    }
    return {
        "density": ingest["rows_clean"] / (ingest["users"] * ingest["items"]),
        "sides": {side: _of_side(counts) for side, counts in sides.items()},
        "mean": float((values["rating"] * values["n"]).sum() / values["n"].sum()),
        "length": over_time["length"].iloc[0] if len(over_time) else None,
        "few": _FEW,
        "charts": {
            "shares": charts.values_chart(values, unit),
            "activity": charts.activity_chart(sides),
            "tails": charts.tails_chart({name: cumulative(rows) for name, rows in sides.items()}),
            "time": charts.time_chart(over_time, unit) if len(over_time) > 1 else None,
        },
    }


def write_description(name: str, ingest: dict[str, Any], uri: str, target: str, unit: str) -> None:
    """Render the tables at ``uri`` into the HTML file ``target``; ``ingest``: as ingest.json has
    it."""
    section = description_section(uri, ingest, unit)
    write_page("description.html", target, name, ingest, description=section)


def cumulative(counts: pd.DataFrame) -> tuple[Float64s, Float64s]:
    """Shares of the ids, those with most ratings first, and of all ratings that they have."""
    n_ids = counts["n_ids"].to_numpy(np.float64)
    n_ratings = n_ids * counts["n_ratings"].to_numpy(np.float64)
    ends = [np.concatenate([[0.0], np.cumsum(each) / each.sum()]) for each in (n_ids, n_ratings)]
    return ends[0], ends[1]


def _of_side(counts: pd.DataFrame) -> Activity:
    ids, ratings = cumulative(counts)
    n_ids, n_ratings = counts["n_ids"], counts["n_ratings"]
    return Activity(
        n_ids=int(n_ids.sum()),
        mean=float((n_ids * n_ratings).sum() / n_ids.sum()),
        median=float(n_ratings.iloc[int(np.searchsorted(ids[1:], 0.5))]),
        most=int(n_ratings.max()),
        half=float(np.interp(0.5, ratings, ids)),
        few=float(n_ids[n_ratings < _FEW].sum() / n_ids.sum()),
    )
