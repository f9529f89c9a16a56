"""One prediction as a sum of parts: of the model's terms, and of the user's own ratings."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, ITEM, N_RATINGS, RATING, TITLE, USER
from mfspark.errors import DataError
from mfspark.kernels.arrays import Float64s
from mfspark.kernels.influence import solution_parts
from mfspark.models.factor_model import FactorModel
from mfspark.models.fold_in import fault_of_rows, fold_in_of
from mfspark.small_tables import table_of


@dataclass(frozen=True)
class Explanation:
    """r̂ = μ + b_u + b_i + Σ_f p_uf·q_if for one user and item.

    ``user_bias`` is b_u, or, where the item has no rating, the cold bias (see ``FactorModel``);
    ``item_bias`` alike. ``contributions[f]`` is p_uf·q_if. The parts add up to ``prediction``,
    which is the number that ``FactorModel.transform`` gives (before clipping, and with the
    ``coldStartStrategy`` features for ids without ratings), to the last bit.
    """

    user: object
    item: object
    global_mean: float
    user_bias: float
    item_bias: float
    contributions: tuple[float, ...]

    @property
    def prediction(self) -> float:
        """The sum of the parts, in the order in which the model adds them."""
        interaction = 0.0
        for contribution in self.contributions:
            interaction += contribution
        return self.global_mean + self.user_bias + self.item_bias + interaction


def explain(model: FactorModel, user: object, item: object) -> Explanation:
    """Take one prediction apart; ``DataError`` when the model has no factors of user or item."""
    p, q = _row(model.user_factors, USER, user), _row(model.item_factors, ITEM, item)
    parts = tuple(a * b for a, b in zip(p[FACTORS], q[FACTORS], strict=True))
    assert all(map(math.isfinite, parts))
    biases = _bias(p, beside=q), _bias(q, beside=p)
    return Explanation(user, item, model.global_mean, *biases, parts)


@dataclass(frozen=True)
class UserParts:
    """What each of a user's n training ratings adds to the user's factors and bias.

    ``ratings``: item, rating, title where known, n rows. ``parts`` float64 [n, rank + 1]: the sum
    of the rows is the ridge solution [p, b_u] with item factors and biases as the model has them.
    ``unsettled`` [rank + 1]: by how much the model's [p, b_u] differs from it, because the last
    half-step of the fit moved the items; it goes to zero as the fit converges.
    """

    ratings: pd.DataFrame
    parts: Float64s
    unsettled: Float64s


def parts_of_user(model: FactorModel, train: DataFrame, user: object) -> UserParts:
    """Divide a user's factors and bias among the user's ratings; see
    :mod:`mfspark.kernels.influence`.

    ``train``: the ratings (user, item, rating) that the model was fitted to. ``DataError`` for a
    model without ridge solutions (of SGD, of a posterior, of features), or without ratings.
    """
    if fault := _fault_of_influences(model):
        raise DataError(fault)
    meta = model.metadata
    solved = _row(model.user_factors, USER, user)
    own = train.where(F.col(USER) == F.lit(user)).select(ITEM, RATING)
    factors = model.item_factors.select(ITEM, BIAS, FACTORS)
    rated: Any = own.join(factors, ITEM).orderBy(ITEM).toPandas()
    if not len(rated):
        raise DataError(
            f"user {user!r} has no ratings among those given; pass the ratings that the model was "
            "fitted to"
        )
    fit_biases = meta.hyper_parameters["fitBiases"]
    fixed = np.stack(rated[FACTORS].to_list()).astype(np.float64).reshape(len(rated), meta.rank)
    # A bias is the weight of a feature that is 1 for all items.
    fixed = np.column_stack([fixed, np.full(len(rated), float(fit_biases))])
    targets = rated[RATING].to_numpy(np.float64) - model.global_mean - rated[BIAS].to_numpy()
    weight = len(rated) ** meta.hyper_parameters["regExponent"]
    penalty = weight * fold_in_of(meta).user_penalty()
    parts = solution_parts(fixed, targets, penalty)
    row = np.array([*solved[FACTORS], solved[BIAS]], np.float64)
    return UserParts(rated[[ITEM, RATING]], parts, row - parts.sum(axis=0))


def _fault_of_influences(model: FactorModel) -> str | None:
    """Why the model's user factors cannot be divided among ratings; None if they can."""
    if model.metadata.algorithm == "BiasedSGD":
        return (
            "influences of ratings are those of ridge solutions, which the factors of BiasedSGD "
            "only come near to; fit BiasedALS"
        )
    return fault_of_rows(model.metadata)


def influences(
    model: FactorModel, train: DataFrame, user: object, item: object
) -> tuple[pd.DataFrame, float]:
    """What each of the user's ratings adds to the prediction for ``item``, largest sizes first.

    Columns item, rating, influence (in the unit of the ratings). μ + b_i, the influences and the
    number beside the table, which is what the fit had left unsettled (see ``UserParts``), add up to
    the prediction. Raises as :func:`parts_of_user` does, and as :func:`explain`.
    """
    found = parts_of_user(model, train, user)
    q = np.array([*_row(model.item_factors, ITEM, item)[FACTORS], 1.0])
    table = found.ratings.assign(influence=found.parts @ q)
    order = table["influence"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True), float(found.unsettled @ q)


@dataclass(frozen=True)
class Example:
    """``explanation``: part, name, value double, of one prediction, with the rating that was given.

    ``explanation_ratings``: place, item, title, rating, influence: what the user's own ratings add
    to it, largest sizes first; empty for models that have no ridge solutions.
    """

    explanation: DataFrame
    explanation_ratings: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def example_explained(
    model: FactorModel, described: DataFrame, train: DataFrame, test: DataFrame
) -> Example:
    """One prediction taken apart.

    Of the held-out ratings that of a user with as many ratings as most, for the item with most
    ratings; without any, the most active user and the most rated item, whose rating is null.
    ``described``: item and title.
    """
    user, item, rating = _example(model, test)
    parts = explain(model, user, item)
    title = described.where(F.col(ITEM) == F.lit(item)).select(TITLE).first()
    rows = [
        ("user", str(user), None),
        ("item", str(item), None),
        ("title", title and title[0], None),
        ("rating", "r", None if rating is None else float(rating)),
        ("global mean", "μ", parts.global_mean),
        ("user bias", "b_u", parts.user_bias),
        ("item bias", "b_i", parts.item_bias),
        *[("factor", str(n), value) for n, value in enumerate(parts.contributions, start=1)],
        ("prediction", "r̂", parts.prediction),
    ]
    spark = model.sparkSession
    own: list[tuple[int, Any, float, float]] = []
    if _fault_of_influences(model) is None:
        table, unsettled = influences(model, train, user, item)
        rows.append(("unsettled", "last half-step", unsettled))
        own = [(n, *row) for n, row in enumerate(table.itertuples(index=False, name=None), start=1)]
    kind = model.item_factors.schema[ITEM].dataType.simpleString()
    ratings = table_of(spark, own, f"place int, {ITEM} {kind}, {RATING} double, influence double")
    return Example(
        table_of(spark, rows, "part string, name string, value double"),
        ratings.join(described.select(ITEM, TITLE), ITEM, "left")
        .select("place", ITEM, TITLE, RATING, "influence")
        .orderBy("place"),
    )


def _example(model: FactorModel, test: DataFrame) -> tuple[Any, Any, float | None]:
    """User, item and rating of the prediction that is taken apart."""
    users = model.user_factors.select(USER, F.col(N_RATINGS).alias("n_user"))
    items = model.item_factors.where(F.col(N_RATINGS) > 0).select(ITEM, F.col(N_RATINGS).alias("n"))
    rated = users.where(F.col("n_user") > 0)
    median = rated.agg(F.percentile_approx("n_user", 0.5)).collect()[0][0]
    pairs = test.join(rated, USER).join(items, ITEM)
    distance = F.abs(F.col("n_user") - F.lit(median))
    pair = pairs.orderBy(distance, F.desc("n"), USER, ITEM).select(USER, ITEM, RATING).first()
    if pair is not None:
        return pair[0], pair[1], pair[2]
    user = rated.orderBy(F.desc("n_user"), USER).collect()[0][0]
    item = items.orderBy(F.desc("n"), ITEM).collect()[0][0]
    return user, item, None


def _bias(row: Row, beside: Row) -> float:
    is_cold = COLD_BIAS in row and not beside[N_RATINGS]
    bias: float = row[COLD_BIAS if is_cold else BIAS]
    return bias


def _row(table: DataFrame, side: str, id_: object) -> Row:
    row = table.where(F.col(side) == F.lit(id_)).first()
    if row is None:
        raise DataError(
            f"{side} {id_!r} has no training rating, so its prediction has no factors to explain; "
            f"choose one of the ids in {side}_factors"
        )
    return row
