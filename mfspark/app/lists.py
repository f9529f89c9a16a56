"""What the recommend job says of its lists, and the titles in them."""

from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, N_RATINGS, RATING, TITLE, Side
from mfspark.models.factor_model import FactorModel

_LISTS, _ENTRY, _PLACE = "recommendations", "entry", "place"
# Entries with fewer ratings are counted.
_FEW = 10


class ListFacts(NamedTuple):
    """Of top-N lists: how many, what share of the candidates is on one, ratings of the candidate of
    an entry (the median, and the share of entries with few), and the share of the lists that hold
    the most listed candidate."""

    lists: int
    coverage: float
    median_ratings: float
    few_ratings: float
    most_listed: float

    def lines(self, side: Side) -> list[str]:
        """For a console; ``side`` is that of the candidates."""
        return [
            f"{self.lists:,} lists, with {self.coverage:.1%} of the {side}s on one or more",
            f"ratings of a listed {side}: {self.median_ratings:g} (median), "
            f"fewer than {_FEW} in {self.few_ratings:.1%} of the entries",
            f"the most listed {side} is on {self.most_listed:.1%} of the lists",
        ]


def with_titles(lists: DataFrame, items: DataFrame) -> DataFrame:
    """Lists of items whose entries are item, title (null where ``items`` has none), rating."""
    owner = lists.columns[0]
    titles = items.select(F.col(ITEM).cast("string").alias("_key"), TITLE).dropDuplicates(["_key"])
    # Outer, since of whom nothing is left to recommend has an empty list.
    entries = lists.select(owner, F.posexplode_outer(_LISTS).alias(_PLACE, _ENTRY))
    named = entries.join(titles, F.col(f"{_ENTRY}.{ITEM}").cast("string") == F.col("_key"), "left")
    entry = F.struct(_PLACE, f"{_ENTRY}.{ITEM}", TITLE, f"{_ENTRY}.{RATING}")
    in_order = F.array_sort(F.collect_list(F.when(F.col(_PLACE).isNotNull(), entry)))

    def without_place(each: Column) -> Column:
        return F.struct(*[each[name].alias(name) for name in (ITEM, TITLE, RATING)])

    return named.groupBy(owner).agg(F.transform(in_order, without_place).alias(_LISTS))


def facts_of(lists: DataFrame, model: FactorModel, side: Side) -> ListFacts:
    """``side``: that of the candidates."""
    table = model.item_factors if side == ITEM else model.user_factors
    listed = lists.select(F.explode(_LISTS).alias(_ENTRY)).groupBy(
        F.col(f"{_ENTRY}.{side}").alias(side)
    )
    counted = listed.agg(F.count("*").alias("n")).join(table.select(side, N_RATINGS), side)
    n_lists = lists.count()
    row = counted.agg(
        F.count("*"),
        F.sum("n"),
        F.sum(F.when(F.col(N_RATINGS) < _FEW, F.col("n")).otherwise(0)),
        F.max("n"),
        F.expr(f"percentile({N_RATINGS}, 0.5, n)"),
    ).first()
    if row is None or not row[0]:
        return ListFacts(n_lists, 0.0, 0.0, 0.0, 0.0)
    n_candidates = model.metadata.n_rows(side)
    return ListFacts(n_lists, row[0] / n_candidates, row[4], row[2] / row[1], row[3] / n_lists)
