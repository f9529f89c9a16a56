"""One prediction as a sum of parts."""

import math
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, ITEM, N_RATINGS, RATING, TITLE, USER
from mfspark.errors import DataError
from mfspark.models.factor_model import FactorModel


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


def example_explained(model: FactorModel, described: DataFrame, test: DataFrame) -> DataFrame:
    """One prediction taken apart: part, name, value double, with the rating that was given.

    Of the held-out ratings that of a user with as many ratings as most, for the item with most
    ratings; without any, the most active user and the most rated item, whose rating is null.
    ``described``: item and title.
    """
    users = model.user_factors.select(USER, F.col(N_RATINGS).alias("n_user"))
    items = model.item_factors.where(F.col(N_RATINGS) > 0).select(ITEM, F.col(N_RATINGS).alias("n"))
    rated = users.where(F.col("n_user") > 0)
    median = rated.agg(F.percentile_approx("n_user", 0.5)).collect()[0][0]
    pairs = test.join(rated, USER).join(items, ITEM)
    distance = F.abs(F.col("n_user") - F.lit(median))
    pair = pairs.orderBy(distance, F.desc("n"), USER, ITEM).select(USER, ITEM, RATING).first()
    if pair is None:
        user = rated.orderBy(F.desc("n_user"), USER).collect()[0][0]
        item = items.orderBy(F.desc("n"), ITEM).collect()[0][0]
        rating = None
    else:
        user, item, rating = pair
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
    return model.sparkSession.createDataFrame(rows, "part string, name string, value double")


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
