"""The first step of a run: ratings are read, checked, split and written."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark import files
from mfspark.app.run_directory import IngestRecord, RunDirectory
from mfspark.columns import ITEM, RATING, TIMESTAMP, USER, Side
from mfspark.data.description import describe
from mfspark.data.fetch import fetch
from mfspark.data.read import (
    RatingsSource,
    read_catalog_ratings,
    read_items,
    read_ratings,
    read_users,
)
from mfspark.data.source import RawRatings
from mfspark.data.split import PARTS, SPLIT, split_ratings
from mfspark.data.synthetic import SyntheticSettings, synthetic_items, synthetic_ratings
from mfspark.data.text import MALFORMED
from mfspark.data.validate import CheckedRatings, check_ratings
from mfspark.errors import DataError
from mfspark.ids import column
from mfspark.persisted import persist, unpersist
from mfspark.report.description_page import write_description

logger = logging.getLogger("mfspark")


def ingest(spark: SparkSession, run: RunDirectory) -> None:
    """Read, check and split the ratings: ratings/, quarantine/, users/, items/, description/,
    ingest.json."""
    with run.step("ingest", "ratings", "quarantine") as facts:
        with checked_ratings(spark, run) as (checked, known, origin):
            split = split_ratings(checked.clean, run.config.split)
            record = write_ratings(run, split, checked, known, origin)
        facts.update(record.model_dump(), rows=record.rows_read)
        logger.info(
            "ingest: %d of %d rows are good; train %d, validation %d, test %d",
            record.rows_clean, record.rows_read, *[record.split[part] for part in PARTS],
        )  # fmt: skip
        for reason, n in record.bad_rows.items():
            logger.info("quarantine: %d rows, %s", n, reason)
        logger.info("what ratings there are: %s", run.current("description/index.html"))


@contextmanager
def checked_ratings(
    spark: SparkSession, run: RunDirectory
) -> Iterator[tuple[CheckedRatings, dict[Side, DataFrame], str]]:
    """The configured ratings after all checks, tables of users and items where there are some, and
    what to call their origin."""
    raw, known, origin = _read(spark, run)
    checked = check_ratings(raw, run.config.data.checks())
    try:
        yield checked, known, origin
    finally:
        checked.release()


def _read(spark: SparkSession, run: RunDirectory) -> tuple[RawRatings, dict[Side, DataFrame], str]:
    """Raw ratings, tables of users and items, and what to call their origin."""
    data = run.config.data
    if data.table is not None:
        ratings = read_catalog_ratings(spark, data.table, data.table_filter, data.columns)
        source, readers = data.source(""), {USER: read_users, ITEM: read_items}
        paths = {USER: data.users_path, ITEM: data.items_path}
        known = {side: read(spark, source) for side, read in readers.items() if paths[side]}
        return ratings, {side: each for side, each in known.items() if each is not None}, data.table
    if data.path is not None:
        source = data.source(data.path)
        return *_read_source(spark, source), data.path
    if data.dataset == "synthetic":
        return *_synthetic(spark, run.config.synthetic), "synthetic"
    try:
        source = data.source(str(fetch(str(data.dataset))))
    except DataError as error:
        if data.fallback != "synthetic":
            raise
        logger.warning("%s", error)
        logger.warning("using SYNTHETIC ratings in place of %s", data.dataset)
        return (
            *_synthetic(spark, run.config.synthetic),
            f"synthetic (in place of {data.dataset}, which could not be downloaded)",
        )
    return *_read_source(spark, source), str(data.dataset)


def _read_source(
    spark: SparkSession, source: RatingsSource
) -> tuple[RawRatings, dict[Side, DataFrame]]:
    ratings = read_ratings(spark, source)
    tables = {USER: read_users(spark, source), ITEM: read_items(spark, source)}
    return ratings, {side: table for side, table in tables.items() if table is not None}


def _synthetic(
    spark: SparkSession, settings: SyntheticSettings
) -> tuple[RawRatings, dict[Side, DataFrame]]:
    table = synthetic_ratings(spark, settings).select(
        "*", F.lit("synthetic").alias("origin"), F.lit(None).cast("string").alias(MALFORMED)
    )
    return RawRatings(table, True, (0.5, 5.0)), {ITEM: synthetic_items(spark, settings)}


def write_ratings(
    run: RunDirectory,
    split: DataFrame,
    checked: CheckedRatings,
    known: dict[Side, DataFrame],
    origin: str,
) -> IngestRecord:
    """Write the parts of the ``split``, the quarantine, users and items; what became of all
    rows."""
    split = persist(split)
    try:
        counts = {row[SPLIT]: row["count"] for row in split.groupBy(SPLIT).count().collect()}
        if not counts.get("train"):
            raise DataError(
                f"no rating is left for training: the split is {counts or 'empty'} of "
                f"{checked.n_read} rows read; lower split.test and split.validation"
            )
        # Of the rows and of the part that each is in.
        hashed = F.xxhash64(USER, ITEM, RATING, TIMESTAMP, SPLIT)
        row = split.agg(F.hex(F.bit_xor(hashed)), F.min(TIMESTAMP), F.max(TIMESTAMP)).first()
        assert row is not None
        fingerprint = row[0]
        _check_sum(checked, counts)
        with run.output("ratings", identity=fingerprint) as target:
            for part in PARTS:
                rows = split.where(F.col(SPLIT) == part).drop(SPLIT)
                files.write_parquet(rows, f"{target}/{part}")
        with run.output("description", ("ratings",)) as target:
            files.write_tables(describe(split).tables(), target)
            n_ids = files.read_pandas(f"{target}/activity").groupby("side")["n_ids"].sum()
            record = IngestRecord(
                origin=origin,
                rows_read=checked.n_read,
                rows_clean=sum(counts.values()),
                users=int(n_ids[USER]),
                items=int(n_ids[ITEM]),
                rows_merged=checked.n_merged,
                bad_rows=checked.bad_rows,
                split={part: counts.get(part, 0) for part in PARTS},
                fingerprint=fingerprint,
                first_time=row[1],
                last_time=row[2],
                scale=checked.scale,
            )
            unit = run.config.data.unit
            write_description(
                run.config.run.name, record.model_dump(), target, f"{target}/index.html", unit
            )
    finally:
        unpersist(split)
    with run.output("quarantine", ("ratings",)) as target:
        files.write_parquet(checked.quarantine.coalesce(1), target)
    for side in Side:
        if side in known:
            with run.output(f"{side}s", ("ratings",)) as target:
                _write_known(known[side], side, split.schema[side].dataType, target)
        elif run.config.run.overwrite:
            # Those of an earlier source.
            files.remove(run.of(f"{side}s"))
    files.write_text(run.of("ingest.json"), record.model_dump_json(indent=2) + "\n")
    return record


def _write_known(table: DataFrame, side: Side, kind: DataType, target: str) -> None:
    """Write a table of users or items, its ids of the type ``kind`` that those of the ratings have,
    so that tables can be joined, and each once."""
    ids = F.col(side).try_cast(kind).alias(side)
    rows = table.coalesce(1).select(ids, *[column(n) for n in table.columns if n != side])
    kept = rows.where(F.col(side).isNotNull()).dropDuplicates([side])
    files.write_parquet(kept, target)
    # With the ids, as Spark will not read a column of malformed lines alone.
    row = table.agg(F.count("*"), F.count_distinct(column(side).try_cast(kind))).collect()[0]
    n_left_out = row[0] - row[1]
    if n_left_out:
        logger.warning(
            "%d rows of the table of %ss are left out: their id is missing, is no %s as in the "
            "ratings, or stands in an earlier row", n_left_out, side, kind.simpleString()
        )  # fmt: skip


def _check_sum(checked: CheckedRatings, counts: dict[str, int]) -> None:
    """Every row that was read is in one place."""
    kept, bad = sum(counts.values()), sum(checked.bad_rows.values())
    if checked.n_read != kept + bad + checked.n_merged:
        raise DataError(
            f"{checked.n_read} rows were read, but {kept} were kept, {bad} put in quarantine and "
            f"{checked.n_merged} merged: the source gave other rows when it was read again; "
            "copy it to a place where nobody writes"
        )
