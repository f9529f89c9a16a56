"""One prediction as a sum of parts."""

import math
from dataclasses import dataclass

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, ITEM, N_RATINGS, USER
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


def most_rated_explained(model: FactorModel) -> DataFrame:
    """The prediction for the most active user and the most rated item, taken apart: part, name,
    value double."""
    ids = []
    for table, side in ((model.user_factors, USER), (model.item_factors, ITEM)):
        row = table.orderBy(F.desc(N_RATINGS), side).select(side).first()
        assert row is not None
        ids.append(row[0])
    parts = explain(model, *ids)
    rows = [
        ("user", str(parts.user), None),
        ("item", str(parts.item), None),
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
