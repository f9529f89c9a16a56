"""The page about a study of ranks, from its Parquet table."""

import json
from importlib.resources import files as resources

from mfspark import files
from mfspark.report import charts
from mfspark.report.environment import make_environment


def write_rank_page(run_uri: str, table_uri: str, target: str, unit: str, model: str) -> None:
    """Render the table at ``table_uri`` into the HTML file ``target``; ratings are counted in
    ``unit``, and ``model`` was fitted."""
    base = run_uri.rstrip("/")
    ranks = files.read_pandas(table_uri).sort_values("rank")
    html = (
        make_environment()
        .get_template("ranks.html")
        .render(
            css=resources("mfspark.report").joinpath("report.css").read_text(encoding="utf-8"),
            name=base.rsplit("/", 1)[-1],
            ingest=json.loads(files.read_text(f"{base}/ingest.json")),
            rows=ranks.to_dict("records"),
            chosen=int(ranks.loc[ranks["is_chosen"], "rank"].iloc[0]),
            chart=charts.ranks_chart(ranks, unit),
            model=model,
        )
    )
    files.write_text(target, html)
