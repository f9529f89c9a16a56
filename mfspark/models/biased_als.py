"""``BiasedALS``: the estimator."""

from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from typing_extensions import Unpack

from mfspark.engine.fit_als import fit_als
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import (
    Factorisation,
    after_refit,
    for_refit,
    known_factors,
    model_of,
    select_ratings,
)
from mfspark.models.params import BiasedALSArguments, BiasedALSParams
from mfspark.settings import ALSSettings


class BiasedALS(
    Factorisation, BiasedALSParams, DefaultParamsReadable["BiasedALS"], DefaultParamsWritable
):
    """Matrix factorisation with user and item biases by block-partitioned least squares.

    Model: r̂(u, i) = μ + b_u + b_i + p_u·q_i. Minimised over all observed pairs, with n ratings of
    a user or item:

        Σ (r − r̂)² + Σ_u n_u^ν (λ|p_u|² + λ_b b_u²) + Σ_i n_i^ν (λ|q_i|² + λ_b b_i²)

    ν = ``regExponent``, λ = ``regParam``, λ_b = ``biasRegParam``. With ``fitBiases=False`` and
    ``regExponent=1`` this is the objective of ``pyspark.ml.recommendation.ALS`` (Zhou et al. 2008).

    With ``implicitFeatures`` rows are drawn not to zero, but to what it says of a user which items
    they rated at all, and of an item who rated it: |p_u − βᵀ f_u|² in place of |p_u|², f_u having
    1/√n_u for each of the n_u items (as in SVD++, Koren 2008), and β being learnt with the rows.
    The fit is then made in one task.

    ``fit`` takes a DataFrame with a user column, an item column (strings or integers) and a numeric
    rating column, and returns a :class:`FactorModel`. Results depend on data and seed, not on the
    partitioning or the number of blocks (to float32 rounding). Nothing is collected to the driver.

    >>> model = BiasedALS(rank=16, seed=1).fit(ratings)  # doctest: +SKIP
    >>> model.transform(pairs)  # doctest: +SKIP
    """

    def __init__(self, **arguments: Unpack[BiasedALSArguments]) -> None:
        super().__init__(**arguments)

    def setParams(self, **arguments: Unpack[BiasedALSArguments]) -> "BiasedALS":
        """Set Params by name; ``ConfigError`` for a bad value, ``TypeError`` for a bad name."""
        self.set_params(arguments)
        return self

    def settings(self) -> ALSSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        settings = super().settings()
        assert isinstance(settings, ALSSettings)
        return settings

    def _fit(self, dataset: DataFrame) -> FactorModel:
        settings = self.settings()
        ratings = select_ratings(dataset, settings, settings.validation_indicator_col)
        known = known_factors(ratings, settings, settings.fit_biases)
        fit = fit_als(ratings, settings, known, snapshots=self.snapshots("fit", settings))
        if settings.refit:
            rows, as_long = for_refit(ratings, settings, fit)
            snapshots = self.snapshots("refit", as_long)
            again = fit_als(rows, as_long, known, objective=fit.objective, snapshots=snapshots)
            fit = after_refit(fit, again)
        return self._copyValues(model_of(fit, dataset, settings, settings.rank, type(self)))
