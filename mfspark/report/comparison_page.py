"""Tables of a comparison → a page of its own, and a section of the run's report."""

from typing import Any

import pandas as pd

from mfspark import files
from mfspark.report import charts
from mfspark.report.list_table import list_table
from mfspark.report.page import write_page

_TABLES = ("models", "differences", "folds", "curves", "weights", "ranking", "ranking_users")
# A model with so much more error than the best would press the others together in a picture.
_FAR = 1.12


def comparison_section(uri: str, unit: str) -> dict[str, object]:
    """What the template ``comparison_section.html`` shows of the comparison at ``uri``."""
    tables = {name: files.read_pandas(f"{uri}/{name}") for name in _TABLES}
    models, curves = tables["models"].sort_values("rmse"), tables["curves"]
    succeeded = models[models["state"] == "succeeded"]
    first = curves[curves["fold"] == 0]
    near = succeeded[succeeded["rmse"] < _FAR * succeeded["rmse"].min()]
    return {
        "models": succeeded.to_dict("records"),
        "failed": models[models["state"] == "failed"].to_dict("records"),
        "headline": _sentence(_headline(succeeded, tables["differences"])),
        "differences": _differences(succeeded, tables["differences"]),
        "folds": _folds(tables["folds"], succeeded),
        "weights": _weights(tables["weights"]),
        "far": succeeded.drop(near.index).to_dict("records"),
        "lists": list_table(tables["ranking"], tables["ranking_users"]),
        "knows_memory": bool(succeeded["workers_mib"].notna().any()),
        "curve_part": first["part"].iloc[0] if len(first) else None,
        "charts": {
            "models": charts.models_chart(near, tables["differences"], unit),
            "cost": charts.cost_chart(near, unit),
            "passes": charts.curves_chart(first, "passes", unit) if len(first) else None,
            "seconds": charts.curves_chart(first, "seconds", unit) if len(first) else None,
        },
    }


def write_comparison(name: str, ingest: dict[str, Any], uri: str, target: str, unit: str) -> None:
    """Render the comparison at ``uri`` into the HTML file ``target``, with ratings in ``unit``."""
    write_page("comparison.html", target, name, ingest, comparison=comparison_section(uri, unit))


def _headline(models: pd.DataFrame, differences: pd.DataFrame) -> str:
    """The verdict between the best two."""
    if len(models) < 2:
        return f"{models['predictor'].iloc[0]} is alone"
    verdicts = differences.set_index(["better", "worse"])["verdict"]
    return str(verdicts[tuple(models["predictor"].iloc[:2])])


def _sentence(verdict: str) -> str:
    """A verdict that begins with a capital letter, unless it begins with the name of a model."""
    return verdict[0].upper() + verdict[1:] if verdict.startswith("no ") else verdict


def _differences(models: pd.DataFrame, differences: pd.DataFrame) -> list[dict[str, object]]:
    """All pairs, those of the best models first."""
    places = {name: place for place, name in enumerate(models["predictor"])}
    ordered = differences.assign(
        first=differences["better"].map(places), second=differences["worse"].map(places)
    )
    rows: list[dict[str, Any]] = ordered.sort_values(["first", "second"]).to_dict("records")
    return rows


def _folds(folds: pd.DataFrame, models: pd.DataFrame) -> list[dict[str, object]]:
    """RMSE by fold and its mean, for each model; empty when there is one fold."""
    table = folds.pivot_table(index="predictor", columns="fold", values="rmse")
    if len(table.columns) < 2:
        return []
    return [
        {"predictor": name, "rmse": list(table.loc[name]), "mean": float(table.loc[name].mean())}
        for name in models["predictor"]
    ]


def _weights(weights: pd.DataFrame) -> list[dict[str, object]]:
    """Mean weights over folds, by blend."""
    means = weights.groupby(["predictor", "member"], sort=False)["weight"].mean()
    return [
        {
            "predictor": predictor,
            "members": [{"name": member, "weight": weight} for (_, member), weight in rows.items()],
        }
        for predictor, rows in means.groupby(level=0, sort=False)
    ]
