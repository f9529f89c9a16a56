"""Factor tables on disk: Parquet, with ``metadata.json``, readable without mfspark."""

from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark import files
from mfspark.columns import BIAS, COLD_BIAS, DRAWS, FACTORS, ITEM, N_RATINGS, USER, Side
from mfspark.errors import ModelFormatError
from mfspark.models.metadata import SCHEMA_VERSION, ModelMetadata
from mfspark.models.persistence import damaged, read_document, read_table, require_rows
from mfspark.spark_errors import SPARK_ERRORS

_NAME = "metadata.json"
_HISTORY = {"iteration", "side", "objective", "train_rmse", "validation_rmse"}


@dataclass(frozen=True)
class FactorTables:
    """What a factor model consists of; ``draws`` by side, of models that have a posterior."""

    user_factors: DataFrame
    item_factors: DataFrame
    history: DataFrame
    metadata: ModelMetadata
    draws: dict[Side, DataFrame]


def write_factor_tables(tables: FactorTables, directory: str) -> None:
    """Write tables and ``metadata.json`` to a new ``directory``."""
    files.write_parquet(tables.user_factors, f"{directory}/user_factors")
    files.write_parquet(tables.item_factors, f"{directory}/item_factors")
    files.write_parquet(tables.history.coalesce(1), f"{directory}/history")
    for side, draws in tables.draws.items():
        files.write_parquet(draws, f"{directory}/draws/{side}")
    files.write_text(f"{directory}/{_NAME}", tables.metadata.model_dump_json(indent=2) + "\n")


def read_factor_tables(path: str) -> FactorTables:
    """What a model directory holds. Raises ``ModelFormatError`` when a part is missing, damaged, or
    of another schema version."""
    metadata = read_document(
        path, _NAME, ModelMetadata, SCHEMA_VERSION, "FactorModel.save or the train job"
    )
    users, items = (_read_factors(path, side, metadata) for side in (USER, ITEM))
    history = read_table(path, "history", _HISTORY)
    return FactorTables(users, items, history, metadata, _read_draws(path, metadata))


def _read_draws(path: str, metadata: ModelMetadata) -> dict[Side, DataFrame]:
    """The tables of draws, if there are any: of each id n_draws · (rank + 1) numbers."""
    if metadata.posterior is None or not metadata.posterior.n_draws:
        return {}
    length, tables = metadata.posterior.n_draws * (metadata.rank + 1), {}
    for side in Side:
        name = f"draws/{side}"
        tables[side] = read_table(path, name, {side, DRAWS})
        try:
            row = tables[side].agg(F.count(F.when(F.size(DRAWS) == length, 1))).first()
        except SPARK_ERRORS as error:
            raise damaged(path, name, error) from None
        assert row is not None
        require_rows(path, name, row[0], metadata.n_rows(side), _NAME)
    return tables


def _read_factors(path: str, side: Side, metadata: ModelMetadata) -> DataFrame:
    """A factor table, checked in one pass: as many rows as there were, each id once, and of each
    a bias and factors that are finite numbers."""
    name, n_rows, rank = f"{side}_factors", metadata.n_rows(side), metadata.rank
    table = read_table(path, name, {side, N_RATINGS, BIAS, FACTORS})
    biases = [BIAS, COLD_BIAS] if COLD_BIAS in table.columns else [BIAS]
    expected = {**dict.fromkeys(biases, "float"), FACTORS: "array<float>"}
    kinds = {field: table.schema[field].dataType.simpleString() for field in expected}
    if kinds != expected:
        raise ModelFormatError(
            f"table {name} of model {path} has {', '.join(expected)} of the types "
            f"{', '.join(kinds.values())}, not {', '.join(expected.values())}; train again"
        )

    def is_odd(number: Column) -> Column:
        return number.isNull() | F.isnan(number) | (F.abs(number) == float("inf"))

    faults = {
        "rows without an id": F.col(side).isNull(),
        f"rows whose list of factors has not the length {rank} that {_NAME} says": F.col(
            FACTORS
        ).isNull()
        | (F.size(FACTORS) != rank),
        "rows with a bias or factors that are null, NaN or infinite": reduce(
            or_, [is_odd(F.col(bias)) for bias in biases]
        )
        | F.coalesce(F.exists(FACTORS, is_odd), F.lit(False)),
    }
    try:
        row = table.agg(
            F.count(F.lit(1)),
            F.count_distinct(side),
            *[F.count(F.when(fault, 1)) for fault in faults.values()],
        ).first()
    except SPARK_ERRORS as error:
        raise damaged(path, name, error) from None
    assert row is not None
    require_rows(path, name, row[0], n_rows, _NAME)
    found = dict(zip(faults, row[2:], strict=True)) | {"ids that occur twice": n_rows - row[1]}
    for fault, n in found.items():
        if n:
            raise ModelFormatError(
                f"table {name} of model {path} has {n} {fault}; restore it from a copy or train "
                "again"
            )
    return table
