"""Groups of test rows by what is known of users and items."""

from collections import defaultdict
from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, DataType, NumericType, StringType

from mfspark.columns import Side
from mfspark.evaluation.slices import UNKNOWN, classes_of_equal_size
from mfspark.ids import column

OTHER = "other"
# Words, or tags, of a column that are classes of their own; the rest are one class together.
_MOST_WORDS = 20
# Up to so many different numbers are classes of their own.
_MOST_NUMBERS = 10
_N_CLASSES = 5


def add_metadata_slices(
    sliced: DataFrame, pairs: DataFrame, known: Mapping[Side, DataFrame]
) -> DataFrame:
    """Add to ``slices`` (see :func:`mfspark.evaluation.slices.add_slices`) those by ``known``.

    ``known``: by side the id and columns of numbers, text, truth values or lists of text; others
    are passed over. A slice is called by side and column: ``item year``. Numbers are in fifths,
    or each for itself where they are few; text is as it is; lists are in the class of each of their
    elements. ``pairs``: user and item of the same rows, from which classes are made.
    """
    joined = sliced
    texts: dict[str, Column] = {}
    numbers: dict[str, Column] = {}
    few: dict[str, Column] = {}
    for side, table in known.items():
        names = {name: f"{side} {name}" for name in table.columns if name != side}
        renamed = table.select(side, *[column(name).alias(own) for name, own in names.items()])
        joined, pairs = (rows.join(renamed, side, "left") for rows in (joined, pairs))
        kinds = {own: renamed.schema[own].dataType for own in names.values()}
        texts |= {own: _words(column(own), kind) for own, kind in kinds.items() if _is_text(kind)}
        numeric = [own for own, kind in kinds.items() if isinstance(kind, NumericType)]
        few |= _few_numbers(renamed, numeric)
        numbers |= {own: column(own).cast("double") for own in numeric if own not in few}
    words = _most_frequent(pairs, texts)
    classes = classes_of_equal_size(pairs, numbers, _N_CLASSES, "{:.4g}".format)
    entries = [
        *[_of_words(own, found, words[own]) for own, found in texts.items() if words[own]],
        *[F.array(_entry(own, label)) for own, label in (few | classes).items()],
    ]
    return joined.select(
        *[sliced[name] for name in sliced.columns if name != "slices"],
        F.concat("slices", *entries).alias("slices"),
    )


def _few_numbers(table: DataFrame, names: list[str]) -> dict[str, Column]:
    """Classes by columns of which there are few different numbers."""
    if not names:
        return {}
    row = table.agg(*[F.approx_count_distinct(column(name)) for name in names]).collect()[0]
    chosen = [name for name, n in zip(names, row, strict=True) if 0 < n <= _MOST_NUMBERS]
    if not chosen:
        return {}
    found = table.agg(*[F.collect_set(column(name).cast("double")) for name in chosen]).collect()[0]
    labels = {}
    for name, values in zip(chosen, found, strict=True):
        label = F.lit(UNKNOWN)
        for value in values:
            is_value = column(name).cast("double") == value
            label = F.when(is_value, f"{value:.4g}").otherwise(label)
        labels[name] = label
    return labels


def has_classes(table: DataFrame, name: str) -> bool:
    """Whether a column of a table of users or items divides them into classes: numbers, truth
    values, lists of text, and text that is no name of each of them."""
    kind = table.schema[name].dataType
    if not isinstance(kind, StringType):
        return _is_text(kind) or isinstance(kind, NumericType)
    row = table.agg(F.approx_count_distinct(column(name))).collect()[0]
    return bool(1 < row[0] <= 2 * _MOST_WORDS)


def _is_text(kind: DataType) -> bool:
    is_list = isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType)
    return is_list or isinstance(kind, StringType | BooleanType)


def _words(value: Column, kind: DataType) -> Column:
    """The words of a value, each once, as a list; empty where nothing is known."""
    if isinstance(kind, ArrayType):
        words = F.array_distinct(value)
    else:
        words = F.array(value.cast("string"))
    return F.coalesce(F.array_compact(words), F.array().cast("array<string>"))


def _most_frequent(rows: DataFrame, texts: dict[str, Column]) -> dict[str, list[str]]:
    """The most frequent words of each column, in the order of the alphabet."""
    if not texts:
        return {}
    parts = [
        rows.select(F.lit(own).alias("own"), F.explode(words).alias("word"))
        for own, words in texts.items()
    ]
    counts = reduce(DataFrame.unionByName, parts).groupBy("own", "word").count()
    # The highest first; ties by the alphabet.
    ordered = F.sort_array(F.collect_list(F.struct(-F.col("count"), F.col("word"))))
    top = counts.groupBy("own").agg(F.slice(ordered, 1, _MOST_WORDS)["word"].alias("words"))
    found: dict[str, list[str]] = defaultdict(list)
    found.update({row["own"]: sorted(row["words"]) for row in top.collect()})
    return found


def _of_words(own: str, words: Column, frequent: list[str]) -> Column:
    """Entries of a row: its frequent words, else other, else unknown."""
    own_frequent = F.array_intersect(words, F.lit(frequent))
    entries = F.transform(own_frequent, lambda word: _entry(own, word))
    label = F.when(F.size(words) == 0, UNKNOWN).otherwise(OTHER)
    return F.when(F.size(own_frequent) > 0, entries).otherwise(F.array(_entry(own, label)))


def _entry(own: str, value: Column) -> Column:
    return F.struct(F.lit(own).alias("slice"), value.alias("value"))
