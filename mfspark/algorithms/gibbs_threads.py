"""Bayesian matrix factorisation in one process: a Gibbs sampler whose rows are shared out to
threads (Salakhutdinov & Mnih 2008)."""

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from mfspark.algorithms.als_threads import biases_alone, shared_moments, solve_side
from mfspark.algorithms.diagnostics import Trace, diagnose, signal_norm
from mfspark.algorithms.encoding import EncodedFeatures, encode_features
from mfspark.algorithms.history import Found, History, Posterior
from mfspark.algorithms.hyper_priors import draw_noise_precision, draw_prior
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.algorithms.link import Link, draw_links, no_link, offsets_of
from mfspark.algorithms.penalties import PenaltySearch
from mfspark.algorithms.posterior import StoredDraws, posterior_of, spread_of
from mfspark.algorithms.running_mean import RunningMean
from mfspark.algorithms.sharing import results_of, row_ranges, share_rows
from mfspark.algorithms.snapshots import (
    ChainPlace,
    LoopState,
    Saver,
    Snapshots,
    resume,
    save_arrays,
)
from mfspark.algorithms.sparse_features import Features, given_features, rated_features
from mfspark.algorithms.start import start_keys
from mfspark.algorithms.unrated import Regression, posterior_with_unrated, with_unrated
from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import AlignedRows, Array, Float32s, UInt64s
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.draw import Prior, RowSums, draw_rows, draw_rows_of_moments
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.random import normal_rows
from mfspark.settings import BayesianSettings

# Iterations of ALS before the first draw: they bring the chain near to where it will stay.
WARM_UP = 5
_KEYS_PER_PART = 2048
# Ratings that λ_b of the cold biases is chosen by.
_SAMPLE = 1_000_000
# More than there are sweeps.
_USES = 2**40
# Between the seeds of two chains: chains of seeds side by side should have none in common.
_CHAIN_STEP = 1_000_003
# Before the names of arrays of stored draws.
_STORED = "stored_"


class ChainState(NamedTuple):
    """Where the chain is, by side: rows x = [factors, bias], their sums, sums of what the links
    leave of them, x − βᵀ f, and the links, one for each kind of features; and Σ (r − r̂)²."""

    rows: dict[Side, Float32s]
    sums: dict[Side, RowSums]
    rest: dict[Side, RowSums]
    links: dict[Side, tuple[Link, ...]]
    squared_error: float


class Normals(NamedTuple):
    """Standard normal numbers for one sweep over a side: float32 [n, rank + 1] for its rows, and
    the two of ``draw_link`` for each kind of features."""

    rows: Float32s
    links: tuple[tuple[Float32s, Float32s], ...]


class Hyper(NamedTuple):
    """What all rows have in common: α, and the prior of the rows of each side."""

    noise_precision: float
    priors: dict[Side, Prior]

    def penalty(self, rest: dict[Side, RowSums], links: Iterable[Link] = ()) -> float:
        """What the priors of rows, of which ``links`` leave the ``rest``, and those of ``links``
        add to Σ (r − r̂)² in the negative logarithm of the density, times 2/α."""
        of_rows = sum(self.priors[side].penalty(rest[side]) for side in Side)
        return (of_rows + sum(link.penalty() for link in links)) / self.noise_precision


@dataclass(frozen=True)
class ThreadedGibbs:
    """A whole fit of ratings that lie in memory; travels to a task by pickling.

    ``objective``: of the iterations of ALS before the first draw. ``scale``: what a unit of the
    ratings is in the unit of the user's. ``journal``:
    see :class:`mfspark.algorithms.history.History`. ``snapshots``: where the fit leaves its state,
    and goes on from that of an earlier one.
    """

    objective: Objective
    settings: BayesianSettings
    scale: float = 1.0
    journal: str | None = None
    snapshots: Snapshots | None = None

    def learn(self, ratings: IndexedRatings, n_threads: int) -> Found:
        """The mean over all draws after burn-in, of all chains; those after the first are as long
        as it was. Results depend on the seed, not on the threads (to float32 rounding)."""
        settings = self.settings
        loop, arrays = resume(self.snapshots)
        saver = Saver(self.snapshots)
        history = History(
            settings.max_iter,
            settings.tol,
            self.scale,
            journal=self.journal,
            state=None if loop is None else loop.history,
        )
        features = {
            side: encode_features(table, side, ratings.ids[side])
            for side, table in ratings.features.items()
        }
        place = None if loop is None else loop.chain
        averages = _Averages(settings, place, arrays)
        # The threads of the linear algebra library would take turns with ours, and spin meanwhile.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads) as pool:
            blocks = dict(zip(Side, pool.map(ratings.block, Side), strict=True))
            train, validation = blocks[USER].train, blocks[USER].validation
            watched = validation if validation.n_entries else train
            for number in range(place.number if place else 0, settings.num_chains):
                chain = _Chain(self, pool, n_threads, ratings, features, blocks, number)
                done = 0
                if place is not None and number == place.number:
                    chain.restore(arrays, place.squared_error)
                    done = place.sweep
                else:
                    chain.warm_up()
                    averages.traces.append([])
                is_first = number == 0
                sweeps = history.iterations()
                if not is_first:
                    sweeps = iter(range(done + 1, history.rows[-1].iteration + 1))
                for sweep in sweeps:
                    hyper = chain.sweep(sweep)
                    is_folded = sweep > settings.burn_in and averages.add(chain, hyper, pool)
                    if is_first:
                        told, error = chain.sums(hyper), None
                        if is_folded:
                            error = _squared_error(pool, n_threads, watched, averages.mean.rows)
                        if error is not None and validation.n_entries:
                            told = told._replace(
                                validation_squared_error=error, n_validation=validation.n_entries
                            )
                        history.add("both", told, 0)
                        if error is not None:
                            history.end_draws(error)
                    if not averages.mean.is_waiting and saver.is_due:
                        reached = averages.place(number, sweep, chain.state.squared_error)
                        loop = LoopState(
                            objective=self.objective, history=history.state, chain=reached
                        )
                        save_arrays(saver, loop, chain.arrays() | averages.arrays())
            found = averages.posterior(self.scale)
            final = averages.mean.final(pool)
            cold_biases = {}
            if settings.implicit_features or features:
                cold_biases = self._cold_biases(pool, n_threads, ratings, blocks)
        regressions = {
            side: Regression(known, final[side], final[side.other])
            for side, known in features.items()
        }
        unrated = {side: known.unrated for side, known in features.items()}
        rows = {side: with_unrated(final[side], regressions.get(side)) for side in Side}
        return Found(
            rows,
            history,
            posterior_with_unrated(found, regressions, unrated, settings.seed),
            {side: known.counts() for side, known in features.items()},
            unrated,
            # What features say of an unrated id, its bias, needs no other to go with.
            {
                side: np.concatenate([biases, rows[side][len(biases) :, -1]])
                for side, biases in cold_biases.items()
            },
        )

    def _cold_biases(
        self,
        pool: ThreadPoolExecutor,
        n_threads: int,
        ratings: IndexedRatings,
        blocks: dict[Side, RatingBlock],
    ) -> dict[Side, Float32s]:
        """As ``biases_alone``, with λ_b from held-out ratings."""
        search = PenaltySearch(
            self.objective, factors=(), biases=True, link=False, rank=0,
            seed=self.settings.seed, scale=self.scale,
        )  # fmt: skip
        sample = ratings.of_some_users(_SAMPLE, self.settings.seed)
        chosen = search.choose(sample, n_threads)
        return biases_alone(pool, n_threads, blocks, chosen.objective)


def chain_seed(seed: int, number: int) -> int:
    """A seed of its own for each chain; that of the first is the fit's."""
    return seed + number * _CHAIN_STEP


class _Averages:
    """What is kept of the draws after burn-in, of all chains: their mean, some of them, and what is
    followed of each; ``place`` and ``arrays``: where an earlier fit left off, and what it had."""

    def __init__(
        self, settings: BayesianSettings, place: ChainPlace | None, arrays: dict[str, Array]
    ) -> None:
        self.mean = RunningMean(settings.rank, place.n_averaged if place else 0, arrays)
        self.traces = list(place.traces) if place else []
        draws = [list(arrays.get(f"{_STORED}{side}", ())) for side in Side]
        self._stored = StoredDraws[dict[Side, Float32s]](
            settings.keep_draws,
            [dict(zip(Side, pair, strict=True)) for pair in zip(*draws, strict=True)],
            place.spreads if place else (),
        )

    def add(self, chain: "_Chain", hyper: Hyper, pool: ThreadPoolExecutor) -> bool:
        """Take the draw where the chain is; whether all draws are in the mean now."""
        rows, sums = chain.state.rows, chain.state.sums
        self._stored.add(rows, spread_of(hyper.noise_precision, hyper.priors, sums))
        self.traces[-1].append(chain.trace(hyper))
        return self.mean.add(rows, pool)

    def posterior(self, scale: float) -> Posterior:
        """What there is in the end."""
        return replace(posterior_of(self._stored), diagnostics=diagnose(self.traces, scale))

    def place(self, number: int, sweep: int, squared_error: float) -> ChainPlace:
        """How far a chain is, and what is known of all draws beside ``arrays``."""
        return ChainPlace(
            number=number,
            sweep=sweep,
            squared_error=squared_error,
            n_averaged=self.mean.n_draws,
            spreads=self._stored.spreads,
            traces=self.traces,
        )

    def arrays(self) -> dict[str, Array]:
        """Mean and stored draws, by name; of a time when no draw waits."""
        kept = self._stored.kept
        stored = {
            f"{_STORED}{side}": np.stack([rows[side] for rows in kept]) for side in Side if kept
        }
        return self.mean.arrays | stored


class _Chain:
    """One chain of a fit; it begins with ``warm_up`` or ``restore``."""

    state: ChainState

    def __init__(
        self,
        fit: ThreadedGibbs,
        pool: ThreadPoolExecutor,
        n_threads: int,
        ratings: IndexedRatings,
        features: dict[Side, EncodedFeatures],
        blocks: dict[Side, RatingBlock],
        number: int,
    ) -> None:
        self._settings = fit.settings
        self._seed = chain_seed(fit.settings.seed, number)
        self._pool, self._n_threads, self._blocks = pool, n_threads, blocks
        self._keys = {side: start_keys(ratings.ids[side], side, self._seed) for side in Side}
        self._features: dict[Side, tuple[Features, ...]] = dict.fromkeys(Side, ())
        self._feature_keys: dict[Side, tuple[UInt64s, ...]] = dict.fromkeys(Side, ())
        for side, known in features.items():
            if not known.names:
                continue
            self._features[side] = (given_features(known),)
            names = pa.array(known.names, pa.string())
            self._feature_keys[side] = (start_keys(names, f"{side} features", self._seed),)
        if fit.settings.implicit_features:
            rated = rated_features({side: blocks[side].train for side in Side})
            for side in Side:
                self._features[side] += (rated[side],)
                self._feature_keys[side] += (self._keys[side.other],)
        self._start = partial(ratings.start, ITEM, fit.settings.rank, self._seed)
        self._objective = fit.objective

    def warm_up(self) -> None:
        """Begin where some iterations of ALS lead."""
        rows = {ITEM: self._start()}
        for _ in range(WARM_UP):
            for side in Side:
                rows[side], found = solve_side(
                    self._pool,
                    self._n_threads,
                    self._blocks[side],
                    rows[side.other],
                    self._objective,
                    side,
                    "auto",
                )
        sums = {side: RowSums.of(rows[side]) for side in Side}
        # A feature may at first do as much as all that is not a feature.
        links = {
            side: tuple(no_link(known, sums[side].precision()) for known in self._features[side])
            for side in Side
        }
        self.state = ChainState(rows, sums, sums, links, found.squared_error)

    def arrays(self) -> dict[str, Array]:
        """Where the chain is, by name, but for its squared error."""
        found: dict[str, Array] = {}
        for side in Side:
            found[f"{side}_rows"] = self.state.rows[side]
            for name, sums in (("sums", self.state.sums[side]), ("rest", self.state.rest[side])):
                found[f"{side}_{name}_rows"] = sums.rows
                found[f"{side}_{name}_products"] = sums.products
            for n, link in enumerate(self.state.links[side]):
                found |= {
                    f"{side}_link_{n}_{part}": value for part, value in link._asdict().items()
                }
        return found

    def restore(self, arrays: dict[str, Array], squared_error: float) -> None:
        """Go on where ``arrays`` are."""
        rows = {side: arrays[f"{side}_rows"] for side in Side}
        sums, rest = (
            {
                side: RowSums(
                    len(rows[side]),
                    arrays[f"{side}_{name}_rows"],
                    arrays[f"{side}_{name}_products"],
                )
                for side in Side
            }
            for name in ("sums", "rest")
        )
        links = {
            side: tuple(
                Link(*(arrays[f"{side}_link_{n}_{part}"] for part in Link._fields))
                for n in range(len(self._features[side]))
            )
            for side in Side
        }
        self.state = ChainState(rows, sums, rest, links, squared_error)

    def sweep(self, number: int) -> Hyper:
        """Go one sweep on; ``number`` is another one for each of a chain."""
        rng = np.random.default_rng([self._seed, number])
        normals = {side: self._normals(side, number) for side in Side}
        self.state, hyper = run_sweep(
            self._pool, self._n_threads, self._blocks, self._features, self.state, normals, rng
        )
        return hyper

    def sums(self, hyper: Hyper) -> PassSums:
        """What the history is told of the draw."""
        return PassSums(
            squared_error=self.state.squared_error,
            n_ratings=self._blocks[USER].train.n_entries,
            penalty=hyper.penalty(
                self.state.rest, (link for links in self.state.links.values() for link in links)
            ),
            validation_squared_error=0.0,
            n_validation=0,
        )

    def trace(self, hyper: Hyper) -> Trace:
        """What is followed of the draw."""
        train, validation = self._blocks[USER].train, self._blocks[USER].validation
        validation_rmse = math.nan
        if validation.n_entries:
            total = _squared_error(self._pool, self._n_threads, validation, self.state.rows)
            validation_rmse = math.sqrt(total / validation.n_entries)
        return Trace(
            noise=1 / math.sqrt(hyper.noise_precision),
            signal=signal_norm(self.state.sums[USER], self.state.sums[ITEM]),
            train_rmse=math.sqrt(self.state.squared_error / train.n_entries),
            validation_rmse=validation_rmse,
        )

    def _normals(self, side: Side, sweep: int) -> Normals:
        """Numbers of their own for each use of a key in a sweep."""
        own, size = self._keys[side], self._settings.rank + 1
        links = []
        for n, keys in enumerate(self._feature_keys[side]):
            use = (2 * n + 1) * _USES
            of_rows = _normal_rows(self._pool, own, sweep + use, size)
            of_features = _normal_rows(self._pool, keys, sweep + use + _USES, size)
            links.append((of_rows, of_features))
        return Normals(_normal_rows(self._pool, own, sweep, size), tuple(links))


def run_sweep(
    pool: ThreadPoolExecutor,
    n_threads: int,
    blocks: dict[Side, RatingBlock],
    features: dict[Side, tuple[Features, ...]],
    state: ChainState,
    normals: dict[Side, Normals],
    rng: np.random.Generator,
) -> tuple[ChainState, Hyper]:
    """Draw α, and of each side m, Λ, the links and all rows, each given the latest of everything
    else."""
    noise_precision = draw_noise_precision(state.squared_error, blocks[USER].train.n_entries, rng)
    rows, sums, rest = dict(state.rows), dict(state.sums), dict(state.rest)
    links, priors = dict(state.links), {}
    for side in Side:
        priors[side] = draw_prior(rest[side], rng)
        links[side] = draw_links(
            pool, n_threads, features[side], links[side], rows[side], priors[side],
            normals[side].links, rng,
        )  # fmt: skip
        rows[side], sums[side], rest[side], squared_error = draw_side(
            pool, n_threads, blocks[side].train, rows[side.other], priors[side], noise_precision,
            normals[side].rows, offsets_of(links[side]),
        )  # fmt: skip
    return ChainState(rows, sums, rest, links, squared_error), Hyper(noise_precision, priors)


def _normal_rows(pool: ThreadPoolExecutor, keys: UInt64s, sweep: int, n: int) -> Float32s:
    """As ``normal_rows``, by all threads."""
    parts = np.array_split(keys, -(-len(keys) // _KEYS_PER_PART))
    return np.concatenate(results_of(pool, lambda part: normal_rows(part, sweep, n), parts))


def _squared_error(
    pool: ThreadPoolExecutor, n_threads: int, ratings: Csr, rows: dict[Side, Float32s]
) -> float:
    """Σ (r − r̂)² over the ratings of all users."""
    items = AlignedRows.of(rows[ITEM])
    parts = results_of(
        pool,
        lambda part: squared_error(ratings.slice(*part), rows[USER][slice(*part)], items, 0.0),
        row_ranges(ratings.counts, n_threads),
    )
    return sum(parts)


def draw_side(
    pool: ThreadPoolExecutor,
    n_threads: int,
    train: Csr,
    other: Float32s,
    prior: Prior,
    noise_precision: float,
    normals: Float32s,
    offsets: Float32s | None,
) -> tuple[Float32s, RowSums, RowSums, float]:
    """One draw of all rows of a side, given those of the ``other`` one (see ``draw_rows``): rows,
    their sums, sums of what the ``offsets`` leave of them, and Σ (r − r̂)²."""
    fixed = AlignedRows.of(other)
    n_hot, ranges = share_rows(train.counts, n_threads)

    def sums_of(rows: Float32s, first: int, last: int) -> tuple[RowSums, RowSums]:
        sums = RowSums.of(rows)
        return sums, sums if offsets is None else RowSums.of(rows - offsets[first:last])

    def draw(first: int, last: int) -> tuple[Float32s, RowSums, RowSums, float]:
        around = None if offsets is None else offsets[first:last]
        rows, error = draw_rows(
            train.slice(first, last), fixed, prior, noise_precision, normals[first:last], around
        )
        return rows, *sums_of(rows, first, last), error

    done = pool.map(lambda rows: draw(*rows), ranges)
    moments = shared_moments(pool, n_threads, train.slice(0, n_hot), fixed, 0.0)
    around = None if offsets is None else offsets[:n_hot]
    hot, hot_error = draw_rows_of_moments(moments, prior, noise_precision, normals[:n_hot], around)
    first = (hot, *sums_of(hot, 0, n_hot), hot_error)
    drawn, sums, rest, errors = zip(first, *done, strict=True)
    return np.concatenate(drawn), reduce(add, sums), reduce(add, rest), float(sum(errors))
