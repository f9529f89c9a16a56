"""What a fit is made from, and what comes out of it.

Ratings are fitted in a unit of their own: less μ, and divided by the root of their mean square
deviation from μ. So λ and the learning rate mean the same for stars, points and percentages; tables
and history come out in the unit of the ratings.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.history import Learnt
from mfspark.columns import BIAS, FACTORS, ITEM, USER, Side
from mfspark.engine.packed import Summary, Unit
from mfspark.engine.phases import Phases
from mfspark.engine.plan import Workload
from mfspark.errors import DataError
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import PenalisedSettings

logger = logging.getLogger("mfspark")

# Of a search for λ and λ_b, in ratings' standard deviations.
_FIRST_WEIGHT = 1.0
# κ of links, where it is not left to the data: near the best for MovieLens 100K, latest-small and a
# part of 1M.
_LINK_WEIGHT = 8.0


@dataclass(frozen=True)
class Training:
    """What checked ratings are fitted with.

    ``summary``: of the ratings. ``unit``: the one that they are fitted in. ``known``: id, bias and
    factors to start from, of the sides that have them, in that unit, too. ``features``: id and
    columns feature_0, feature_1, … (double, string or array<string>), of the sides that have them.
    """

    summary: Summary
    objective: Objective
    known: dict[Side, DataFrame]
    unit: Unit
    features: dict[Side, DataFrame] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What a unit of the fit is in the unit of the ratings."""
        return self.unit.scale

    def fit(
        self,
        tables: dict[Side, DataFrame],
        learnt: Learnt,
        phases: Phases,
        draws: dict[Side, DataFrame] | None = None,
    ) -> "Fit":
        """What came out, with which the last of the ``phases`` ends."""
        phases.end("tables")
        phases.tell()
        return Fit(
            users=tables[USER],
            items=tables[ITEM],
            learnt=learnt,
            summary=self.summary,
            mean=self.unit.mean,
            scale=self.unit.scale,
            objective=self.objective,
            seconds=phases.seconds,
            draws=draws or {},
        )

    def workload(self, rank: int) -> Workload:
        """The sizes that a plan depends on."""
        found = self.summary
        return Workload(found.n_ratings, found.n_users, found.n_items, rank)


@dataclass(frozen=True)
class Fit:
    """Factor tables (see ``FactorModel`` for their columns), what was learnt beside them, and the
    ratings that they were made from: their summary, μ, the unit in which they were fitted, and what
    was minimised there.

    ``seconds``: by phase (see :mod:`mfspark.engine.phases`). ``draws``: id and draws array<float>,
    by side; of the fits that draw from a posterior.
    """

    users: DataFrame
    items: DataFrame
    learnt: Learnt
    summary: Summary
    mean: float
    scale: float
    objective: Objective
    seconds: dict[str, float] = field(default_factory=dict)
    draws: dict[Side, DataFrame] = field(default_factory=dict)


def prepare(
    summary: Summary,
    rank: int,
    objective: Objective,
    known: dict[Side, DataFrame],
    scale: float | None = None,
) -> Training:
    """Choose the unit of a fit of the ratings that ``summary`` tells of, and bring what it starts
    from into it; no pass.

    ``known``: id, bias and factors to start from, by side. ``scale``: the unit; by default from the
    ratings. Raises ``DataError`` for ratings beyond single precision.
    """
    if rank > summary.n_ratings:
        logger.warning(
            "rank %d is more than the %d ratings can tell, and a fit takes longer for it; set rank "
            "lower",
            rank,
            summary.n_ratings,
        )
    mean = summary.mean if objective.fit_biases else 0.0
    if scale is None:
        scale = math.sqrt(summary.squared_deviation(mean) / summary.n_ratings) or 1.0
    _refuse_far(summary, mean, scale)
    return Training(
        summary=summary,
        objective=objective,
        known={side: _standardised(table, side, scale) for side, table in known.items()},
        unit=Unit(mean, scale),
    )


def _refuse_far(summary: Summary, mean: float, scale: float) -> None:
    farthest = max(summary.lowest, summary.highest, key=lambda rating: abs(rating - mean))
    if abs(farthest - mean) / scale > float(np.finfo(np.float32).max):
        raise DataError(
            f"a rating of {farthest:g} is beyond single precision, in which ratings are fitted; "
            "check the ratings for values far off the scale"
        )


def _standardised(known: DataFrame, side: Side, scale: float) -> DataFrame:
    """Id, bias and factors in the unit that ratings are fitted in."""
    root = F.lit(1 / math.sqrt(scale))
    return known.select(
        side,
        (F.col(BIAS) / F.lit(scale)).cast("float").alias(BIAS),
        F.transform(FACTORS, lambda value: (value * root).cast("float")).alias(FACTORS),
    )


def objective_of(settings: PenalisedSettings) -> Objective:
    """What a fit minimises; its ratings are given less μ. Weights that are left to the data begin
    at ``_FIRST_WEIGHT``."""

    def weight(given: float | str) -> float:
        return _FIRST_WEIGHT if isinstance(given, str) else given

    def penalty(own: float | None) -> Penalty:
        factors = weight(settings.reg_param) if own is None else own
        return Penalty(factors, weight(settings.bias_reg_param), settings.reg_exponent)

    return Objective(
        mean=0.0,
        fit_biases=settings.fit_biases,
        users=penalty(settings.user_reg_param),
        items=penalty(settings.item_reg_param),
        link_weight=_LINK_WEIGHT if settings.implicit_features else None,
    )


class AutoWeights(NamedTuple):
    """The sides whose λ is left to the data, and whether the λ_b and κ are."""

    factors: tuple[Side, ...]
    biases: bool
    link: bool


def auto_weights(settings: PenalisedSettings) -> AutoWeights:
    """Which weights ``settings`` leave to the data."""
    own = {USER: settings.user_reg_param, ITEM: settings.item_reg_param}
    factors = tuple(side for side in Side if own[side] is None)
    if settings.reg_param != "auto" or not settings.rank:
        factors = ()
    return AutoWeights(
        factors=factors,
        biases=settings.bias_reg_param == "auto" and settings.fit_biases,
        link=settings.reg_param == "auto" and settings.implicit_features,
    )
