"""Outputs of a run as tables of Spark's catalog."""

import logging
import re
import time
import uuid
from collections.abc import Iterator

from pyspark.sql import SparkSession

from mfspark import files
from mfspark.app.config import Published
from mfspark.app.run_directory import RunDirectory
from mfspark.engine.workspace import setting
from mfspark.errors import ConfigError, DataError, OutputExistsError, one_line
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")

_JOBS: dict[Published, str] = {
    "ratings": "ingest",
    "model": "train",
    "evaluation": "evaluate",
    "interpretation": "interpret",
    "recommendations": "recommend",
    "vectors": "export",
}
# Properties of a view: the versions it has stood for, the present one first, and the run.
_VERSIONS, _RUN = "mfspark.versions", "mfspark.run"


def publish(spark: SparkSession, run: RunDirectory) -> None:
    """Make tables of a catalog of ``publish.outputs``, in ``publish.into``.

    Each table of the run, such as model/user_factors of the run mine, becomes a new table
    mine_model_user_factors_v… in the session's own format (``spark.sql.sources.default``). When all
    of them are there, views such as mine_model_user_factors come to stand for them, so that readers
    see tables that are whole; of each ``run.keep`` stay, for readers in the middle. What is not of
    this run is not replaced without ``run.overwrite``.
    """
    into = run.config.publish.into
    if into is None:
        raise ConfigError(
            "publish.into is not set, so nobody knows where the tables should be; set it to a "
            "schema of the catalog, such as main.recommenders"
        )
    prefix = re.sub(r"\W+", "_", run.config.run.name).strip("_").lower()
    version = f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}_{uuid.uuid4().hex[:8]}"
    with run.step("publish") as facts:
        folders = {
            "_".join([prefix, *parts]): folder
            for output in run.config.publish.outputs
            for parts, folder in _tables((output,), run.require(output, _JOBS[output]))
        }
        try:
            known = _views(spark, into, list(folders), run)
            _write_tables(spark, into, folders, version)
            kept = {name: [version, *known[name]][: run.config.run.keep] for name in folders}
            for name, versions in kept.items():
                _show(spark, into, name, versions, _place(run))
            _drop_stale_tables(spark, into, kept)
        except SPARK_ERRORS as error:
            raise DataError(
                f"tables cannot be made in {into} ({one_line(error)}); check publish.into, that "
                "the schema is there, and that the session has its catalog and may write there"
            ) from None
        facts["tables"] = [f"{into}.{name}" for name in folders]
    catalog = setting(spark, "spark.sql.catalogImplementation")
    if into.rpartition(".")[0] in ("", "spark_catalog") and catalog == "in-memory":
        logger.warning(
            "the catalog of this session is in memory: its tables end with the session; configure "
            "a metastore (spark.sql.catalogImplementation hive) or a catalog to keep them"
        )
    print(f"Tables and views in {into}: {', '.join(folders)}")


def _tables(parts: tuple[str, ...], folder: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The folders of Parquet files in an output, and the parts of their paths."""
    names = files.names_in(folder)
    if any(name.endswith(".parquet") for name in names):
        yield parts, folder
        return
    for name in names:
        if files.is_folder(files.join(folder, name)):
            yield from _tables((*parts, name), files.join(folder, name))


def _views(
    spark: SparkSession, into: str, names: list[str], run: RunDirectory
) -> dict[str, list[str]]:
    """The versions that each view has stood for; ``OutputExistsError`` for what this run may not
    replace."""
    there = _names_in(spark, into)
    known = {}
    for name in names:
        properties = _properties(spark, into, name) if name in there else {_RUN: _place(run)}
        origin = properties.get(_RUN)
        if origin is None:
            raise OutputExistsError(
                f"{into}.{name} is there and was not published by mfspark; drop it, or give the "
                "run another run.name"
            )
        if origin != _place(run) and not run.config.run.overwrite:
            raise OutputExistsError(
                f"{into}.{name} was published from {origin}; give this run another run.name, or "
                "allow the replacement with run.overwrite = true"
            )
        known[name] = properties.get(_VERSIONS, "").split()
    return known


def _names_in(spark: SparkSession, into: str) -> set[str]:
    rows = spark.sql(f"SHOW TABLES IN {_quoted(into)}").collect()
    return {row["tableName"] for row in rows if not row["isTemporary"]}


def _properties(spark: SparkSession, into: str, name: str) -> dict[str, str]:
    rows = spark.sql(f"SHOW TBLPROPERTIES {_quoted(into, name)}").collect()
    return {row["key"]: row["value"] for row in rows}


def _write_tables(spark: SparkSession, into: str, folders: dict[str, str], version: str) -> None:
    """New tables, all of them or none."""
    written: list[str] = []
    try:
        for name, folder in folders.items():
            written.append(_quoted(into, f"{name}_v{version}"))
            files.read_parquet(spark, folder).write.saveAsTable(written[-1])
    except BaseException:
        for table in written:
            spark.sql(f"DROP TABLE IF EXISTS {table}")
        raise


def _show(spark: SparkSession, into: str, name: str, versions: list[str], place: str) -> None:
    """Have a view stand for the first of its versions."""
    properties = {_VERSIONS: " ".join(versions), _RUN: place}
    listed = ", ".join(f"'{key}' = {_literal(value)}" for key, value in properties.items())
    spark.sql(
        f"CREATE OR REPLACE VIEW {_quoted(into, name)} TBLPROPERTIES ({listed}) "
        f"AS TABLE {_quoted(into, f'{name}_v{versions[0]}')}"
    )


def _drop_stale_tables(spark: SparkSession, into: str, kept: dict[str, list[str]]) -> None:
    """Drop versions that no view names: older ones, and what killed publications left."""
    for table in _names_in(spark, into):
        name, _, found = table.rpartition("_v")
        if name in kept and found not in kept[name]:
            spark.sql(f"DROP TABLE IF EXISTS {_quoted(into, table)}")


def _place(run: RunDirectory) -> str:
    return files.absolute(run.path)


def _quoted(into: str, *names: str) -> str:
    """Parts of a name as SQL wants them, whatever characters they have."""
    return ".".join(f"`{part.replace('`', '``')}`" for part in (*into.split("."), *names))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
