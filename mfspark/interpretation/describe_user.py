"""One user in words: how strict, what taste, and which of the user's own ratings say so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, TITLE, USER
from mfspark.errors import DataError
from mfspark.interpretation.explain import parts_of_user
from mfspark.interpretation.user_groups import factors_of_population
from mfspark.models.factor_model import FactorModel

# Biases nearer to the middle than this share of the users are not called strict or generous.
_NEAR = 0.2


@dataclass(frozen=True)
class UserDescription:
    """What is known of a user.

    ``bias`` (in the unit of the ratings) is higher than that of ``share_below`` of the users;
    ``in_words`` says so. ``factors``: factor, label, z (how many standard deviations of all users
    from their mean), by size. ``evidence``: factor, place, item, title, rating, z: what the rating
    adds to the user's z, largest first in the direction that the user is in.
    """

    user: object
    n_ratings: int
    bias: float
    share_below: float
    in_words: str
    factors: pd.DataFrame
    evidence: pd.DataFrame


def describe_user(
    model: FactorModel,
    train: DataFrame,
    described: DataFrame,
    labels: DataFrame,
    user: object,
    n_shown: int = 3,
) -> UserDescription:
    """Describe a user by bias and by the factors of ``labels`` (factor, label), which should be
    those that are stable.

    ``train``: the ratings that the model was fitted to; ``described``: item and title. Raises
    ``DataError`` as :func:`mfspark.interpretation.explain.parts_of_user` does.
    """
    found = parts_of_user(model, train, user)
    rated = model.user_factors.where(F.col(N_RATINGS) > 0)
    row: Any = rated.where(F.col(USER) == F.lit(user)).first()
    if row is None:
        raise DataError(f"user {user!r} has no training rating; choose one of user_factors")
    below, n_users = rated.agg(
        F.count(F.when(F.col(BIAS) < F.lit(row[BIAS]), 1)), F.count("*")
    ).collect()[0]
    population = factors_of_population(rated)
    titles: Any = (
        described.join(train.where(F.col(USER) == F.lit(user)).select(ITEM), ITEM, "semi")
        .select(ITEM, TITLE)
        .toPandas()
    )
    factors, evidence = [], []
    for number, label in sorted(tuple(each) for each in labels.select("factor", "label").collect()):
        mean, spread = population[number - 1]
        z = (row[FACTORS][number - 1] - mean) / spread
        factors.append((number, label, z))
        own = found.ratings.assign(factor=number, z=found.parts[:, number - 1] / spread)
        own = own.iloc[np.argsort(-np.sign(z) * own["z"].to_numpy(), kind="stable")][:n_shown]
        evidence.append(own.assign(place=np.arange(1, len(own) + 1)))
    table = pd.DataFrame(factors, columns=["factor", "label", "z"])
    order = table["z"].abs().sort_values(ascending=False, kind="stable").index
    columns = ["factor", "place", ITEM, TITLE, "rating", "z"]
    return UserDescription(
        user=user,
        n_ratings=row[N_RATINGS],
        bias=row[BIAS],
        share_below=below / n_users,
        in_words=_in_words(row[BIAS], below / n_users),
        factors=table.loc[order].reset_index(drop=True),
        evidence=(
            pd.concat(evidence).merge(titles, on=ITEM, how="left")[columns]
            if evidence
            else pd.DataFrame(columns=columns)
        ),
    )


def _in_words(bias: float, share_below: float) -> str:
    if abs(share_below - 0.5) < _NEAR:
        return f"rates about as others do ({bias:+.2f})"
    word, share = ("higher", share_below) if share_below > 0.5 else ("lower", 1 - share_below)
    return f"rates {word} than {100 * share:.0f} % of the users ({bias:+.2f})"
