"""Strata: every rating once per epoch, and never two threads at one row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.algorithms.strata import draw_sub_epochs, order_by_block, split_into_strata
from mfspark.kernels.csr import build_block


@settings(deadline=None)
@given(
    n=st.integers(1, 300),
    n_blocks=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(1, 50),
)
def test_each_epoch_visits_each_training_rating_once_and_never_shares_a_row(
    n, n_blocks, seed, epoch
):
    rng = np.random.default_rng(seed)
    n_users, n_items = 40, 17
    users = rng.integers(0, n_users, n).astype(np.int32)
    items = rng.integers(0, n_items, n).astype(np.int32)
    # The rating tells which one it is.
    rating = np.arange(n).astype(np.float32)
    is_validation = rng.random(n) < 0.2
    block = build_block(users, items, rating, is_validation, n_users, n_items)
    strata = split_into_strata(block.train, n_items, n_blocks)
    visited = []
    for pairs in draw_sub_epochs(n_blocks, seed, epoch):
        together = [strata[users][items] for users, items in pairs]
        for side in ("rows", "columns"):
            touched = [set(getattr(entries, side).tolist()) for entries in together]
            assert len(set().union(*touched)) == sum(map(len, touched)), side
        for entries in together:
            which = entries.values.astype(int)
            np.testing.assert_array_equal(entries.rows, users[which])
            np.testing.assert_array_equal(entries.columns, items[which])
            visited += which.tolist()
    assert sorted(visited) == np.flatnonzero(~is_validation).tolist()


def test_the_order_of_strata_is_drawn_anew_each_epoch():
    drawn = {str(draw_sub_epochs(6, 1, epoch)) for epoch in range(1, 9)}
    assert len(drawn) == 8
    assert draw_sub_epochs(6, 1, 3) == draw_sub_epochs(6, 1, 3)


@given(n=st.integers(0, 60), n_blocks=st.integers(1, 9))
def test_positions_go_to_blocks_in_turn(n, n_blocks):
    order = order_by_block(n, n_blocks)
    assert sorted(order) == list(range(n))
    blocks = order % n_blocks
    assert (np.diff(blocks) >= 0).all()
    counts = np.bincount(blocks, minlength=n_blocks)
    assert counts.max() - counts.min() <= 1
