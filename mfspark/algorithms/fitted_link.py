"""What it says of users which items they rated at all, and of items who rated them, in a fit that
minimises an objective.

A row x = [p, b] is not drawn towards zero, but towards what its features f say of it:

    o = βᵀ f    f_ui = 1/√n_u for the n_u items that u rated

as Koren (Factorization meets the neighborhood, 2008) adds it to the factors in SVD++, here for both
sides. The objective of :mod:`mfspark.kernels.objective` has |p − o_p|² and (b − o_b)² in place of
|p|² and b², and of each side also κ w̄ Σ_j (λ|β_j|² + λ_b β_jb²), w̄ being the mean of n^ν over its
rows. It is minimised over the rows and over β in turn: with β given, rows less their offsets are
those of a fit to ratings less what the offsets explain; with the rows given, β is a ridge
regression of all rows on their features, of which a row with n ratings counts n^ν times.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from mfspark.algorithms.sharing import results_of, row_ranges
from mfspark.algorithms.sparse_features import (
    Features,
    conjugate_gradients,
    products,
    rated_features,
)
from mfspark.columns import Side
from mfspark.kernels.arrays import AlignedRows, Array, Float32s, Int64s
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.features import less_offsets
from mfspark.kernels.objective import Objective, Penalty


@dataclass(frozen=True)
class FittedLink:
    """β of one side, float32 [n_features, rank + 1], and F·β float32 [n_rows, rank + 1].

    ``features`` is F with each row times n^(ν/2), which ``roots`` float32 [n_rows, 1] are;
    ``weight`` is κ w̄.
    """

    features: Features
    roots: Float32s
    weight: float
    coefficients: Float32s
    offsets: Float32s


def start_links(
    blocks: dict[Side, RatingBlock], objective: Objective, rank: int
) -> dict[Side, FittedLink]:
    """β = 0 on both sides; no link where the objective has none."""
    if objective.link_weight is None:
        return {}
    train = {side: block.train for side, block in blocks.items()}
    links = {}
    for side, features in rated_features(train).items():
        counts = train[side].counts
        weights = objective.penalty(side).row_weights(counts)
        roots = np.sqrt(weights).astype(np.float32)
        by_row, by_feature = features.by_row, features.by_feature
        weighted = Features(
            by_row._replace(values=by_row.values * np.repeat(roots, counts)),
            by_feature._replace(values=by_feature.values * roots[by_feature.columns]),
        )
        links[side] = FittedLink(
            weighted,
            roots[:, None],
            objective.link_weight * float(weights.mean()),
            np.zeros((by_feature.n_rows, rank + 1), np.float32),
            np.zeros((by_row.n_rows, rank + 1), np.float32),
        )
    return links


def arrays_of(links: dict[Side, FittedLink]) -> dict[str, Array]:
    """What is learnt of links, by name."""
    arrays: dict[str, Array] = {}
    for side, link in links.items():
        arrays[f"{side}_coefficients"], arrays[f"{side}_offsets"] = link.coefficients, link.offsets
    return arrays


def with_arrays(links: dict[Side, FittedLink], arrays: dict[str, Array]) -> dict[Side, FittedLink]:
    """``links`` with what ``arrays_of`` gave."""
    return {
        side: replace(
            link, coefficients=arrays[f"{side}_coefficients"], offsets=arrays[f"{side}_offsets"]
        )
        for side, link in links.items()
    }


def rest_of(
    pool: ThreadPoolExecutor,
    n_threads: int,
    link: FittedLink,
    block: RatingBlock,
    fixed: AlignedRows,
) -> RatingBlock:
    """The ratings of a side less what the offsets of its rows explain of them."""

    def rest(ratings: Csr) -> Csr:
        parts = results_of(
            pool,
            lambda part: less_offsets(ratings.slice(*part), fixed, link.offsets[slice(*part)]),
            row_ranges(ratings.counts, n_threads),
        )
        return ratings._replace(values=np.concatenate(parts))

    return RatingBlock(rest(block.train), rest(block.validation))


def fit_link(
    pool: ThreadPoolExecutor,
    n_threads: int,
    link: FittedLink,
    rows: Float32s,
) -> FittedLink:
    """β that minimises Σ n^ν |x − βᵀ f|² + κ w̄ |β|² in each column, by conjugate gradients that
    begin at the β of ``link``."""
    right = products(pool, n_threads, link.features.by_feature, rows * link.roots)
    ridge = np.full(rows.shape[1], link.weight)
    coefficients = conjugate_gradients(
        pool, n_threads, link.features, ridge, right, link.coefficients
    )
    offsets = products(pool, n_threads, link.features.by_row, coefficients) / link.roots
    return replace(link, coefficients=coefficients, offsets=offsets)


def penalty_of(link: FittedLink | None, rows: Float32s, counts: Int64s, penalty: Penalty) -> float:
    """Σ n^ν (λ|p − o_p|² + λ_b (b − o_b)²) + κ w̄ Σ_j (λ|β_j|² + λ_b β_jb²) of one side; without a
    link o = 0 and no β."""
    if link is None:
        return penalty.total(counts, rows)
    squares = np.square(link.coefficients, dtype=np.float64).sum(axis=0)
    of_link = penalty.factors * squares[:-1].sum() + penalty.bias * squares[-1]
    return penalty.total(counts, rows - link.offsets) + link.weight * float(of_link)
