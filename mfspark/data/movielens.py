"""MovieLens in its three layouts, and its copy in RecBole's "atomic files".

100K: ``u.data``, ``u.item`` (latin-1, a column per genre); 1M and 10M: ``ratings.dat``,
``movies.dat`` (``::`` between fields, latin-1 in 1M, UTF-8 in 10M); 20M and later: ``ratings.csv``,
``movies.csv`` (UTF-8). Harper and Konstan, "The MovieLens Datasets", 2015.
"""

from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.columns import GENRES, ITEM, RATING, TIMESTAMP, TITLE, USER, YEAR
from mfspark.data.source import RawRatings
from mfspark.data.text import DOUBLED, MALFORMED, file_path, read_delimited

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRE = "(no genres listed)"
_HALF_STARS, _WHOLE_STARS = (0.5, 5.0), (1.0, 5.0)


def movielens_ratings(spark: SparkSession, folder: Path) -> RawRatings:
    """Ratings of whichever layout the folder holds."""
    columns = [USER, ITEM, RATING, TIMESTAMP]
    if (folder / "u.data").exists():
        table = read_delimited(spark, str(folder / "u.data"), "\t", columns)
        scale = _WHOLE_STARS
    elif (folder / "ratings.dat").exists():
        table = read_delimited(spark, str(folder / "ratings.dat"), "::", columns)
        # 1M has whole stars, 10M half stars; the half-star scale holds both.
        scale = _HALF_STARS
    else:
        names = ["userId", "movieId", "rating", "timestamp"]
        table = read_delimited(
            spark, str(folder / "ratings.csv"), ",", names, header=True, quoting=DOUBLED
        ).withColumnsRenamed(dict(zip(names, columns, strict=True)))
        scale = _HALF_STARS
    return RawRatings(table.select(*columns, file_path().alias("origin"), MALFORMED), True, scale)


def movielens_items(spark: SparkSession, folder: Path) -> DataFrame | None:
    """Titles, years, genres: item, title, year int, genres array<string>; None without a file."""
    if (folder / "u.item").exists():
        return _items_100k(spark, folder / "u.item")
    names = ["item", "title", "genres"]
    if (folder / "movies.dat").exists():
        path = folder / "movies.dat"
        table = read_delimited(spark, str(path), "::", names, encoding=_encoding(path))
    elif (folder / "movies.csv").exists():
        table = read_delimited(
            spark, str(folder / "movies.csv"), ",", ["movieId", "title", "genres"],
            header=True, quoting=DOUBLED,
        ).withColumnRenamed("movieId", ITEM)  # fmt: skip
    else:
        return None
    genres = F.when(F.col(GENRES) == _NO_GENRE, F.array().cast("array<string>")).otherwise(
        F.split(GENRES, r"\|")
    )
    return table.select(ITEM, *title_and_year(F.col(TITLE)), genres.alias(GENRES))


def movielens_users(spark: SparkSession, folder: Path) -> DataFrame | None:
    """What is known of users: user, age int, gender, occupation, zip_code; None without a file.

    In 1M ages are the lowest of a bracket, and occupations numbers without an order.
    """
    if (folder / "u.user").exists():
        names = [USER, "age", "gender", "occupation", "zip_code"]
        table = read_delimited(spark, str(folder / "u.user"), "|", names, encoding="ISO-8859-1")
    elif (folder / "users.dat").exists():
        names = [USER, "gender", "age", "occupation", "zip_code"]
        table = read_delimited(spark, str(folder / "users.dat"), "::", names)
    else:
        return None
    return table.select(
        USER, F.col("age").try_cast("int").alias("age"), "gender", "occupation", "zip_code"
    )


def recbole_ratings(spark: SparkSession, file: Path) -> RawRatings:
    """Ratings of an ``.inter`` file: tab-separated, a typed header, UTF-8."""
    table = _atomic(spark, file)
    return RawRatings(
        table.select(
            F.col("user_id").alias(USER),
            F.col("item_id").alias(ITEM),
            RATING,
            TIMESTAMP,
            file_path().alias("origin"),
            MALFORMED,
        ),
        has_timestamps=True,
        scale=_WHOLE_STARS if file.stem == "ml-100k" else None,
    )


def recbole_items(spark: SparkSession, file: Path) -> DataFrame | None:
    """Titles, years and genres of an ``.item`` file."""
    if not file.exists():
        return None
    table = _atomic(spark, file)
    genres = F.split(F.trim("class"), " +")
    return table.select(
        F.col("item_id").alias(ITEM),
        F.col("movie_title").alias(TITLE),
        # One year of the packaged copy is the letter V.
        F.col("release_year").try_cast("int").alias(YEAR),
        F.when(F.trim("class") != "", genres)
        .otherwise(F.array().cast("array<string>"))
        .alias(GENRES),
    )


def recbole_users(spark: SparkSession, file: Path) -> DataFrame | None:
    """The columns of a ``.user`` file, as text."""
    return _atomic(spark, file).withColumnRenamed("user_id", USER) if file.exists() else None


def _atomic(spark: SparkSession, file: Path) -> DataFrame:
    with file.open(encoding="utf-8") as lines:
        header = lines.readline().rstrip("\r\n").split("\t")
    table = read_delimited(spark, str(file), "\t", header, header=True)
    return table.withColumnsRenamed({name: name.partition(":")[0] for name in header})


def _items_100k(spark: SparkSession, path: Path) -> DataFrame:
    names = [ITEM, TITLE, "released", "video_released", "link", *GENRES_100K]
    table = read_delimited(spark, str(path), "|", names, encoding="ISO-8859-1")
    flagged = [
        F.when(F.col(genre) == "1", F.lit(genre)) for genre in GENRES_100K if genre != "unknown"
    ]
    return table.select(
        ITEM, *title_and_year(F.col(TITLE)), F.array_compact(F.array(*flagged)).alias(GENRES)
    )


def title_and_year(title: Column) -> tuple[Column, Column]:
    """'Toy Story (1995)' → 'Toy Story', 1995; a title without a year keeps all its text."""
    pattern = r"^(.*?)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$"
    year = F.regexp_extract(title, pattern, 2)
    name = F.when(year == "", F.trim(title)).otherwise(F.regexp_extract(title, pattern, 1))
    return name.alias(TITLE), year.try_cast("int").alias(YEAR)


def _encoding(path: Path) -> str:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "ISO-8859-1"
    return "UTF-8"
