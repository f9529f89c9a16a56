"""The page about a study of ranks, from its Parquet table."""

from typing import Any

from mfspark import files
from mfspark.report import charts
from mfspark.report.page import write_page


def write_rank_page(
    name: str, ingest: dict[str, Any], table_uri: str, target: str, unit: str, model: str
) -> None:
    """Render the table at ``table_uri`` into the HTML file ``target``; ratings are counted in
    ``unit``, and ``model`` was fitted."""
    ranks = files.read_pandas(table_uri).sort_values("rank")
    write_page(
        "ranks.html",
        target,
        name,
        ingest,
        rows=ranks.to_dict("records"),
        chosen=int(ranks.loc[ranks["is_chosen"], "rank"].iloc[0]),
        chart=charts.ranks_chart(ranks, unit),
        model=model,
    )
