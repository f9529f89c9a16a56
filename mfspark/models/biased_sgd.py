"""``BiasedSGD``: the estimator."""

from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from typing_extensions import Unpack

from mfspark.engine.fit_sgd import fit_sgd
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import (
    Factorisation,
    after_refit,
    for_refit,
    known_factors,
    model_of,
    select_ratings,
)
from mfspark.models.params import BiasedSGDArguments, BiasedSGDParams
from mfspark.settings import SGDSettings


class BiasedSGD(
    Factorisation, BiasedSGDParams, DefaultParamsReadable["BiasedSGD"], DefaultParamsWritable
):
    """Matrix factorisation with user and item biases by stratified stochastic gradient descent.

    Model and objective are those of :class:`~mfspark.models.biased_als.BiasedALS`. For each rating,
    with e = r − r̂, learning rate γ and n_u the user's number of ratings,

        b_u ← (b_u + γ e) / (1 + γ λ_b n_u^(ν−1))      p_u ← (p_u + γ e q_i) / (1 + γ λ n_u^(ν−1))

    and the item's mirror image with the old p_u: a step down the error, and one to where the
    penalty draws it (Duchi, Singer 2009), which no penalty is too high for. With ``regExponent=1``
    λ is the same for each rating; note that λ means something else for each ν. Blocks of users and
    of items form strata, and those visited side by side share no row (Gemulla et al., KDD 2011);
    ``schedule`` says how γ goes on. With ``implicitFeatures`` the penalties draw rows to what
    features say of them, as in ``BiasedALS``; that is learnt after each epoch.

    ``fit`` returns a :class:`FactorModel`; its history has a row per epoch, whose objective and
    train_rmse are taken on the way. An epoch that diverges is undone and the rate halved;
    ``DivergenceError`` when that does not help. The factors are always finite.

    >>> model = BiasedSGD(rank=16, seed=1).fit(ratings)  # doctest: +SKIP
    """

    def __init__(self, **arguments: Unpack[BiasedSGDArguments]) -> None:
        super().__init__(**arguments)

    def setParams(self, **arguments: Unpack[BiasedSGDArguments]) -> "BiasedSGD":
        """Set Params by name; ``ConfigError`` for a bad value, ``TypeError`` for a bad name."""
        self.set_params(arguments)
        return self

    def settings(self) -> SGDSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        settings = super().settings()
        assert isinstance(settings, SGDSettings)
        return settings

    def _fit(self, dataset: DataFrame) -> FactorModel:
        settings = self.settings()
        ratings = select_ratings(dataset, settings, settings.validation_indicator_col)
        known = known_factors(ratings, settings, settings.fit_biases)
        fit = fit_sgd(ratings, settings, known, snapshots=self.snapshots("fit", settings))
        if settings.refit:
            rows, as_long = for_refit(ratings, settings, fit)
            snapshots = self.snapshots("refit", as_long)
            again = fit_sgd(rows, as_long, known, fit.objective, snapshots)
            fit = after_refit(fit, again)
        return self._copyValues(model_of(fit, dataset, settings, settings.rank, type(self)))
