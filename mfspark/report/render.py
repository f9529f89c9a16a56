"""Tables of a run → one self-contained HTML file. Reads Parquet and JSON only, no Spark."""

import math
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files as resources
from typing import Any

import pandas as pd

from mfspark import files
from mfspark.interpretation.readings import NO_READING
from mfspark.report import charts
from mfspark.report.comparison_page import comparison_section
from mfspark.report.description_page import description_section
from mfspark.report.environment import make_environment
from mfspark.report.item_search import search_index
from mfspark.report.list_table import list_table
from mfspark.report.names import item_name, natural

# Those by metadata come behind.
_SLICES = ("user activity", "item popularity", "predicted value", "cold start", "time")
_N_PANELS = 8
_N_CORRELATIONS = 6
_N_INFLUENCES = 10
# Of so many ratings the share in an interval is known to some two per cent.
_LEAST_COVERED = 500
_SHOWN_LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class RunTables:
    """Everything the report shows, as it lies in the run directory."""

    run: dict[str, Any]
    ingest: dict[str, Any]
    metadata: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    description: dict[str, Any]
    comparison: dict[str, Any] | None

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]


_TABLES = {
    "history": "model/history",
    "metrics": "evaluation/metrics",
    "histogram": "evaluation/histogram",
    **{
        name: f"evaluation/{name}"
        for name in (
            "ranking", "ranking_users", "gains", "slice_gains", "calibration", "residuals",
            "misses", "alerts",
        )
    },
    **{
        name: f"interpretation/{name}"
        for name in (
            "factors", "factor_items", "factor_metadata", "factor_stability", "factor_agreement",
            "factor_labels", "factor_variance", "factor_gains", "variance", "biases",
            "similar_items", "storage", "item_map", "user_map", "item_index", "user_groups",
            "group_factors", "group_items", "explanation", "explanation_ratings",
        )
    },
}  # fmt: skip


# Tables of models that know how sure they are.
_INTERVAL_TABLES = {name: f"evaluation/{name}" for name in ("coverage", "reliability")}


def read_run(uri: str) -> RunTables:
    """Read the small tables of the run directory at ``uri``."""
    base = uri.rstrip("/")

    def document(name: str) -> dict[str, object]:
        content: dict[str, Any] = files.read_json(files.current(base, name))
        return content

    paths = _TABLES | {
        name: path
        for name, path in _INTERVAL_TABLES.items()
        if files.exists(files.current(base, path))
    }
    run = document("run.json")
    compared = files.current(base, "comparison")
    ingest = document("ingest.json")
    return RunTables(
        run,
        ingest,
        document("model/metadata.json"),
        {name: files.read_pandas(files.current(base, path)) for name, path in paths.items()},
        description_section(files.current(base, "description"), ingest, _unit(run)),
        comparison_section(compared, _unit(run)) if files.exists(compared) else None,
    )


def write_report(run_uri: str, target: str) -> None:
    """Render the report of the run at ``run_uri`` into the HTML file ``target``."""
    files.write_text(target, render(read_run(run_uri)))


def render(run: RunTables) -> str:
    """The report as HTML. All text from the data is escaped."""
    metrics = run["metrics"]
    overall = metrics[metrics["slice"] == "all"].set_index("predictor", drop=False)
    unit, labels, panels = _unit(run.run), _labels(run), _factor_panels(run)
    return (
        make_environment()
        .get_template("report.html")
        .render(
            css=resources("mfspark.report").joinpath("report.css").read_text(encoding="utf-8"),
            run=run.run,
            ingest=run.ingest,
            meta=run.metadata,
            overall=overall.sort_values("rmse").to_dict("records"),
            model=overall.loc["model"].to_dict(),
            unit=unit,
            when=_when(run.ingest),
            summary=_summary(run, unit),
            alerts=run["alerts"].to_dict("records"),
            calibration=run["calibration"].to_dict("records"),
            slices=_slices(metrics, run["slice_gains"]),
            misses=_misses(run["misses"]),
            lists=list_table(run["ranking"], run["ranking_users"]),
            intervals=_intervals(run) if "coverage" in run.tables else None,
            factors=panels,
            search=search_index(run["item_index"], panels),
            script=resources("mfspark.report").joinpath("search.js").read_text(encoding="utf-8"),
            tastes=_tastes(run, labels),
            unread=_unread(run),
            variance=run["variance"].set_index("part")["share"].to_dict(),
            n_refits=run.run["config"]["interpret"]["refits"],
            biases=_bias_lists(run["biases"]),
            similar=_similar(run["similar_items"]),
            storage=run["storage"].set_index("quantity")["value"].to_dict(),
            explained=_explained(run),
            description=run.description,
            comparison=run.comparison,
            charts={
                "rmse": charts.rmse_chart(overall, unit),
                "training": charts.training_chart(
                    run["history"], run.metadata["best_iteration"], unit
                ),
                "histogram": charts.histogram_chart(run["histogram"], unit),
                "calibration": charts.calibration_chart(run["calibration"], unit),
                "residuals": charts.residuals_chart(run["residuals"], unit),
                "share": charts.share_chart(run["factors"], run["factor_stability"]),
                "gains": charts.factor_gains_chart(run["factor_gains"], unit)
                if len(run["factor_gains"]) > 1
                else None,
                "variance": charts.variance_chart(run["variance"]),
                "agreement": charts.agreement_chart(run["factor_agreement"])
                if len(run["factor_agreement"])
                else None,
                "explained": charts.explained_chart(run["factor_variance"])
                if len(run["factor_variance"])
                else None,
                "map": charts.map_chart(_with_natural_titles(run["item_map"]), _axes(run, labels))
                if len(run["item_map"]) and len(run["factors"])
                else None,
                "users": charts.users_chart(run["user_map"], _axes(run, labels))
                if len(run["user_map"]) and len(run["factors"])
                else None,
                "explanation": charts.explanation_chart(run["explanation"], labels, unit),
            },
        )
    )


def _unit(run: Any) -> str:
    """What ratings are counted in."""
    return str(run["config"]["data"]["unit"])


def _when(ingest: dict[str, Any]) -> str | None:
    """The days of the first and of the last rating, where they are known."""
    ends = [ingest.get("first_time"), ingest.get("last_time")]
    if None in ends:
        return None
    days = [datetime.fromtimestamp(int(end or 0), tz=timezone.utc).date() for end in ends]
    return f"{days[0]:%Y-%m-%d} to {days[1]:%Y-%m-%d}"


def _summary(run: RunTables, unit: str) -> list[str]:
    """What the predictions are worth, where they are best and worst, and what the factors say; as
    far as it is known."""
    found = [_verdict(run["gains"], unit), _extremes(run["metrics"]), _of_factors(run)]
    return [sentence for sentence in found if sentence is not None]


def _extremes(metrics: pd.DataFrame) -> str | None:
    """For which class of user activity the model errs least and most."""
    rows = metrics[
        (metrics["slice"] == "user activity")
        & (metrics["predictor"] == "model")
        & (metrics["n"] >= _LEAST_COVERED)
    ].sort_values("rmse")
    if len(rows) < 2 or rows["rmse_high"].iloc[0] >= rows["rmse_low"].iloc[-1]:
        return None
    best, worst = rows.iloc[0], rows.iloc[-1]
    return (
        f"It is best for users with {best['value']} training ratings (RMSE {best['rmse']:.3f}) and "
        f"worst for those with {worst['value']} ({worst['rmse']:.3f})."
    )


def _of_factors(run: RunTables) -> str | None:
    """How many factors may be read, and what the first of them are."""
    n_factors, stability = len(run["factors"]), run["factor_stability"]
    if not n_factors or not len(stability):
        return None
    labels = _labels(run)
    stable = sorted(stability.loc[stability["is_stable"].astype(bool), "factor"])
    named = [labels[number] for number in stable if number in labels][:3]
    if not stable:
        return f"None of the {n_factors} factors is stable enough to be read by itself."
    by_itself = "itself" if len(stable) == 1 else "themselves"
    said = f"{len(stable)} of {n_factors} factors can be read by {by_itself}"
    return f"{said}: {'; '.join(named)}." if named else f"{said}; none of them has a clear name."


def _verdict(gains: pd.DataFrame, unit: str) -> str | None:
    """What the predictions are worth, in a sentence; None where nothing could be compared."""
    if not len(gains):
        return None
    row = gains.set_index("baseline").loc["bias only"]
    share, low, high = (row[name] / row["baseline_rmse"] for name in ("gain", "low", "high"))
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %".replace("-", "\u2212")
    if low > 0:
        verdict = f"{100 * share:.1f} % better than"
    elif high < 0:
        verdict = f"{-100 * share:.1f} % worse than"
    else:
        verdict = "not clearly better or worse than"
    return (
        f"Predictions miss by {row['rmse']:.2g} {unit} (root mean square); that is {verdict} "
        f"knowing only how strict each user and how liked each item is (paired {interval})."
    )


def _slices(metrics: pd.DataFrame, gains: pd.DataFrame) -> list[dict[str, object]]:
    """Of each way of slicing the test ratings a chart, and the metrics of each value."""
    result: list[dict[str, object]] = []
    of_class = {(row["slice"], row["value"]): row for row in gains.to_dict("records")}
    by_metadata = sorted(set(metrics["slice"]) - {"all", *_SLICES})
    for name in (*_SLICES, *by_metadata):
        rows = metrics[metrics["slice"] == name]
        values = sorted(rows["value"].unique(), key=_slice_order)
        if len(values) < 2:
            continue
        table = [
            {
                predictor: row.to_dict()
                for predictor, row in rows[rows["value"] == value].set_index("predictor").iterrows()
            }
            | {"value": value, "gain": of_class.get((name, value))}
            for value in values
        ]
        result.append(
            {"name": name, "chart": charts.slice_chart(rows, name, values), "rows": table}
        )
    return result


def _misses(misses: pd.DataFrame) -> dict[float, float]:
    """By how much the model misses at most, for shares of the test ratings."""
    rows = misses[misses["predictor"] == "model"]
    return dict(zip(rows["share"].tolist(), rows["within"].tolist(), strict=True))


def _intervals(run: RunTables) -> dict[str, object]:
    """Charts of coverage and reliability, and shares covered by slice; small classes are left out
    of the latter, whose shares would be chance."""
    coverage = run["coverage"].sort_values("level")
    shown = coverage[coverage["level"].isin(_SHOWN_LEVELS) & (coverage["n"] >= _LEAST_COVERED)]
    table = shown.pivot_table(index=["slice", "value", "n"], columns="level", values="covered")
    rows = [
        {"slice": key[0], "value": key[1], "n": key[2], "covered": covered.tolist()}
        for key, covered in sorted(
            table.iterrows(), key=lambda row: (row[0][0], _slice_order(row[0][1]))
        )
        if key[0] in ("all", "user activity", "item popularity", "cold start")
    ]
    overall = coverage[coverage["slice"] == "all"]
    unit = _unit(run.run)
    return {
        "coverage": charts.coverage_chart(overall),
        "reliability": charts.reliability_chart(run["reliability"], unit),
        "levels": sorted(_SHOWN_LEVELS),
        "rows": rows,
        "overall": overall.set_index("level")["covered"].to_dict(),
        "least": _LEAST_COVERED,
    }


def _slice_order(value: str) -> tuple[float, str]:
    """Classes by their lower ends, days and words by the alphabet, and what is unknown last."""
    if value in ("other", "unknown"):
        return math.inf, value
    number = re.match(r"-?[\d.]+(e[+-]?\d+)?(?=$|\+$|–| to )", value)
    return (float(number[0]), value) if number else (-math.inf, value)


def _with_stability(run: RunTables) -> pd.DataFrame:
    """Factors, with ``is_shown``: the stable ones, or without refits the first."""
    factors = run["factors"].merge(run["factor_stability"], on="factor", how="left")
    factors = factors.merge(run["factor_labels"], on="factor", how="left")
    if not len(run["factor_stability"]):
        return factors.assign(is_shown=factors["factor"] <= _N_PANELS)
    return factors.assign(is_shown=factors["is_stable"].astype(bool))


def _labels(run: RunTables) -> dict[int, str]:
    """Names of factors, where they have one."""
    rows = run["factor_labels"]
    known = rows[rows["is_given"] | (rows["label"] != NO_READING)]
    return dict(zip(known["factor"].tolist(), known["label"].tolist(), strict=True))


def _unread(run: RunTables) -> dict[str, object] | None:
    """What is said of the factors that are not stable; None where all are, or nobody knows."""
    factors = _with_stability(run)
    rest = factors[~factors["is_shown"]]
    if not len(rest) or not len(run["factor_stability"]):
        return None
    return {
        "n": len(rest),
        "n_factors": len(factors),
        "share": rest["share"].sum(),
        "highest": rest["stability"].max(),
    }


def _factor_panels(run: RunTables) -> list[dict[str, object]]:
    """Of each factor that may be read its share, stability, the items at its ends, and what it goes
    along with."""
    panels = []
    items, metadata = run["factor_items"], run["factor_metadata"]
    factors = _with_stability(run)
    for factor in factors[factors["is_shown"]].to_dict("records"):
        own = items[items["factor"] == factor["factor"]]
        correlations = metadata[metadata["factor"] == factor["factor"]].head(_N_CORRELATIONS)
        ends = {
            end: own[own["end"] == end].sort_values("place").to_dict("records")
            for end in ("top", "bottom")
        }
        for rows in ends.values():
            for row in rows:
                row["name"] = item_name(row["title"], row["item"], row["year"])
        chart = charts.correlation_chart(correlations) if len(correlations) else None
        panels.append({**factor, **ends, "chart": chart})
    return panels


def _axes(run: RunTables, labels: dict[int, str]) -> tuple[str, str]:
    """What the axes of the maps are; those of UMAP are nothing by themselves."""
    settings = run.run["config"]["interpret"]
    if settings["map_method"] == "umap":
        return "", ""
    first, second = settings["map_axes"]
    return charts.factor_name(first, labels), charts.factor_name(second, labels)


def _with_natural_titles(items: pd.DataFrame) -> pd.DataFrame:
    titles = [natural(title) if isinstance(title, str) else title for title in items["title"]]
    return items.assign(title=titles)


def _bias_lists(biases: pd.DataFrame) -> dict[str, dict[str, list[dict[str, object]]]]:
    lists: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for side in ("item", "user"):
        lists[side] = {}
        for end in ("highest", "lowest"):
            chosen = biases[(biases["side"] == side) & (biases["end"] == end)]
            rows = chosen.sort_values("place").to_dict("records")
            for row in rows:
                named = side == "item" and isinstance(row["title"], str)
                row["name"] = natural(row["title"]) if named else f"{side} {row['id']}"
            lists[side][end] = rows
    return lists


def _similar(similar: pd.DataFrame) -> list[dict[str, object]]:
    """Of each chosen item its reliable neighbours, perhaps none."""
    return [
        {
            "name": item_name(rows.iloc[0]["title"], item),
            "rows": [
                {
                    "name": item_name(row.similar_title, row.similar_item),
                    "value": row.similarity,
                    "agreement": row.agreement,
                    "n_ratings": row.n_ratings,
                }
                for row in rows.dropna(subset="place").sort_values("place").itertuples()
            ],
        }
        for item, rows in similar.groupby("item", sort=False)
    ]


def _tastes(run: RunTables, labels: dict[int, str]) -> list[dict[str, object]]:
    """Of each group of users its size, where it stands on the factors that may be read, and what it
    likes more than all users do."""
    stability, factors, items = run["factor_stability"], run["group_factors"], run["group_items"]
    stable = set(stability.loc[stability["is_stable"].astype(bool), "factor"])
    tastes: list[dict[str, object]] = []
    for group in run["user_groups"].sort_values("taste").to_dict("records"):
        own = factors[(factors["taste"] == group["taste"]) & factors["factor"].isin(stable)]
        places = [
            {**row, "name": labels.get(row["factor"], f"factor {row['factor']}")}
            for row in own.sort_values("factor").to_dict("records")
        ]
        liked = items[items["taste"] == group["taste"]].sort_values("place")
        rows = [
            {"name": item_name(row["title"], row["item"]), "value": row["difference"]}
            for row in liked.to_dict("records")
        ]
        tastes.append({**group, "places": places, "rows": rows})
    return tastes


def _explained(run: RunTables) -> dict[str, object]:
    """Of the prediction that is taken apart who, what, and which of the user's ratings move it."""
    parts = run["explanation"].set_index("part")
    own = run["explanation_ratings"].sort_values("place")
    ratings = [
        {**row, "name": item_name(row["title"], row["item"])}
        for row in own.head(_N_INFLUENCES).to_dict("records")
    ]
    return {
        "ratings": ratings,
        "n_ratings": len(own),
        "others": own["influence"].iloc[_N_INFLUENCES:].sum(),
        "from_ratings": own["influence"].sum(),
        "base": parts.loc["global mean", "value"] + parts.loc["item bias", "value"],
        "unsettled": parts["value"].get("unsettled", 0.0),
        "user": parts.loc["user", "name"],
        "item": item_name(parts.loc["title", "name"], parts.loc["item", "name"]),
        "rating": None if pd.isna(parts.loc["rating", "value"]) else parts.loc["rating", "value"],
        "prediction": parts.loc["prediction", "value"],
    }
