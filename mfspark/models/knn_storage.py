"""A neighbourhood on disk: Parquet tables, and ``knn.json``."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt
from pyspark.sql import DataFrame

from mfspark import __version__, files
from mfspark.columns import Side
from mfspark.engine.find_neighbours import Neighbourhood
from mfspark.models.persistence import damaged, read_document, read_table, require_rows
from mfspark.spark_errors import SPARK_ERRORS

# Raised whenever a reader of the previous version would misread a table.
_SCHEMA_VERSION = 2
_NAME = "knn.json"


class KNNMetadata(BaseModel):
    """``knn.json``: which ids are neighbours (user or item), how many count, how they are damped,
    and Params of the model.

    ``has_means``: whether predictions start from means, in a table of their own, and not from the
    biases. ``n_rows``: of each table.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema_version: int = _SCHEMA_VERSION
    mfspark_version: str = __version__
    side: Side
    k: PositiveInt
    # Models of before it had a name were not damped.
    neighbour_damping: NonNegativeFloat = 0.0
    has_means: bool
    n_rows: dict[str, NonNegativeInt]
    params: dict[str, Any]


@dataclass(frozen=True)
class KNNTables:
    """What a neighbourhood model consists of beside its biases."""

    neighbourhood: Neighbourhood
    means: DataFrame | None
    side: Side
    k: int
    neighbour_damping: float
    params: dict[str, Any]


def write_knn_tables(tables: KNNTables, directory: str) -> None:
    """Write tables and ``knn.json`` to a new ``directory``."""
    by_name = {
        "neighbours": tables.neighbourhood.neighbours,
        "rated": tables.neighbourhood.rated,
    }
    if tables.means is not None:
        by_name["means"] = tables.means
    for name, table in by_name.items():
        files.write_parquet(table, f"{directory}/{name}")
    metadata = KNNMetadata(
        side=tables.side,
        k=tables.k,
        neighbour_damping=tables.neighbour_damping,
        has_means=tables.means is not None,
        n_rows={name: table.count() for name, table in by_name.items()},
        params=tables.params,
    )
    files.write_text(f"{directory}/{_NAME}", metadata.model_dump_json(indent=2) + "\n")


def read_knn_tables(path: str) -> KNNTables:
    """What a model directory holds; ``ModelFormatError`` says what is wrong with it."""
    metadata = read_document(path, _NAME, KNNMetadata, _SCHEMA_VERSION, "KNNModel.save")
    tables = {}
    for name in ("neighbours", "rated", *(["means"] if metadata.has_means else [])):
        tables[name] = read_table(path, name, set())
        try:
            n_found = tables[name].count()
        except SPARK_ERRORS as error:
            raise damaged(path, name, error) from None
        require_rows(path, name, n_found, metadata.n_rows.get(name), _NAME)
    return KNNTables(
        neighbourhood=Neighbourhood(tables["neighbours"], tables["rated"]),
        means=tables.get("means"),
        side=metadata.side,
        k=metadata.k,
        neighbour_damping=metadata.neighbour_damping,
        params=metadata.params,
    )
