"""Netflix Prize ratings: ``mv_*.txt`` (a file per film) and ``combined_data_*.txt`` (many).

A line ``1234:`` names the film of the lines ``user,rating,date`` below it. Spark cuts big files
into splits, so a split may begin below the line that names its film. Each split is therefore read
by itself first; the film that is open at its end is handed to the splits after it.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from mfspark import files
from mfspark.columns import ITEM, RATING, TIMESTAMP, TITLE, USER, YEAR
from mfspark.data.source import RawRatings
from mfspark.data.text import MALFORMED, file_path

_SPLIT = ("origin", "split")


def netflix_ratings(spark: SparkSession, paths: list[Path]) -> RawRatings:
    """Ratings of all files; ratings are whole stars, times are days."""
    lines = spark.read.text([files.to_read(str(path)) for path in paths]).select(
        file_path().alias("origin"),
        F.col("_metadata.file_block_start").alias("split"),
        F.trim("value").alias("line"),
    )
    titled = lines.mapInArrow(
        _fill_film_in_split,
        "origin string, split long, line string, place long, film string, is_film boolean",
    )
    opened = titled.where("is_film").groupBy(*_SPLIT).agg(F.max_by("film", "place").alias("film"))
    splits = lines.select(*_SPLIT).distinct().join(opened, on=list(_SPLIT), how="left")
    earlier = (
        Window.partitionBy("origin").orderBy("split").rowsBetween(Window.unboundedPreceding, -1)
    )
    inherited = splits.select(
        *_SPLIT, F.last("film", ignorenulls=True).over(earlier).alias("inherited")
    )
    fields = F.split("line", ",")
    whole = F.size(fields) == 3
    table = (
        titled.where(~F.col("is_film") & (F.col("line") != ""))
        .join(F.broadcast(inherited), on=list(_SPLIT), how="left")
        .select(
            F.when(whole, fields[0]).alias(USER),
            F.coalesce("film", "inherited").alias(ITEM),
            F.when(whole, fields[1]).alias(RATING),
            F.when(whole, fields[2]).alias(TIMESTAMP),
            "origin",
            F.when(~whole, F.col("line")).alias(MALFORMED),
        )
    )
    return RawRatings(table, has_timestamps=True, scale=(1.0, 5.0))


def netflix_items(spark: SparkSession, folder: Path) -> DataFrame | None:
    """Titles and years from ``movie_titles.csv`` or ``.txt`` (latin-1, commas inside titles)."""
    for name in ("movie_titles.csv", "movie_titles.txt"):
        if (folder / name).exists():
            lines = (
                spark.read.option("encoding", "ISO-8859-1")
                .option("sep", "\u0001")
                .csv(files.to_read(str(folder / name)), schema="line string")
            )
            fields = F.split("line", ",", 3)
            return lines.select(
                fields[0].alias(ITEM),
                fields[2].alias(TITLE),
                fields[1].try_cast("int").alias(YEAR),
                F.array().cast("array<string>").alias("genres"),
            )
    return None


def _fill_film_in_split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Give each line the film named above it in the same split, null before the first one."""
    split, film, place = None, None, 0
    for batch in batches:
        rows = []
        for origin, start, line in zip(*(part.to_pylist() for part in batch.columns), strict=True):
            if (origin, start) != split:
                split, film, place = (origin, start), None, 0
            is_film = line.endswith(":")
            film = line[:-1] if is_film else film
            rows.append((place, film, is_film))
            place += 1
        places, films, headings = zip(*rows, strict=True) if rows else ((), (), ())
        yield pa.RecordBatch.from_arrays(
            [
                *batch.columns,
                pa.array(places, pa.int64()),
                pa.array(films, pa.string()),
                pa.array(headings, pa.bool_()),
            ],
            names=[*batch.schema.names, "place", "film", "is_film"],
        )
