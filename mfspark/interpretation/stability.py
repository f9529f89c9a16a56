"""Which factors would be found again, had other users been asked.

The whole fit is made anew on resampled users (the bootstrap, users being the units), and each
factor of the model is matched with one of the refit. What single factors are is a matter of chance
where two of them explain about as much: then any rotation of both fits as well. (Stability as in
Kotliar et al., Identifying gene expression programs with consensus NMF, 2019; the table of
agreement is that of ``compare_factors`` in MOFA2, Argelaguet et al. 2020.)
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.special import pdtr

import mfspark
from mfspark.ids import column
from mfspark.interpretation.agreement import factor_correlations, match
from mfspark.interpretation.coordinates import VARIMAX, in_simple_structure
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel
from mfspark.models.metadata import PenaltyFacts
from mfspark.small_tables import table_of

# |r| from which a factor may be read.
STABLE = 0.8
# Of more ratings those of a share of the users, as large as this, are resampled.
_MOST_RATINGS = 2_000_000
_MOST_COPIES = 8


@dataclass(frozen=True)
class Stability:
    """``of_factors``: factor (from 1), stability (mean |r| of the item factors over the refits),
    lowest, is_stable. ``agreement``: factor, matched (the factor whose match in the refits it is
    held against), r (mean |r| over the refits). Both are empty without factors."""

    of_factors: DataFrame
    agreement: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {"factor_stability": self.of_factors, "factor_agreement": self.agreement}


def factor_stability(
    model: FactorModel, ratings: DataFrame, refits: int, min_ratings: int, seed: int = 0
) -> Stability:
    """Refit ``model`` to ``ratings``, the very rows it was fitted to, ``refits`` times.

    Correlations are over items with ``min_ratings`` in the model, which both fits know; refits are
    rotated as ``model`` is (see :mod:`mfspark.interpretation.coordinates`). Given
    features of users and items are not used again.
    """
    spark = model.sparkSession
    found = [
        _against_a_refit(model, ratings, min_ratings, seed + number)
        for number in range(refits if model.rank else 0)
    ]
    matched = [correlations[:, match(correlations)] for correlations in found]
    mean = np.mean(matched, axis=0) if matched else np.zeros((0, 0))
    own = [np.array([each[n, n] for each in matched]) for n in range(len(mean))]
    rows = [
        (n, float(each.mean()), float(each.min()), bool(each.mean() >= STABLE))
        for n, each in enumerate(own, start=1)
    ]
    pairs = [(i + 1, j + 1, float(r)) for (i, j), r in np.ndenumerate(mean)]
    return Stability(
        table_of(spark, rows, "factor int, stability double, lowest double, is_stable boolean"),
        table_of(spark, pairs, "factor int, matched int, r double"),
    )


def resampled_users(ratings: DataFrame, user: str, seed: int) -> DataFrame:
    """Rows of users who are drawn with replacement: of each one as many copies as a Poisson(1)
    number says, under ids of their own (text)."""
    drawn = F.pmod(F.xxhash64(F.lit(seed), column(user).cast("string")), F.lit(2**53))
    place = drawn / F.lit(float(2**53))
    copies = reduce(
        lambda total, step: total + (place >= float(step)).cast("int"),
        pdtr(np.arange(_MOST_COPIES), 1),
        F.lit(0),
    )
    copy = F.explode(F.sequence(F.lit(1), F.col("_copies"))).alias("_copy")
    rows = ratings.withColumn("_copies", copies).where(F.col("_copies") > 0).select("*", copy)
    own = F.concat_ws("#", column(user).cast("string"), F.col("_copy").cast("string"))
    return rows.withColumn(user, own).drop("_copies", "_copy")


def _penalties(found: PenaltyFacts) -> dict[str, float]:
    """Those of the model. Chosen anew they would be too weak: ratings that are held out to choose
    them are known from the copies of their users."""
    biases = (found.user_bias * found.item_bias) ** 0.5
    return {
        "regParam": found.users, "userRegParam": found.users, "itemRegParam": found.items,
        "biasRegParam": biases,
    }  # fmt: skip


def _against_a_refit(
    model: FactorModel, ratings: DataFrame, min_ratings: int, seed: int
) -> Float64s:
    """|r| of the factors of the model and of a refit on resampled users."""
    meta = model.metadata
    kind = getattr(mfspark, meta.algorithm)
    # The model also has Params of predictions, which its estimator has not.
    names = {param.name for param in kind().params} - {"initialModel"}
    given = {name: value for name, value in meta.hyper_parameters.items() if name in names}
    if meta.penalties is not None:
        given |= _penalties(meta.penalties)
    estimator: Any = kind(**given)
    user = estimator.getOrDefault("userCol")
    share = _MOST_RATINGS / meta.n_ratings
    if share < 1:
        place = F.pmod(F.xxhash64(F.lit("share"), column(user).cast("string")), F.lit(2**53))
        ratings = ratings.where(place < share * 2**53)
    refit: FactorModel = estimator.fit(resampled_users(ratings, user, seed))
    read = in_simple_structure(refit, min_ratings) if meta.rotation.name == VARIMAX else refit
    correlations = factor_correlations(model, read, min_ratings)
    refit.unpersist()
    return correlations
