"""What differs between two models of the same users and items."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, USER
from mfspark.interpretation.user_groups import factors_of_population
from mfspark.models.factor_model import FactorModel

_MOST_USERS = 1000


def item_changes(before: FactorModel, after: FactorModel, n: int) -> DataFrame:
    """The ``n`` items, at most, whose mean prediction over all users has changed most: item,
    n_ratings_before and n_ratings_after long (null for an item that is not in the model),
    mean_before and mean_after double, in units of the ratings.

    The mean over the users of a model of r̂ = μ + b_u + b_i + p_u·q_i is μ + mean(b_u) + b_i +
    mean(p_u)·q_i, whatever the coordinates of the factors are.
    """
    tables = [
        model.item_factors.select(
            ITEM, F.col(N_RATINGS).alias(f"{N_RATINGS}_{name}"),
            _mean_prediction(model).alias(f"mean_{name}"),
        )
        for name, model in (("before", before), ("after", after))
    ]  # fmt: skip
    change = F.abs(F.col("mean_after") - F.col("mean_before"))
    return tables[0].join(tables[1], ITEM, "outer").orderBy(change.desc_nulls_last(), ITEM).limit(n)


def _mean_prediction(model: FactorModel) -> Column:
    row = model.user_factors.agg(F.avg(BIAS)).first()
    assert row is not None
    constant = model.metadata.global_mean + row[0] + F.col(BIAS).cast("double")
    means = factors_of_population(model.user_factors)
    return sum((F.col(FACTORS)[k] * F.lit(mean) for k, (mean, _) in means.items()), start=constant)


def kept_lists(
    before: FactorModel, after: FactorModel, users: DataFrame, n: int = 10
) -> float | None:
    """The mean share of the items in a user's list of ``n`` that are still in it, for the
    ``users`` (user) that both models know, at most 1000 of them; None if there are none.

    Items that were rated are not left out: lists change by what the models are, not by what was
    seen.
    """
    known = users.distinct()
    for model in (before, after):
        known = known.join(model.user_factors.select(USER), USER, "semi")
    asked = known.orderBy(F.xxhash64(USER), USER).limit(_MOST_USERS)
    lists = [
        model.recommendForUserSubset(asked, n).select(
            USER, F.expr(f"transform(recommendations, r -> r.{ITEM})").alias(name)
        )
        for name, model in (("old", before), ("new", after))
    ]
    share = F.size(F.array_intersect("old", "new")) / F.size("old")
    row = lists[0].join(lists[1], USER).agg(F.avg(share)).first()
    assert row is not None
    found: float | None = row[0]
    return found
