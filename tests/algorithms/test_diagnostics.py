"""What is said of chains: by the known answer of independent, sticky and disagreeing draws."""

import math

import numpy as np
import pytest

from mfspark.algorithms.diagnostics import Trace, diagnose, signal_norm
from mfspark.kernels.draw import RowSums


def chains_of(values):
    """Chains whose every quantity has ``values`` [n_chains, n_draws]."""
    return [[Trace(*[value] * 4) for value in chain] for chain in values]


def test_independent_draws_are_worth_themselves(rng):
    found = diagnose(chains_of(rng.normal(3, 0.1, (2, 500))), scale=2.0)
    assert [each.quantity for each in found] == list(Trace._fields)
    for each in found:
        assert each.mean == pytest.approx(3 * 2, rel=0.01)
        assert each.std == pytest.approx(0.1 * 2, rel=0.1)
        assert each.rhat == pytest.approx(1, abs=0.01)
        assert each.ess == pytest.approx(1000, rel=0.2)


def test_sticky_draws_are_worth_less(rng):
    """Of an autoregression with coefficient ρ, n draws are worth n (1 − ρ) / (1 + ρ)."""
    values = np.zeros((2, 4000))
    for n in range(1, 4000):
        values[:, n] = 0.8 * values[:, n - 1] + rng.normal(size=2)
    assert diagnose(chains_of(values), 1.0)[0].ess == pytest.approx(8000 / 9, rel=0.25)


def test_a_chain_on_its_way_and_chains_apart_are_noticed(rng):
    one = np.linspace(0, 1, 100)[None] + rng.normal(0, 0.1, (1, 100))
    assert diagnose(chains_of(one), 1.0)[0].rhat > 1.5
    apart = rng.normal(np.array([[0.0], [1.0]]), 0.1, (2, 100))
    assert diagnose(chains_of(apart), 1.0)[0].rhat > 1.5


def test_where_nothing_can_be_said():
    few = diagnose(chains_of([[1.0, 2.0, 3.0]]), 1.0)[0]
    assert (few.mean, few.rhat, few.ess) == (2, None, None)
    still = diagnose(chains_of(np.ones((1, 50))), 1.0)[0]
    assert (still.std, still.rhat, still.ess) == (0, None, None)
    found = diagnose([[Trace(1.0, 1.0, 1.0, math.nan)]], 1.0)
    assert [each.quantity for each in found] == list(Trace._fields[:-1])


def test_the_signal_is_that_of_all_pairs(rng):
    users = rng.normal(size=(7, 4)).astype(np.float32)
    items = rng.normal(size=(5, 4)).astype(np.float32)
    signal = users[:, :-1] @ items[:, :-1].T + users[:, -1:] + items[:, -1]
    found = signal_norm(RowSums.of(users), RowSums.of(items))
    assert found == pytest.approx(np.sqrt(np.mean(signal**2)), rel=1e-6)
