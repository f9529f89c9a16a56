"""Pages that a job leaves beside its tables."""

from importlib.resources import files as resources
from typing import Any

from mfspark import files
from mfspark.report.environment import make_environment


def write_page(
    template: str, target: str, name: str, ingest: dict[str, Any], **content: object
) -> None:
    """Render ``template``, which extends ``page.html``, into the HTML file ``target``.

    ``name`` of the run; ``ingest``: as ingest.json has it; ``content``: what the template shows.
    """
    css = resources("mfspark.report").joinpath("report.css").read_text(encoding="utf-8")
    page = make_environment().get_template(template)
    files.write_text(target, page.render(css=css, name=name, ingest=ingest, **content))
