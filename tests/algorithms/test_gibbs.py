"""The sampler draws from the posterior that it claims to draw from."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mfspark.algorithms import gibbs_threads, hyper_priors
from mfspark.algorithms.gibbs_threads import ChainState, Normals, ThreadedGibbs, run_sweep
from mfspark.algorithms.history import Spread
from mfspark.algorithms.hyper_priors import (
    PRIOR_SCATTER,
    draw_link_precision,
    draw_noise_precision,
    draw_prior,
)
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.link import Features, Link
from mfspark.algorithms.posterior import StoredDraws, posterior_of
from mfspark.algorithms.running_mean import RunningMean
from mfspark.columns import IS_VALIDATION, ITEM, USER, Side
from mfspark.kernels.csr import build_block
from mfspark.kernels.draw import RowSums
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import BayesianSettings

OBJECTIVE = Objective(0.0, True, Penalty(1.0, 0.25, 0.5), Penalty(1.0, 0.25, 0.5))


def test_hyper_parameters_have_their_conditional_distributions(rng):
    """Means and variances of normal–Wishart and gamma draws, from the formulas of the book."""
    rows = rng.normal(1.0, 0.5, (30, 3)).astype(np.float32)
    n, size = rows.shape
    drawn = [draw_prior(RowSums.of(rows), rng) for _ in range(4000)]
    center = rows.sum(axis=0) / (n + 2)
    scatter = (rows - rows.mean(axis=0)).T @ (rows - rows.mean(axis=0))
    shift = 2 * n / (2 + n) * np.outer(rows.mean(axis=0), rows.mean(axis=0))
    wishart = stats.wishart(size + n, np.linalg.inv(PRIOR_SCATTER * np.eye(size) + scatter + shift))
    precisions = np.stack([prior.precision for prior in drawn])
    error = precisions.std(axis=0) / np.sqrt(len(drawn))
    assert (abs(precisions.mean(axis=0) - wishart.mean()) < 4 * error).all()
    np.testing.assert_allclose(precisions.var(axis=0), wishart.var(), rtol=0.15)
    # (m − center) √(β₀ + n) in units of Λ is standard normal.
    scaled = [
        np.linalg.cholesky(prior.precision).T @ (prior.mean - center) * np.sqrt(n + 2)
        for prior in drawn
    ]
    assert stats.kstest(np.concatenate(scaled), "norm").pvalue > 1e-3
    noise = [draw_noise_precision(50.0, 80, rng) for _ in range(4000)]
    assert stats.kstest(noise, stats.gamma(1 + 40, scale=1 / (1 + 25)).cdf).pvalue > 1e-3


# Geweke, Getting it right (2004): parameters and ratings drawn together from the prior, and by the
# sampler in turn with ratings given the parameters, have one distribution. Chains that begin with a
# draw of that distribution stay in it, so that their means are independent, however slowly they go.
N_USERS, N_ITEMS, RANK = 5, 4, 1
N_CHAINS, N_SWEEPS = 40, 75
N_ROWS = {USER: N_USERS, ITEM: N_ITEMS}
SIZE = RANK + 1
# Features of users; of items nothing is known.
F = np.array([[1, 0], [0.5, -1], [0, 0], [0, 2], [1.5, 1]], np.float32)


def csr_of(matrix):
    rows, columns = (part.astype(np.int32) for part in np.nonzero(matrix))
    values = matrix[rows, columns].astype(np.float32)
    return build_block(rows, columns, values, np.zeros(len(rows), bool), *matrix.shape).train


FEATURES = {USER: (Features(csr_of(F), csr_of(F.T)),), ITEM: ()}


def blocks_of(ratings):
    users, items = (part.ravel().astype(np.int32) for part in np.indices(ratings.shape))
    values = ratings.ravel().astype(np.float32)
    none = np.zeros(len(values), bool)
    return {
        USER: build_block(users, items, values, none, N_USERS, N_ITEMS),
        ITEM: build_block(items, users, values, none, N_ITEMS, N_USERS),
    }


def predicted(rows):
    p, q = rows[USER], rows[ITEM]
    return p[:, :-1] @ q[:, :-1].T + p[:, -1:] + q[:, -1]


def with_ratings(rows, links, noise_precision, rng):
    """Ratings given the parameters, and the state of a chain that has just seen them."""
    noise = rng.normal(0, 1 / np.sqrt(noise_precision), (N_USERS, N_ITEMS))
    ratings = predicted(rows) + noise
    sums = {side: RowSums.of(rows[side]) for side in Side}
    rest = sums | {USER: RowSums.of(rows[USER] - sum(link.offsets for link in links[USER]))}
    return ratings, ChainState(rows, sums, rest, links, float(np.sum(noise**2)))


def statistics(state, ratings, noise_precision, priors):
    """Functions of all parts of the joint distribution, bounded since its tails are long."""
    rows, links = state.rows, state.links[USER]
    squares = [np.mean(rows[side] ** 2, axis=0) for side in Side]
    return np.tanh(
        np.concatenate(
            [
                [np.log(noise_precision), ratings[0, 0], np.mean(ratings**2), ratings[1, 2] ** 2],
                *squares,
                *[rows[side][0] for side in Side],
                *[priors[side].mean for side in Side],
                *[np.log(np.diag(priors[side].precision)) for side in Side],
                *[link.coefficients.ravel() for link in links],
                *[np.mean(link.coefficients**2, axis=0) for link in links],
                *[np.log(np.diag(link.precision)) for link in links],
                [np.mean(link.offsets * rows[USER]) for link in links],
            ]
        )
    )


def normal(rng, mean, precision, n):
    return rng.multivariate_normal(mean, np.linalg.inv(precision), n).astype(np.float32)


def link_from_the_prior(matrix, rng):
    precision = draw_link_precision(np.zeros((0, SIZE), np.float32), rng)
    coefficients = normal(rng, np.zeros(SIZE), precision, matrix.shape[1])
    return Link(coefficients, precision, matrix @ coefficients)


def drawn_together(rng):
    """One draw of everything: what is looked at, and the state of a chain there."""
    nothing = RowSums(0, np.zeros(SIZE), np.zeros((SIZE, SIZE)))
    alpha = draw_noise_precision(0.0, 0, rng)
    priors = {side: draw_prior(nothing, rng) for side in Side}
    rows = {
        side: normal(rng, priors[side].mean, priors[side].precision, N_ROWS[side]) for side in Side
    }
    links = {USER: (link_from_the_prior(F, rng),), ITEM: ()}
    rows[USER] += links[USER][0].offsets
    ratings, state = with_ratings(rows, links, alpha, rng)
    return statistics(state, ratings, alpha, priors), ratings, state


def from_the_prior(rng):
    return np.array([drawn_together(rng)[0] for _ in range(N_CHAINS * N_SWEEPS)])


def from_chains(rng, noise_scale=1.0, link_scale=1.0):
    """Of each chain and sweep what is looked at, [N_CHAINS, N_SWEEPS, …]."""

    def numbers(n, scale):
        return rng.normal(0, scale, (n, SIZE)).astype(np.float32)

    def sweep(pool, ratings, state):
        of_links = tuple(
            (numbers(N_USERS, link_scale), numbers(known.by_feature.n_rows, link_scale))
            for known in FEATURES[USER]
        )
        normals = {
            USER: Normals(numbers(N_USERS, noise_scale), of_links),
            ITEM: Normals(numbers(N_ITEMS, noise_scale), ()),
        }
        state, hyper = run_sweep(pool, 1, blocks_of(ratings), FEATURES, state, normals, rng)
        ratings, state = with_ratings(state.rows, state.links, hyper.noise_precision, rng)
        return ratings, state, statistics(state, ratings, hyper.noise_precision, hyper.priors)

    found = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(N_CHAINS):
            _, ratings, state = drawn_together(rng)
            found.append([])
            for _ in range(N_SWEEPS):
                ratings, state, looked_at = sweep(pool, ratings, state)
                found[-1].append(looked_at)
    return np.array(found)


def z_scores(chains, independent):
    """Differences of means in units of their errors."""
    means = chains.mean(axis=1)
    error = np.sqrt(
        means.var(axis=0, ddof=1) / N_CHAINS + independent.var(axis=0) / len(independent)
    )
    return (means.mean(axis=0) - independent.mean(axis=0)) / error


@pytest.fixture(scope="module", name="independent")
def _independent():
    # A prior so wide that the chain takes long walks in it would need as long a test.
    with patch.object(hyper_priors, "PRIOR_SCATTER", 1.0):
        yield from_the_prior(np.random.default_rng(1))


def test_the_chain_draws_from_the_joint_distribution(independent):
    assert abs(z_scores(from_chains(np.random.default_rng(2)), independent)).max() < 4


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"noise_scale": 0.75}, {"link_scale": 2.0}])
def test_a_wrong_scale_of_the_noise_would_be_noticed(independent, wrong):
    chain = from_chains(np.random.default_rng(2), **wrong)
    assert abs(z_scores(chain, independent)).max() > 6


@pytest.mark.slow
def test_a_missing_draw_of_hyper_parameters_would_be_noticed(independent, monkeypatch):
    first = draw_prior(RowSums.of(np.eye(SIZE, dtype=np.float32)), np.random.default_rng(0))
    monkeypatch.setattr(gibbs_threads, "draw_prior", lambda sums, rng: first)
    chain = from_chains(np.random.default_rng(2))
    assert abs(z_scores(chain, independent)).max() > 6


# Whole fits.


def ratings_of(seed, n_users=120, n_items=60, noise=0.4, density=0.35):
    """Planted ratings of mean 0, and the truth of all pairs."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 0.7, (n_users, 2)), rng.normal(0, 0.7, (n_items, 2))
    truth = p @ q.T + rng.normal(0, 0.4, n_users)[:, None] + rng.normal(0, 0.4, n_items)
    users, items = np.nonzero(rng.random(truth.shape) < density)
    values = truth[users, items] + rng.normal(0, noise, len(users))
    table = {"user": users, "item": items, "rating": values.astype(np.float32)}
    return pa.table(table), truth


def all_pairs(ratings, rows):
    """Predictions in the order of the ids."""
    order = {side: np.argsort(ratings.ids[side].to_numpy()) for side in Side}
    return predicted({side: rows[side][order[side]] for side in Side})


def fitted(table, n_threads=2, **settings):
    ratings = index_ratings(with_validation_column(table))
    given = {"rank": 4, "max_iter": 60, "tol": 0.0, "seed": 3} | settings
    return ratings, ThreadedGibbs(OBJECTIVE, BayesianSettings(**given)).learn(ratings, n_threads)


def test_finds_the_planted_truth_and_the_noise():
    table, truth = ratings_of(0)
    ratings, found = fitted(table)
    error = all_pairs(ratings, found.rows) - truth
    assert np.sqrt(np.mean(error**2)) < 0.25
    assert found.posterior.spread.noise == pytest.approx(0.4**2, rel=0.1)
    # Unlike those of a point, the deviations of its draws from the mean are of the mean's own
    # error's size.
    draws = found.posterior.draws
    each = np.stack(
        [
            all_pairs(ratings, {side: draws[side][:, n] for side in Side})
            for n in range(found.posterior.n_draws)
        ]
    )
    z = error / each.std(axis=0, ddof=1)
    assert 0.7 < np.median(abs(z)) / stats.t(len(each) - 1).ppf(0.75) < 1.4


@pytest.mark.usefixtures("every_row_shared_out")
def test_threads_and_the_order_of_rows_make_no_difference(rng):
    table, _ = ratings_of(1)
    ratings, one = fitted(table, n_threads=1)
    shuffled, many = fitted(table.take(rng.permutation(table.num_rows)), n_threads=4)
    np.testing.assert_allclose(
        all_pairs(ratings, one.rows), all_pairs(shuffled, many.rows), atol=2e-3
    )
    for before, after in zip(one.history.rows, many.history.rows, strict=True):
        assert after.train_rmse == pytest.approx(before.train_rmse, rel=1e-3)


@pytest.mark.slow
def test_another_seed_is_another_chain_around_the_same_mean():
    table, truth = ratings_of(2)
    ratings, one = fitted(table, max_iter=200)
    _, other = fitted(table, max_iter=200, seed=4)
    difference = all_pairs(ratings, one.rows) - all_pairs(ratings, other.rows)
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.1 * truth.std()


def test_stops_when_the_mean_has_come_to_rest():
    table, _ = ratings_of(3)
    _, found = fitted(table, max_iter=400, tol=1e-2)
    assert found.history.reason == "converged"
    assert 20 <= found.best_iteration < 100
    is_validation = np.random.default_rng(0).random(table.num_rows) < 0.2
    marked = table.append_column(IS_VALIDATION, pa.array(is_validation))
    _, found = fitted(marked, max_iter=400, tol=1e-2)
    assert found.history.reason == "validation"
    measured = [row.validation_rmse for row in found.history.rows if row.validation_rmse]
    assert len(measured) == (len(found.history.rows) - 10) // 5
    assert measured[-1] < measured[0]


def test_rank_zero_is_biases_alone():
    table, _ = ratings_of(5)
    ratings, found = fitted(table, rank=0)
    rows = found.rows
    assert rows[USER].shape == (120, 1)
    error = rows[USER][ratings.positions[USER], 0] + rows[ITEM][ratings.positions[ITEM], 0]
    assert np.std(ratings.rating - error) < 0.95 * np.std(ratings.rating)


def test_ratings_without_noise_end_in_finite_rows():
    table, truth = ratings_of(6, noise=0.0)
    ratings, found = fitted(table, rank=3)
    error = all_pairs(ratings, found.rows) - truth
    assert np.sqrt(np.mean(error**2)) < 0.1 * truth.std()


def test_burn_in_must_end():
    with pytest.raises(ValueError, match="no draw would be averaged"):
        BayesianSettings(max_iter=10, burn_in=10)


@pytest.mark.parametrize("n_draws", [1, 2, 3, 8])
def test_the_mean_of_few_draws_is_exact(rng, n_draws):
    """As many directions are kept as the draws together have, here at most two times the rank."""
    basis = {USER: rng.normal(size=(2, 30)), ITEM: rng.normal(size=(2, 20))}
    draws = []
    for _ in range(n_draws):
        factors = {side: (rng.normal(size=(2, 2)) @ rows).T for side, rows in basis.items()}
        draws.append(
            {
                side: np.column_stack([rows, rng.normal(size=len(rows))]).astype(np.float32)
                for side, rows in factors.items()
            }
        )
    mean = RunningMean(2)
    with ThreadPoolExecutor(2) as pool:
        for draw in draws:
            mean.add(draw, pool)
        rows = mean.final(pool)
    expected = np.mean([predicted(draw) for draw in draws], axis=0)
    np.testing.assert_allclose(predicted(rows), expected, atol=1e-4)


def test_the_mean_keeps_the_greatest_directions(rng):
    """What is left out is no more than the best approximation of that rank leaves."""
    draws = [
        {side: rng.normal(size=(n, 4)).astype(np.float32) for side, n in ((USER, 40), (ITEM, 25))}
        for _ in range(3)
    ]
    mean = RunningMean(3)
    with ThreadPoolExecutor(1) as pool:
        for draw in draws:
            mean.add(draw, pool)
        rows = mean.final(pool)
    exact = np.mean([predicted(draw) for draw in draws], axis=0)
    biases = rows[USER][:, -1:] + rows[ITEM][:, -1]
    exact_biases = np.mean([d[USER][:, -1:] + d[ITEM][:, -1] for d in draws], axis=0)
    np.testing.assert_allclose(biases, exact_biases, atol=1e-5)
    s = np.linalg.svd(exact - exact_biases, compute_uv=False)
    best = np.sqrt(np.sum(s[3:] ** 2))
    assert np.linalg.norm(predicted(rows) - exact) < 1.05 * best


def test_stored_draws_are_spread_over_the_chain():
    stored = StoredDraws(4)
    for n in range(23):
        rows = {side: np.full((2, 3), n, np.float32) for side in Side}
        stored.add(rows, Spread(float(n), 1.0, 2.0))
    posterior = posterior_of(stored)
    assert posterior.draws[USER][0, :, 0].tolist() == [0, 8, 16]
    assert posterior.draws[ITEM].shape == (2, 3, 3)
    assert posterior.spread == Spread(11.0, 1.0, 2.0)
    none = StoredDraws(0)
    none.add({side: np.zeros((2, 3), np.float32) for side in Side}, Spread(1.0, 1.0, 1.0))
    assert posterior_of(none).n_draws == 0


@pytest.mark.slow
def test_chains_agree_and_are_averaged():
    table, _ = ratings_of(7)
    is_validation = np.random.default_rng(0).random(table.num_rows) < 0.2
    marked = table.append_column(IS_VALIDATION, pa.array(is_validation))
    ratings, one = fitted(marked, max_iter=100)
    _, several = fitted(marked, max_iter=100, num_chains=3)
    # The history is that of the first chain.
    assert [row[:3] for row in several.history.rows] == [row[:3] for row in one.history.rows]
    difference = all_pairs(ratings, one.rows) - all_pairs(ratings, several.rows)
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.1
    quantities = {each.quantity: each for each in several.posterior.diagnostics}
    assert quantities["noise"].mean == pytest.approx(0.4, rel=0.1)
    # A draw is worse than the mean of all, and better than no model.
    assert 0.4 < quantities["validation_rmse"].mean < ratings.rating.std()
    assert several.history.rows[-1].validation_rmse < quantities["validation_rmse"].mean
    for each in quantities.values():
        assert each.rhat < 1.3
        assert 5 < each.ess < 3 * 90 * 1.5
