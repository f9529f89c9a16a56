"""One vocabulary of column names, shared by every table that mfspark reads or writes."""

from enum import Enum


class Side(str, Enum):
    """Users or items; as text, the name of the column of their ids."""

    USER = "user"
    ITEM = "item"

    __str__ = str.__str__
    __repr__ = str.__repr__

    @property
    def other(self) -> "Side":
        """The side that this one is rated by, or rates."""
        return Side.ITEM if self == Side.USER else Side.USER


USER, ITEM = Side.USER, Side.ITEM
RATING = "rating"
TIMESTAMP = "timestamp"
IS_VALIDATION = "is_validation"
PREDICTION = "prediction"

N_RATINGS = "n_ratings"
BIAS = "bias"
# In place of the bias, where the other id of a pair has no rating.
COLD_BIAS = "cold_bias"
FACTORS = "factors"
DRAWS = "draws"
# With a number behind it: columns of features on their way into a fit.
FEATURE = "feature_"

TITLE = "title"
YEAR = "year"
GENRES = "genres"

REASON = "reason"
ORIGIN = "origin"
