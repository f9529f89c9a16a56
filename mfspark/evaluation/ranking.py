"""How good top-N lists are: whether they hold what users like, and how much of the catalogue."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING, USER
from mfspark.evaluation.list_measures import Catalogue, measure_lists
from mfspark.evaluation.top_lists import (
    BY_POPULARITY,
    lists_of_sampled,
    lists_of_scored,
    lists_of_unseen,
    sampled_candidates,
    scorers,
)
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist
from mfspark.small_tables import table_of

# Drawn for each user of a comparison, whose models are asked for single predictions, where the
# configuration does not say how many.
_USUAL_CANDIDATES = 100


class RankingSettings(BaseModel):
    """How top-N lists are measured on the test part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: list[Annotated[int, Field(ge=1)]] = Field(
        [5, 10, 20], min_length=1, description="lengths of the lists"
    )
    relevance: float | Literal["user_mean", "rated"] = Field(
        "user_mean",
        description="what a list should hold: items of the test part rated at least user_mean (the "
        "mean of the user's training ratings), or at least this rating, or all of them (rated)",
    )
    candidates: int | None = Field(
        None,
        ge=1,
        description="put the items of the test part in order among so many others, drawn for each "
        "user; not set: among all items that the user has not rated in training, in comparisons "
        f"among {_USUAL_CANDIDATES}",
    )
    seed: int = Field(0, description="seed of the drawn candidates")


@dataclass(frozen=True)
class Ranking:
    """Tables about top-N lists.

    ``ranking``: predictor, measure, k, value, low, high (95 %, users being the units; null of
    coverage and Gini), n_users, relevance, candidates. Measures are those of
    :mod:`mfspark.kernels.rank_metrics`; novelty, the mean of −log₂ of the share of users who rated
    an item; popularity, the mean number of its training ratings; diversity, the mean of 1 − cosine
    of what the model predicts of two items (null without factors); coverage, the share of all items
    on some list; and Gini, of how often each item is listed. ``ranking_users``: quantity, value:
    how many users there are and why some are not measured.
    """

    ranking: DataFrame
    ranking_users: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {"ranking": self.ranking, "ranking_users": self.ranking_users}


def evaluate_lists(
    model: FactorModel,
    biases: FactorModel,
    train: DataFrame,
    test: DataFrame,
    settings: RankingSettings,
    caution: float,
    min_ratings: int,
) -> Ranking:
    """Measure the lists of ``model`` and of the baselines on ``test`` (user, item, rating).

    ``biases``: those of ``train`` alone, as :class:`mfspark.BiasOnly` fits them.
    Lists are made for users with training ratings and at least one relevant item in the test part;
    the others are counted.
    """
    longest = max(settings.k)
    models = scorers(model, biases, caution)
    truth = persist(_truth(model.metadata.rating_scale, train, test, settings))
    users = truth.where(F.col("n_relevant") > 0).select(USER)
    if settings.candidates is None:
        # Each model groups them by user, where they lie.
        pairs = persist(train.join(users, USER, "semi").select(USER, ITEM).repartition(USER))
        lists = persist(lists_of_unseen(models, users, pairs, longest, min_ratings))
        candidates = "all items not rated in training"
    else:
        n = settings.candidates
        pairs = persist(sampled_candidates(users, train, test, n, settings.seed))
        lists = persist(lists_of_sampled(models, pairs, longest))
        candidates = _drawn(n)
    result = _measured(lists, truth, Catalogue.of_model(model), settings, candidates, test)
    for table in (truth, pairs, lists):
        unpersist(table)
    return result


def candidates_of(train: DataFrame, test: DataFrame, settings: RankingSettings) -> DataFrame:
    """user, item: what models that are compared are to put in order; see ``evaluate_predictions``.

    For users with training ratings and a relevant item in the test part.
    """
    truth = _truth(_scale(train), train, test, settings)
    users = truth.where(F.col("n_relevant") > 0).select(USER)
    n = settings.candidates or _USUAL_CANDIDATES
    return sampled_candidates(users, train, test, n, settings.seed)


def evaluate_predictions(
    predictions: DataFrame, train: DataFrame, test: DataFrame, settings: RankingSettings
) -> Ranking:
    """Measure lists in order of ``predictions`` (predictor, user, item, predicted) of the pairs of
    ``candidates_of``, and of popularity. What is not scored comes last."""
    truth = persist(_truth(_scale(train), train, test, settings))
    counts = train.groupBy(ITEM).agg(F.count("*").cast("double").alias("predicted"))
    pairs = predictions.select(USER, ITEM).distinct()
    by_popularity = pairs.join(counts, ITEM, "left").select(
        F.lit(BY_POPULARITY).alias("predictor"), USER, ITEM, "predicted"
    )
    scored = predictions.select(*by_popularity.columns).unionByName(by_popularity)
    lists = persist(lists_of_scored(scored, max(settings.k)))
    drawn = _drawn(settings.candidates or _USUAL_CANDIDATES)
    result = _measured(lists, truth, Catalogue.of_ratings(train), settings, drawn, test)
    for table in (truth, lists):
        unpersist(table)
    return result


def _measured(
    lists: DataFrame,
    truth: DataFrame,
    catalogue: Catalogue,
    settings: RankingSettings,
    candidates: str,
    test: DataFrame,
) -> Ranking:
    """Measures of ``lists``, and how they were made."""
    measured = measure_lists(lists, truth, catalogue, settings.k).select(
        "*",
        F.lit(_said(settings.relevance)).alias("relevance"),
        F.lit(candidates).alias("candidates"),
    )
    # Some rows for each model, made before what they are made of is let go.
    rows = table_of(test.sparkSession, measured.collect(), measured.schema)
    return Ranking(rows, _users(test, truth))


def _drawn(n: int) -> str:
    return f"items of the test part and {n} others"


def _scale(train: DataFrame) -> tuple[float, float]:
    """The lowest and the highest rating."""
    row = train.agg(F.min(RATING).cast("double"), F.max(RATING).cast("double")).collect()[0]
    return row[0], row[1]


def _said(relevance: float | str) -> str:
    if relevance == "rated":
        return "rated in the test part"
    if relevance == "user_mean":
        return "rated at least the user's mean"
    return f"rated {relevance:g} or more"


def _truth(
    scale: tuple[float, float], train: DataFrame, test: DataFrame, settings: RankingSettings
) -> DataFrame:
    """user, test_items, gains, is_relevant (arrays), n_relevant, of users with training ratings.

    A gain is the rating's place in the ``scale`` of the training ratings, from 0 to 1.
    """
    low, high = scale
    gain = (F.col(RATING) - low) / max(high - low, 1e-300)
    if settings.relevance == "rated":
        is_relevant: Column = F.lit(True)
    elif settings.relevance == "user_mean":
        is_relevant = F.col(RATING) >= F.col("_mean")
    else:
        is_relevant = F.col(RATING) >= F.lit(float(settings.relevance))
    means = train.groupBy(USER).agg(F.avg(RATING).alias("_mean"))
    rows = test.join(means, USER).select(
        USER, ITEM, F.least(F.greatest(gain, F.lit(0.0)), F.lit(1.0)).alias("gain"),
        is_relevant.alias("is_relevant"),
    )  # fmt: skip
    entries = F.collect_list(F.struct(ITEM, "gain", "is_relevant"))
    return rows.groupBy(USER).agg(entries.alias("entries")).select(
        USER,
        F.col("entries")[ITEM].alias("test_items"),
        F.col("entries.gain").alias("gains"),
        F.col("entries.is_relevant").alias("is_relevant"),
        F.size(F.filter("entries", lambda entry: entry["is_relevant"])).alias("n_relevant"),
    )  # fmt: skip


def _users(test: DataFrame, truth: DataFrame) -> DataFrame:
    row = truth.agg(F.count("*"), F.count_if(F.col("n_relevant") > 0)).first()
    assert row is not None
    n_users = test.select(USER).distinct().count()
    rows = {
        "users of the test part": n_users,
        "without training ratings": n_users - row[0],
        "without relevant items": row[0] - row[1],
        "measured": row[1],
    }
    return table_of(test.sparkSession, list(rows.items()), "quantity string, value long")
