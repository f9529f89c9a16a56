"""One vocabulary of column names, shared by every table that mfspark reads or writes."""

USER = "user"
ITEM = "item"
RATING = "rating"
TIMESTAMP = "timestamp"
HELD_OUT = "held_out"
PREDICTION = "prediction"

N_RATINGS = "n_ratings"
BIAS = "bias"
FACTORS = "factors"

TITLE = "title"
YEAR = "year"
GENRES = "genres"

REASON = "reason"
ORIGIN = "origin"
