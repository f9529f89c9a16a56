"""Stochastic gradient descent over one stratum: a block of users against a block of items.

For each rating in turn, with e = r − μ − b_u − b_i − p_u·q_i (Funk 2006; Koren, Bell, Volinsky
2009)

    b_u ← (b_u + γ e) / (1 + γ λ_b w_u)      p_u ← (p_u + γ e q_i) / (1 + γ λ w_u)
    b_i ← (b_i + γ e) / (1 + γ λ_b w_i)      q_i ← (q_i + γ e p_u) / (1 + γ λ w_i)

with the old p_u: a step down the error, then the point that the penalty draws this one to (Duchi,
Singer 2009). Where γ λ w is small that is the usual p_u += γ (e q_i − λ w_u p_u), and no penalty is
too high for it. w_u = n_u^(ν−1). Over the n_u ratings of a user that is the penalty
n_u^ν (λ|p_u|² + λ_b b_u²) of :mod:`mfspark.kernels.half_step`, so both minimise the same objective;
with ν = 1 it is a constant λ for each rating.

Where rows have offsets (see :mod:`mfspark.algorithms.fitted_link`), they are drawn to these:
p_u − o_u and b_u − o_b stand in place of p_u and b_u where λ and λ_b are, and the like for items.

The rate γ is the same for all rows, or each row has its own, γ/√G, where G begins at 1 and adds up
the mean square of the row's gradients (AdaGrad by rows: Chin, Zhuang, Juan, Lin 2015, section 3).
"""

from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import AlignedRows, Float32s, Int32s, Int64s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr
from mfspark.kernels.objective import Objective
from mfspark.kernels.random import GAMMA, mix
from mfspark.kernels.vectors import dot, prefetch, step

# Ratings between the fetch of a row and its use.
_AHEAD = 8


class Entries(NamedTuple):
    """Ratings of a stratum in the order they are visited: rows int32 [n] in the user's side,
    columns int32 [n] in the item's, values float32 [n]."""

    rows: Int32s
    columns: Int32s
    values: Float32s

    def check(self) -> None:
        """Assert what compiled code relies on, but for the ranges of rows and columns."""
        assert self.rows.shape == self.columns.shape == self.values.shape
        assert self.rows.dtype == self.columns.dtype == np.int32
        assert self.values.dtype == np.float32


def entries_of(ratings: Csr) -> Entries:
    """All entries of a block, ordered by (row, column)."""
    rows = np.repeat(np.arange(ratings.n_rows, dtype=np.int32), ratings.counts)
    return Entries(rows, ratings.columns, ratings.values)


def split(entries: Entries, stratum: Int64s | Int32s, n_strata: int) -> list[Entries]:
    """Entries of each stratum, whose number is given for every entry, in the order they had."""
    # Of short numbers numpy sorts the digits, not the values: four times as fast.
    order = np.argsort(stratum.astype(np.min_scalar_type(n_strata)), kind="stable")
    ends = np.cumsum(np.bincount(stratum, minlength=n_strata))[:-1]
    rows, columns, values = entries
    return [Entries(rows[at], columns[at], values[at]) for at in np.split(order, ends)]


class SGDSide(NamedTuple):
    """Parameters of some users or items, changed in place.

    ``at`` holds factors and biases. ``weights`` float32 [n] is n^(ν−1). ``squares`` float32 [n, 2]
    is G of the factors and of the bias. ``offsets``: what rows are drawn to; None stands for zero.
    """

    at: AlignedRows
    weights: Float32s
    squares: Float32s
    offsets: AlignedRows | None = None

    @classmethod
    def start(cls, rows: Float32s, counts: Int64s, exponent: float) -> "SGDSide":
        """From rows [factors, bias], float32 [n, rank + 1], with ``counts`` int64 [n] ratings."""
        weights = np.maximum(counts, 1).astype(np.float64) ** (exponent - 1)
        squares = np.ones((len(rows), 2), np.float32)
        return cls(AlignedRows.of(rows), weights.astype(np.float32), squares)

    def copy(self) -> "SGDSide":
        """Parameters that can be changed without changing these."""
        return self._replace(at=self.at.copy(), squares=self.squares.copy())

    @property
    def rows(self) -> Float32s:
        """[factors, bias] of each, float32 [n, rank + 1]."""
        return np.column_stack([self.at.factors[:, : self.at.rank], self.at.bias])

    def check(self) -> None:
        """Assert what compiled code relies on."""
        self.at.check()
        assert self.weights.shape == (self.at.n_rows,)
        assert self.squares.shape == (self.at.n_rows, 2)
        assert self.weights.dtype == self.squares.dtype == np.float32
        if self.offsets is not None:
            self.offsets.check()
            assert self.offsets.factors.shape == self.at.factors.shape


def visit(
    entries: Entries,
    users: SGDSide,
    items: SGDSide,
    objective: Objective,
    rate: float,
    by_row: bool,
) -> float:
    """Visit every entry once, in place; returns Σ e², each from before its own update.

    ``rate`` γ, ``by_row`` AdaGrad. A result that is not finite says that the rate is too high.
    """
    entries.check()
    users.check()
    items.check()
    assert users.at.rank == items.at.rank
    assert (users.offsets is None) == (items.offsets is None)
    # Arrays that are not read where there are no offsets.
    user_offsets, item_offsets = users.offsets or users.at, items.offsets or items.at
    # Of a rate that is too high NumPy warns where the kernel is not compiled.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(
            _visit(
                *entries,
                users.at.factors,
                users.at.bias,
                users.weights,
                users.squares,
                items.at.factors,
                items.at.bias,
                items.weights,
                items.squares,
                np.float32(objective.mean),
                np.float32(objective.users.factors),
                np.float32(objective.users.bias),
                np.float32(objective.items.factors),
                np.float32(objective.items.bias),
                np.float32(rate),
                users.at.rank,
                objective.fit_biases,
                by_row,
                users.offsets is not None,
                user_offsets.factors,
                user_offsets.bias,
                item_offsets.factors,
                item_offsets.bias,
            )
        )


@jit
def _visit(  # type: ignore[no-untyped-def]
    rows, columns, values, p, user_bias, user_weights, user_squares, q, item_bias, item_weights,
    item_squares, mean, user_reg, user_bias_reg, item_reg, item_bias_reg, rate, rank, fit_biases,
    by_row, is_linked, p_offsets, user_bias_offsets, q_offsets, item_bias_offsets,
):  # fmt: skip
    """The updates of the module's docstring, one entry after another."""
    width, last = p.shape[1], len(rows) - 1
    total = 0.0
    # Numba makes doubles of float32 and integers together.
    one, two, inverse_rank = np.float32(1), np.float32(2), np.float32(1 / max(rank, 1))
    # The rate of a row is γ over its root; γ/√G and 1 / (1 + γ/√G s) take one division together.
    user_root = item_root = user_bias_root = item_bias_root = one
    for t in range(len(rows)):
        later = min(t + _AHEAD, last)
        for f in range(0, width, 16):
            prefetch(p, rows[later] * width + f)
            prefetch(q, columns[later] * width + f)
        u, i = rows[t], columns[t]
        product = dot(p, u, q, i)
        e = values[t] - mean - user_bias[u] - item_bias[i] - product
        total += np.float64(e) * e
        shrink_user, shrink_item = user_reg * user_weights[u], item_reg * item_weights[i]
        if by_row:
            user_root = np.sqrt(user_squares[u, 0])
            item_root = np.sqrt(item_squares[i, 0])
            pp, qq = dot(p, u, p, u), dot(q, i, q, i)
            # |e q − s p|² without a pass of its own.
            mixed, squared = two * e * product, e * e
            user_squares[u, 0] += inverse_rank * (
                squared * qq - shrink_user * mixed + shrink_user * shrink_user * pp
            )
            item_squares[i, 0] += inverse_rank * (
                squared * pp - shrink_item * mixed + shrink_item * shrink_item * qq
            )
            if is_linked:
                user_squares[u, 0] += inverse_rank * _with_offset(
                    shrink_user, e, p_offsets, u, p, q, i
                )
                item_squares[i, 0] += inverse_rank * _with_offset(
                    shrink_item, e, q_offsets, i, q, p, u
                )
        user_inverse = one / (user_root + rate * shrink_user)
        item_inverse = one / (item_root + rate * shrink_item)
        step(
            p, u, q, i,
            user_root * user_inverse, rate * user_inverse * e,
            item_root * item_inverse, rate * item_inverse * e,
        )  # fmt: skip
        if is_linked:
            for f in range(width):
                p[u, f] += rate * user_inverse * shrink_user * p_offsets[u, f]
                q[i, f] += rate * item_inverse * shrink_item * q_offsets[i, f]
        if fit_biases:
            user_distance, item_distance = user_bias[u], item_bias[i]
            if is_linked:
                user_distance -= user_bias_offsets[u]
                item_distance -= item_bias_offsets[i]
            user_pull, item_pull = user_bias_reg * user_weights[u], item_bias_reg * item_weights[i]
            user_slope = e - user_pull * user_distance
            item_slope = e - item_pull * item_distance
            if by_row:
                user_bias_root = np.sqrt(user_squares[u, 1])
                item_bias_root = np.sqrt(item_squares[i, 1])
                user_squares[u, 1] += user_slope * user_slope
                item_squares[i, 1] += item_slope * item_slope
            user_bias[u] += rate * user_slope / (user_bias_root + rate * user_pull)
            item_bias[i] += rate * item_slope / (item_bias_root + rate * item_pull)
    return total


@jit
def _with_offset(shrink, e, offsets, at, own, other, other_at):  # type: ignore[no-untyped-def]
    """What an offset o adds to |e q − s (p − o)|²: 2 s e o·q − 2 s² o·p + s² o·o."""
    of_other = dot(offsets, at, other, other_at)
    of_own, of_itself = dot(offsets, at, own, at), dot(offsets, at, offsets, at)
    two = np.float32(2)
    return two * shrink * e * of_other + shrink * shrink * (of_itself - two * of_own)


def shuffle(entries: Entries, key: int) -> None:
    """Put the entries into an order drawn from ``key``, in place (Fisher and Yates 1938).

    ``key`` has 64 bits. Draws are those of :mod:`mfspark.kernels.random`, brought into range by
    a product in place of a remainder (Lemire 2019); its bias is below n / 2³².
    """
    entries.check()
    # Draws wrap around, which NumPy warns of where the kernel is not compiled.
    with np.errstate(over="ignore"):
        _shuffle(*entries, np.uint64(key))


# The same function for one number, inside compiled code.
_mix_one = jit(mix)


@jit
def _shuffle(rows, columns, values, state):  # type: ignore[no-untyped-def]
    for t in range(len(rows) - 1, 0, -1):
        state += GAMMA
        draw = _mix_one(state) >> np.uint64(32)
        other = np.int64((draw * np.uint64(t + 1)) >> np.uint64(32))
        rows[t], rows[other] = rows[other], rows[t]
        columns[t], columns[other] = columns[other], columns[t]
        values[t], values[other] = values[other], values[t]
