"""``BayesianMF``: the estimator."""

from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable, MLWriter
from pyspark.sql import DataFrame
from typing_extensions import Unpack

from mfspark.columns import ITEM, USER, Side
from mfspark.engine.fit_bayes import fit_bayes
from mfspark.errors import ConfigError
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import (
    Factorisation,
    after_refit,
    for_refit,
    known_factors,
    model_of,
    select_ratings,
)
from mfspark.models.feature_tables import feature_columns, feature_table
from mfspark.models.params import BayesianMFArguments, BayesianMFParams
from mfspark.settings import BayesianSettings


class BayesianMF(
    Factorisation, BayesianMFParams, DefaultParamsReadable["BayesianMF"], DefaultParamsWritable
):
    """Bayesian matrix factorisation with user and item biases: no penalty to tune.

    Salakhutdinov & Mnih, Bayesian probabilistic matrix factorization using Markov chain Monte
    Carlo, ICML 2008, with biases among the factors. With x_u = [p_u, b_u] and x_i = [q_i, b_i],

        r ~ N(μ + b_u + b_i + p_u·q_i, 1/α)    x_u ~ N(m_U, Λ_U⁻¹)    x_i ~ N(m_I, Λ_I⁻¹)

    and normal–Wishart priors of m and Λ and a gamma prior of α, which are weak: all of them are
    learnt. A Gibbs sampler draws α, m, Λ and all rows in turn; ``maxIter`` sweeps, of which the
    first ``burnIn`` only bring the chain to where it stays. The mean of all later draws'
    predictions is folded, draw by draw, into one factor model of the same rank.

    With ``implicitFeatures`` m is a user's own, m_U + βᵀ f_u: f_u has 1/√n_u for each of the n_u
    items that u rated, and β is learnt in the same way (Simm et al., Macau, 2017; the features are
    those of SVD++, Koren 2008); likewise for items and who rated them. What people choose to rate
    tells much of what they like; where they do not choose, it is worth little and costs little.

    ``setFeatures`` gives features of another kind in the same way: what is known of users or items
    themselves, genres or an age. Ids that have features but no ratings get rows γᵀ (f − f̄), f̄ being
    the mean and γ a ridge regression of the other ids' rows on their features alone, so that new
    items and users are predicted, too (``coldStartStrategy`` features).

    ``fit`` returns a :class:`FactorModel` like that of any other estimator. With
    ``predictionStdCol`` its ``transform`` adds the standard deviation of a rating around its
    prediction: that of the noise, 1/√α, together with the spread over ``keepDraws`` stored draws.
    Results depend on data and seed, not on the partitioning (to float32 rounding). In the history
    ``train_rmse`` is that of each draw, ``validation_rmse`` that of the mean so far.

    >>> model = BayesianMF(seed=1, predictionStdCol="std").fit(ratings)  # doctest: +SKIP
    >>> model.transform(pairs)  # doctest: +SKIP
    """

    # By side; not a Param, since DataFrames cannot be saved with an estimator.
    _features: dict[Side, DataFrame]

    def __init__(self, **arguments: Unpack[BayesianMFArguments]) -> None:
        super().__init__(**arguments)
        self._features = {}

    def setFeatures(
        self, users: DataFrame | None = None, items: DataFrame | None = None
    ) -> "BayesianMF":
        """Set what is known of ``users`` and ``items`` beside ratings, in place of what was set.

        Each table has the id in ``userCol`` or ``itemCol``, once, and columns of features: numbers,
        text (a category) or lists of text (tags); null where something is not known. Its ids need
        not have ratings, nor need all that have ratings be in it. ``DataError`` comes with ``fit``.
        """
        given = {USER: users, ITEM: items}
        self._features = {side: table for side, table in given.items() if table is not None}
        return self

    def write(self) -> MLWriter:
        """See ``MLWritable``; ``ConfigError`` where features are set, which would be lost."""
        if self._features:
            raise ConfigError(
                "an estimator with features cannot be saved, since these are DataFrames; save it "
                "before setFeatures, and set them again after loading"
            )
        return super().write()

    def setParams(self, **arguments: Unpack[BayesianMFArguments]) -> "BayesianMF":
        """Set Params by name; ``ConfigError`` for a bad value, ``TypeError`` for a bad name."""
        self.set_params(arguments)
        return self

    def settings(self) -> BayesianSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        settings = super().settings()
        assert isinstance(settings, BayesianSettings)
        return settings

    def _fit(self, dataset: DataFrame) -> FactorModel:
        """Ratings and features → tables → model."""
        settings = self.settings()
        ratings = select_ratings(dataset, settings, settings.validation_indicator_col)
        known = known_factors(ratings, settings)
        names = {USER: settings.user_col, ITEM: settings.item_col}
        features = {
            side: feature_table(table, names[side], side, ratings.schema[side].dataType)
            for side, table in self._features.items()
        }
        fit = fit_bayes(ratings, settings, known, features, self.snapshots("fit", settings))
        if settings.refit:
            rows, as_long = for_refit(ratings, settings, fit)
            snapshots = self.snapshots("refit", as_long)
            again = fit_bayes(rows, as_long, known, features, snapshots)
            fit = after_refit(fit, again)
        columns = {
            side: feature_columns(table, names[side]) for side, table in self._features.items()
        }
        model = model_of(fit, dataset, settings, settings.rank, type(self), columns)
        return self._copyValues(model)
