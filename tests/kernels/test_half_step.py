"""The half-step kernel against its readable twin, a dense oracle and properties of a minimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.columns import ITEM, USER
from mfspark.kernels import half_step as fast
from mfspark.kernels import reference
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import RatingBlock, build_block
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import (
    half_step_of_moments,
    packed_moments,
    row_moments,
    unpacked_moments,
)
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.random import random_rows


def random_block(
    rng: np.random.Generator, n_rows: int, n_columns: int, density: float = 0.3
) -> RatingBlock:
    rows, columns = np.nonzero(rng.random((n_rows, n_columns)) < density)
    values = rng.integers(1, 11, len(rows)).astype(np.float32) / 2
    order = rng.permutation(len(rows))
    return build_block(
        rows[order].astype(np.int32),
        columns[order].astype(np.int32),
        values[order],
        rng.random(len(rows)) < 0.1,
        n_rows,
        n_columns,
    )


def random_side(rng: np.random.Generator, n: int, rank: int) -> np.ndarray:
    return rng.normal(0, 0.5, (n, rank + 1)).astype(np.float32)


def objective_of(penalty: Penalty, fit_biases: bool = True) -> Objective:
    return Objective(3.0, fit_biases, penalty, penalty)


def dense_objective(block, solved, fixed, mean, penalty):
    """Training objective of the solved side from a dense matrix; shares no code with mfspark."""
    n_rows, n_columns = len(solved), len(fixed)
    predicted = mean + solved[:, -1:] + fixed[:, -1] + solved[:, :-1] @ fixed[:, :-1].T
    dense = np.full((n_rows, n_columns), np.nan)
    for row in range(n_rows):
        for entry in range(block.train.indptr[row], block.train.indptr[row + 1]):
            dense[row, block.train.columns[entry]] = block.train.values[entry]
    counts = (~np.isnan(dense)).sum(axis=1)
    squares = np.nansum((dense - predicted) ** 2)
    weights = np.where(counts > 0, counts.astype(float) ** penalty.exponent, 0)
    ridge = penalty.factors * (solved[:, :-1] ** 2).sum(axis=1) + penalty.bias * solved[:, -1] ** 2
    return squares + weights @ ridge


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 12),
    n_columns=st.integers(1, 200),
    rank=st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 33]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    fit_biases=st.booleans(),
)
def test_solve_agrees_with_the_readable_twin(
    seed, n_rows, n_columns, rank, density, exponent, fit_biases
):
    rng = np.random.default_rng(seed)
    block = random_block(rng, n_rows, n_columns, density)
    fixed = random_side(rng, n_columns, rank)
    if not fit_biases:
        fixed[:, -1] = 0
    other = Penalty(9.0, 9.0, exponent)
    objective = Objective(3.3, fit_biases, Penalty(0.5, 0.2, exponent), other)
    ours, error = fast.solve_rows(block.train, AlignedRows.of(fixed), objective, USER, "exact")
    theirs = reference.solve_rows(block.train, fixed, objective, USER)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert error == pytest.approx(
        reference.squared_error(block.train, ours.astype(float), fixed, 3.3), rel=1e-4, abs=1e-6
    )
    assert np.all(ours[block.train.counts == 0] == 0)
    if not fit_biases:
        assert np.all(ours[:, -1] == 0)


@pytest.mark.parametrize("rank", [6, 10, 14, 20])
@pytest.mark.parametrize("ridge", [1e-7, 1e-5, 1e-4, 1e-2])
def test_rows_with_fewer_ratings_than_factors_and_hardly_a_ridge(rng, rank, ridge):
    """What the ridge alone decides, rounding must not."""
    lengths = [1, 2, 3, rank // 2, rank - 1]
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    columns = rng.integers(0, 300, len(rows)).astype(np.int32)
    values = rng.normal(size=len(rows)).astype(np.float32)
    block = build_block(rows, columns, values, np.zeros(len(rows), bool), len(lengths), 300)
    fixed = random_side(rng, 300, rank)
    objective = objective_of(Penalty(ridge, 1.0, 0.0))
    ours, _ = fast.solve_rows(block.train, AlignedRows.of(fixed), objective, USER, "exact")
    theirs = reference.solve_rows(block.train, fixed, objective, USER)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 12),
    n_columns=st.integers(1, 200),
    rank=st.sampled_from([1, 3, 15, 16, 17, 64, 100]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    ridge=st.sampled_from([1e-3, 0.5, 20.0]),
    fit_biases=st.booleans(),
)
def test_conjugate_gradients_leave_a_thousandth(
    seed, n_rows, n_columns, rank, density, ridge, fit_biases
):
    """Of every row |Σ v t − A x| ≤ 10⁻³ |Σ v t|, taken from the dense equations in double."""
    rng = np.random.default_rng(seed)
    block = random_block(rng, n_rows, n_columns, density)
    fixed = random_side(rng, n_columns, rank)
    fixed[:, -1] *= fit_biases
    objective = Objective(3.3, fit_biases, Penalty(ridge, ridge / 2, 0.5), Penalty(9.0, 9.0, 0.5))
    solved, error = fast.solve_rows(block.train, AlignedRows.of(fixed), objective, USER, "cg")
    assert error == pytest.approx(
        reference.squared_error(block.train, solved.astype(float), fixed, 3.3), rel=1e-4, abs=1e-3
    )
    features = np.column_stack([fixed[:, :-1], np.full(n_columns, fit_biases)]).astype(float)
    weights = objective.users.row_weights(block.train.counts)
    for row in range(n_rows):
        entries = slice(*block.train.indptr[row : row + 2])
        rated = features[block.train.columns[entries]]
        targets = block.train.values[entries] - 3.3 - fixed[block.train.columns[entries], -1]
        ridges = weights[row] * np.append(np.full(rank, ridge), ridge / 2)
        right = rated.T @ targets
        left = right - rated.T @ (rated @ solved[row]) - ridges * solved[row]
        assert np.linalg.norm(left) <= 1.1e-3 * np.linalg.norm(right) + 1e-4
        if not len(targets):
            assert np.all(solved[row] == 0)
    if not fit_biases:
        assert np.all(solved[:, -1] == 0)


def test_rows_that_conjugate_gradients_do_not_reach_are_solved_exactly(rng):
    """Next to no ridge, and eigenvalues from 1 to 10⁸: many more steps than there may be."""
    block = random_block(rng, 5, 120, 0.9)
    fixed = random_side(rng, 120, 32)
    fixed[:, :-1] *= np.logspace(0, -4, 32, dtype=np.float32)
    objective = objective_of(Penalty(1e-6, 1e-6, 0.5))
    by_cg, exactly = (
        fast.solve_rows(block.train, AlignedRows.of(fixed), objective, USER, solver)[0]
        for solver in ("cg", "exact")
    )
    np.testing.assert_array_equal(by_cg, exactly)
    assert np.abs(by_cg).max() > 1


def test_the_solver_goes_by_the_rank(rng):
    block = random_block(rng, 40, 300, 0.5)
    for rank in (fast.CG_FROM_RANK - 1, fast.CG_FROM_RANK):
        fixed = AlignedRows.of(random_side(rng, 300, rank))
        objective = objective_of(Penalty(2.0, 1.0, 0.5))
        automatic, by_cg, exactly = (
            fast.solve_rows(block.train, fixed, objective, USER, solver)[0]
            for solver in ("auto", "cg", "exact")
        )
        is_cg = rank == fast.CG_FROM_RANK
        assert (automatic == by_cg).all() == is_cg
        assert (automatic == exactly).all() != is_cg


def test_sums_agree_with_a_dense_oracle(rng):
    block = random_block(rng, 20, 30)
    fixed = random_side(rng, 30, 5)
    penalty = Penalty(0.7, 0.3, 0.5)
    solved, sums = half_step(block, AlignedRows.of(fixed), objective_of(penalty), USER, "exact")
    objective = dense_objective(block, solved.astype(float), fixed.astype(float), 3.0, penalty)
    assert sums.squared_error + sums.penalty == pytest.approx(objective, rel=1e-5)
    assert sums.n_ratings == len(block.train.values)
    assert sums.validation_squared_error == pytest.approx(
        reference.squared_error(block.validation, solved, fixed, 3.0), rel=1e-5
    )
    assert sums.n_validation == len(block.validation.values) > 0


@pytest.mark.parametrize("direction", range(6))
def test_solution_is_a_minimum_in_every_direction(rng, direction):
    block = random_block(rng, 10, 25)
    fixed = random_side(rng, 25, 5)
    penalty = Penalty(0.7, 0.3, 0.5)
    solved, _ = half_step(block, AlignedRows.of(fixed), objective_of(penalty), USER, "exact")
    at_minimum = dense_objective(block, solved.astype(float), fixed.astype(float), 3.0, penalty)
    for step in (-0.05, 0.05):
        moved = solved.astype(float)
        moved[block.train.counts > 0, direction] += step
        assert dense_objective(block, moved, fixed.astype(float), 3.0, penalty) > at_minimum


def test_gradient_vanishes_on_the_solved_side(rng):
    block = random_block(rng, 10, 40)
    fixed = random_side(rng, 40, 4)
    penalty = Penalty(0.7, 0.3, 0.5)
    solved, _ = half_step(block, AlignedRows.of(fixed), objective_of(penalty), USER, "exact")
    features = np.column_stack([fixed[:, :-1], np.ones(len(fixed))]).astype(float)
    for row in range(10):
        entries = slice(block.train.indptr[row], block.train.indptr[row + 1])
        rated = block.train.columns[entries]
        errors = (
            block.train.values[entries] - 3.0 - fixed[rated, -1] - features[rated] @ solved[row]
        )
        n = block.train.counts[row]
        ridge = np.append(np.full(4, 0.7), 0.3) * max(n, 1) ** 0.5
        gradient = -2 * features[rated].T @ errors + 2 * ridge * solved[row]
        assert np.abs(gradient).max() < 1e-3


def alternate(users: RatingBlock, items: RatingBlock, rank: int, iterations: int, penalty: Penalty):
    """Plain ALS on one block per side; yields the objective after each half-step."""
    q = random_rows(np.arange(items.train.n_rows, dtype=np.uint64), rank)
    q_penalty = penalty.total(items.train.counts, q)
    for _ in range(iterations):
        p, sums = half_step(users, AlignedRows.of(q), objective_of(penalty), USER, "exact")
        yield p, q, sums.squared_error + sums.penalty + q_penalty
        p_penalty = sums.penalty
        q, sums = half_step(items, AlignedRows.of(p), objective_of(penalty), ITEM, "exact")
        q_penalty = sums.penalty
        yield p, q, sums.squared_error + p_penalty + q_penalty


def both_sides(users, items, values, n_users, n_items):
    none = np.zeros(len(values), bool)
    users, items = users.astype(np.int32), items.astype(np.int32)
    return (
        build_block(users, items, values, none, n_users, n_items),
        build_block(items, users, values, none, n_items, n_users),
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.sampled_from([0.0, 0.5, 1.0]))
def test_objective_never_rises(seed, exponent):
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random((30, 20)) < 0.4)
    values = rng.integers(1, 6, len(rows)).astype(np.float32)
    blocks = both_sides(rows, columns, values, 30, 20)
    objectives = [o for *_, o in alternate(*blocks, 4, 8, Penalty(0.3, 0.1, exponent))]
    assert np.all(np.diff(objectives) <= 1e-5 * np.abs(objectives[:-1]))


def test_planted_model_is_recovered(rng):
    n_users, n_items, rank = 200, 120, 3
    p, q = rng.normal(0, 0.6, (n_users, rank)), rng.normal(0, 0.6, (n_items, rank))
    b_u, b_i = rng.normal(0, 0.4, n_users), rng.normal(0, 0.4, n_items)
    truth = 3.0 + b_u[:, None] + b_i + p @ q.T
    rows, columns = np.nonzero(rng.random(truth.shape) < 0.4)
    values = truth[rows, columns].astype(np.float32)
    blocks = both_sides(rows, columns, values, n_users, n_items)
    *_, (found_p, found_q, _) = alternate(*blocks, rank, 60, Penalty(1e-3, 1e-3, 0.0))
    predicted = 3.0 + found_p[:, -1:] + found_q[:, -1] + found_p[:, :-1] @ found_q[:, :-1].T
    unseen = np.ones(truth.shape, bool)
    unseen[rows, columns] = False
    assert np.sqrt(np.mean((predicted - truth)[unseen] ** 2)) < 0.02


@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("fit_biases", [True, False])
def test_singular_rows_get_finite_solutions_that_fit(rng, fit_biases, solver):
    """λ = 0 and fewer ratings than features: infinitely many solutions, none of them NaN."""
    block = random_block(rng, 6, 4, 0.7)
    fixed = random_side(rng, 4, 8)
    fixed[:, -1] *= fit_biases
    solved, sums = half_step(
        block, AlignedRows.of(fixed), objective_of(Penalty(0, 0, 0.5), fit_biases), USER, solver
    )
    assert np.isfinite(solved).all()
    assert sums.squared_error < 1e-3


def test_all_equal_ratings_leave_nothing_to_the_factors():
    users, items = np.divmod(np.arange(12), 4)
    blocks = both_sides(users, items, np.full(12, 3.0, np.float32), 3, 4)
    *_, (p, q, objective) = alternate(*blocks, 2, 5, Penalty(0.5, 0.1, 0.5))
    assert objective == pytest.approx(0, abs=1e-6)
    assert np.abs(p @ q.T).max() < 1e-4


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.sampled_from([1, 3, 16, 33]),
    n_parts=st.integers(1, 4),
    fit_biases=st.booleans(),
)
def test_moments_of_the_parts_of_rows_give_the_half_step_of_the_whole(
    seed, rank, n_parts, fit_biases
):
    rng = np.random.default_rng(seed)
    block = random_block(rng, 3, 150, 0.9)
    fixed = random_side(rng, 150, rank)
    fixed[:, -1] *= fit_biases
    objective = Objective(3.3, fit_biases, Penalty(0.5, 0.2, 0.5), Penalty(9.0, 9.0, 0.5))
    part_of = rng.integers(0, n_parts, 150)
    moments = []
    for whole in (block.train, block.validation):
        rows = np.repeat(np.arange(3), whole.counts)
        parts = [part_of[whole.columns] == part for part in range(n_parts)]
        moments.append(
            sum(
                row_moments(
                    build_block(
                        rows[p].astype(np.int32), whole.columns[p], whole.values[p],
                        np.zeros(p.sum(), bool), 3, 150,
                    ).train, AlignedRows.of(fixed), 3.3,
                )
                for p in parts
            )
        )  # fmt: skip
    solved, sums = half_step_of_moments(*moments, objective, USER)
    expected, expected_sums = half_step(block, AlignedRows.of(fixed), objective, USER, "exact")
    np.testing.assert_allclose(solved, expected, atol=2e-4)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 10, 33])
def test_packed_moments_are_the_upper_triangles_of_some_rows(rng, rank):
    n, fixed = 4000, AlignedRows.of(random_side(rng, 90, rank))
    rows, columns = np.sort(rng.integers(0, 30, n)).astype(np.int32), rng.integers(0, 90, n)
    values, none = rng.integers(1, 6, n).astype(np.float32), np.zeros(n, bool)
    train = build_block(rows, columns.astype(np.int32), values, none, 30, 90).train
    chosen = rng.random(30) < 0.5
    packed = packed_moments(train, chosen, fixed, 3.0)
    expected = row_moments(train, fixed, 3.0)[chosen]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(unpacked_moments(packed, rank), expected, atol=1e-6 * scale)
    assert packed_moments(train, np.zeros(30, bool), fixed, 3.0).shape == (0, packed.shape[1])


def test_moments_of_long_rows_lose_no_precision(rng):
    n = 200_000
    rows, columns = np.zeros(n, np.int32), rng.integers(0, 500, n).astype(np.int32)
    values = rng.integers(1, 6, n).astype(np.float32)
    fixed = random_side(rng, 500, 6)
    row = build_block(rows, columns, values, np.zeros(n, bool), 1, 500).train
    v = np.column_stack([fixed[columns, :-1], np.ones(n), values - 3.0 - fixed[columns, -1]])
    exact = v.T.astype(float) @ v.astype(float)
    np.testing.assert_allclose(
        row_moments(row, AlignedRows.of(fixed), 3.0)[0], exact, rtol=1e-5, atol=1e-2
    )


@pytest.mark.parametrize("fit_biases", [True, False])
@pytest.mark.parametrize("rank", [1, 5, 40])
def test_rows_are_solved_from_their_moments_to_the_last_digits(rng, rank, fit_biases):
    counts = np.array([0, 1, 30, 400])
    features = [np.column_stack([rng.normal(size=(n, rank)), np.ones(n)]) for n in counts]
    targets = [rng.normal(size=n) for n in counts]
    rows = [np.column_stack(pair) for pair in zip(features, targets, strict=True)]
    moments = np.stack([row.T @ row for row in rows])
    objective = Objective(0.0, fit_biases, Penalty(0.5, 0.2, 1.0), Penalty(9.0, 9.0, 1.0))
    solved, _ = half_step_of_moments(moments, np.zeros_like(moments), objective, USER)
    width = rank + fit_biases
    for row, n in enumerate(counts):
        known = features[row][:, :width]
        ridge = np.diag(max(n, 1) * np.array([0.5] * rank + [0.2])[:width])
        expected = np.linalg.solve(known.T @ known + ridge, known.T @ targets[row])
        np.testing.assert_allclose(solved[row, :width], expected, rtol=2e-6, atol=1e-9)


def test_rows_of_singular_moments_are_solved_with_the_least_ridge(rng):
    one = rng.normal(size=(50, 1))
    row = np.column_stack([one, one, 1e-9 * one, np.ones(50), 2 * one[:, 0] + 1])
    moments = (row.T @ row)[np.newaxis]
    none = Penalty(0.0, 0.0, 0.0)
    objective = Objective(0.0, True, none, none)
    solved, sums = half_step_of_moments(moments, np.zeros_like(moments), objective, USER)
    np.testing.assert_allclose(solved[0], [1, 1, 0, 1], atol=1e-3)
    assert sums.squared_error < 1e-3
