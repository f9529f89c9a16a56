"""Other libraries of matrix factorisation: each fitted in this process, to ratings in memory.

What is not named is at the library's own default. Users and items are numbered from 0; −1 stands
for one without training ratings, for which a library says what it would say.
"""

import importlib.util
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mfspark.columns import ITEM, RATING, USER
from mfspark.errors import ConfigError
from mfspark.kernels.arrays import Float32s, Float64s, Int64s

# The packages that must be there for a kind of peer.
PACKAGES = {
    "libmf": ("libmf", "libmf"),
    "cmfrec": ("cmfrec", "cmfrec"),
    "myfm": ("myfm", "myfm"),
    "surprise": ("surprise", "scikit-surprise"),
}


def require_package(kind: str, setting: str) -> None:
    """``ConfigError`` when the package of a peer that ``setting`` names is not installed."""
    if kind not in PACKAGES:
        return
    module, package = PACKAGES[kind]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{setting} names {kind!r}, but the package {package} is not installed; "
            f"pip install {package}, or leave it out"
        )


# Predictions float64 [n] for pairs of numbers int64 [n]; NaN where there is none.
Predict = Callable[[Int64s, Int64s], Float64s]


class Fitted(NamedTuple):
    """What a library learnt: how it predicts, and how many numbers it keeps of the ratings."""

    predict: Predict
    n_parameters: int


@dataclass(frozen=True)
class Numbered:
    """Ratings of one process (user, item, rating), their users and items numbered from 0."""

    table: pd.DataFrame
    ids: dict[str, pd.Index]

    @classmethod
    def of(cls, ratings: pd.DataFrame) -> "Numbered":
        """Number the users and items of ``ratings`` in the order in which they occur."""
        ids = {str(side): pd.Index(ratings[side].unique()) for side in (USER, ITEM)}
        numbers = {side: known.get_indexer(ratings[side]) for side, known in ids.items()}
        return cls(pd.DataFrame({**numbers, RATING: ratings[RATING].astype(np.float32)}), ids)

    def numbers(self, pairs: pd.DataFrame) -> tuple[Int64s, Int64s]:
        """The numbers of ids of ``pairs``."""
        users, items = (self.ids[side].get_indexer(pairs[side]) for side in (USER, ITEM))
        return users.astype(np.int64), items.astype(np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """How many users and items there are."""
        return len(self.ids[USER]), len(self.ids[ITEM])


def fit_libmf(
    ratings: Numbered, rank: int, iterations: int, n_threads: int, reg_param: float, rate: float
) -> Fitted:
    """SGD without biases by LIBMF (Chin, Zhuang, Juan, Lin 2015); NaN where an id is unknown."""
    # Importing it prints a path.
    with redirect_stdout(io.StringIO()):
        from libmf import mf
    fitted = mf.MF(
        k=rank, nr_iters=iterations, nr_threads=n_threads, quiet=True, lambda_p1=0.0,
        lambda_q1=0.0, lambda_p2=reg_param, lambda_q2=reg_param, eta=rate,
    )  # fmt: skip
    # It reads the memory row by row; pandas lends it column by column.
    fitted.fit(np.ascontiguousarray(ratings.table.to_numpy(np.float32)))
    p: Float32s
    q: Float32s
    p, q = fitted.p_factors(), fitted.q_factors()
    if p.shape[1] != rank:
        raise ConfigError(f"LIBMF fitted {p.shape[1]} factors where {rank} were asked for")

    def predict(users: Int64s, items: Int64s) -> Float64s:
        found: Float64s = np.einsum("nf,nf->n", p[users], q[items], dtype=np.float64)
        return np.where((users < 0) | (items < 0), np.nan, found)

    return Fitted(predict, rank * sum(ratings.shape))


def fit_cmfrec(
    ratings: Numbered,
    rank: int,
    iterations: int,
    n_threads: int,
    reg_param: float,
    scale_reg: bool,
    implicit_features: bool = False,
    use_cg: bool = False,
) -> Fitted:
    """ALS with biases by cmfrec; ``scale_reg``: λ times the ratings of a row; ``use_cg``: three
    steps of conjugate gradients in place of exact normal equations."""
    from cmfrec import CMF

    fitted = CMF(
        k=rank, niter=iterations, nthreads=n_threads, use_float=True, method="als", use_cg=use_cg,
        finalize_chol=False, lambda_=reg_param, scale_lam=scale_reg,
        add_implicit_features=implicit_features, precompute_for_predictions=False, verbose=False,
    )  # fmt: skip
    named = {str(USER): "UserId", str(ITEM): "ItemId", RATING: "Rating"}
    fitted.fit(ratings.table.rename(columns=named))

    def predict(users: Int64s, items: Int64s) -> Float64s:
        return np.asarray(fitted.predict(users, items), np.float64)

    n_implicit = rank * sum(ratings.shape) if implicit_features else 0
    return Fitted(predict, (rank + 1) * sum(ratings.shape) + n_implicit + 1)


def fit_myfm(
    ratings: Numbered, rank: int, sweeps: int, implicit_features: bool, seed: int
) -> Fitted:
    """A factorisation machine by Gibbs sampling (Freudenthaler, Schmidt-Thieme, Rendle 2011) on
    user and item, with ``implicit_features`` also on who rated and was rated, as 1/√n."""
    from myfm import MyFMRegressor, RelationBlock

    shape = ratings.shape
    users, items = ratings.table[USER].to_numpy(), ratings.table[ITEM].to_numpy()
    rated = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape)
    blocks, group_shapes = [], []
    for matrix in (rated, rated.T.tocsr()):
        parts = [sparse.identity(matrix.shape[0])]
        if implicit_features:
            counts = np.maximum(matrix.getnnz(axis=1), 1)
            parts.append(sparse.diags(1 / np.sqrt(counts)) @ matrix)
        known = sparse.hstack(parts)
        # The last row is that of the unknown, which has no features.
        blocks.append(sparse.vstack([known, sparse.csr_matrix((1, known.shape[1]))]).tocsr())
        group_shapes += [part.shape[1] for part in parts]

    def relations(users: Int64s, items: Int64s) -> list[Any]:
        numbers = zip((users, items), shape, blocks, strict=True)
        return [RelationBlock(np.where(at < 0, n, at), block) for at, n, block in numbers]

    fitted = MyFMRegressor(rank=rank, random_seed=seed)
    fitted.fit(
        None, ratings.table[RATING].to_numpy(np.float64), X_rel=relations(users, items),
        n_iter=sweeps, group_shapes=group_shapes,
    )  # fmt: skip

    def predict(users: Int64s, items: Int64s) -> Float64s:
        return np.asarray(fitted.predict(None, X_rel=relations(users, items)), np.float64)

    return Fitted(predict, (rank + 1) * sum(group_shapes) + 1)


def fit_surprise(
    ratings: Numbered, rank: int, epochs: int, implicit_features: bool, seed: int
) -> Fitted:
    """SGD with biases by Surprise (Hug 2020): its SVD, or SVDpp with ``implicit_features``."""
    import surprise

    table = ratings.table
    scale = surprise.Reader(rating_scale=(table[RATING].min(), table[RATING].max()))
    columns = table[[USER, ITEM, RATING]]
    train = surprise.Dataset.load_from_df(columns, scale).build_full_trainset()
    algorithm = surprise.SVDpp if implicit_features else surprise.SVD
    fitted = algorithm(n_factors=rank, n_epochs=epochs, random_state=seed).fit(train)

    def predict(users: Int64s, items: Int64s) -> Float64s:
        pairs = zip(users.tolist(), items.tolist(), strict=True)
        return np.array([fitted.predict(*pair).est for pair in pairs], np.float64)

    n_implicit = rank * ratings.shape[1] if implicit_features else 0
    return Fitted(predict, (rank + 1) * sum(ratings.shape) + n_implicit + 1)
