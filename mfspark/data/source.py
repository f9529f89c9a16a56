"""What a table of ratings looks like before it is checked, and where it comes from."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import DataFrame

from mfspark.columns import GENRES, ITEM, RATING, TIMESTAMP, TITLE, USER, YEAR

Format = Literal["auto", "movielens", "netflix", "recbole", "csv", "tsv", "parquet", "json"]
IdType = Literal["auto", "string", "long"]


class ColumnMapping(BaseModel):
    """Names of the columns in a CSV, TSV, Parquet or JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(USER, description="column of user ids")
    item: str = Field(ITEM, description="column of item ids")
    rating: str = Field(RATING, description="column of ratings")
    timestamp: str | None = Field(
        None, description="column of times (Unix seconds, date or timestamp), if there is one"
    )


class ItemColumns(BaseModel):
    """Names of the columns in a table of items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str = Field(ITEM, description="column of item ids in the table of items")
    title: str = Field(TITLE, description="column of titles")
    year: str = Field(
        YEAR, description="column of years; without it they are taken from titles: Alien (1979)"
    )
    genres: str = Field(
        GENRES,
        description="column of genres; in text A|B|C, or with semicolons or commas where there is "
        "no | in the column",
    )


class UserColumns(BaseModel):
    """Names of the columns in a table of users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(USER, description="column of user ids in the table of users")


@dataclass(frozen=True)
class RawRatings:
    """Ratings as read.

    ``table``: user, item, rating, timestamp (text or typed, as in the file), origin string (the
    file), malformed string (the line, when it could not be split into fields; else null).
    ``scale``: lowest and highest rating the format allows, when it says so. ``has_fields``: whether
    the format keeps fields apart by itself, as Parquet and tables do, so that no id can be a piece
    of something longer.
    """

    table: DataFrame
    has_timestamps: bool
    scale: tuple[float, float] | None = None
    has_fields: bool = False


RAW_COLUMNS = (USER, ITEM, RATING, TIMESTAMP)
