"""Strata: every rating once per epoch, and never two threads at one row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.engine.strata import cut_strata, deal_out, draw_meetings
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
    held_out = rng.random(n) < 0.2
    block = build_block(users, items, rating, held_out, n_users, n_items)
    strata = cut_strata(block.train, n_items, n_blocks)
    visited = []
    for meetings in draw_meetings(n_blocks, seed, epoch):
        met = [strata[users][items] for users, items in meetings]
        for side in ("rows", "columns"):
            touched = [set(getattr(entries, side).tolist()) for entries in met]
            assert len(set().union(*touched)) == sum(map(len, touched)), side
        for entries in met:
            which = entries.values.astype(int)
            np.testing.assert_array_equal(entries.rows, users[which])
            np.testing.assert_array_equal(entries.columns, items[which])
            visited += which.tolist()
    assert sorted(visited) == np.flatnonzero(~held_out).tolist()


def test_the_order_of_strata_is_drawn_anew_each_epoch():
    drawn = {str(draw_meetings(6, 1, epoch)) for epoch in range(1, 9)}
    assert len(drawn) == 8
    assert draw_meetings(6, 1, 3) == draw_meetings(6, 1, 3)


@given(n=st.integers(0, 60), n_blocks=st.integers(1, 9))
def test_positions_are_dealt_out_in_turn_block_by_block(n, n_blocks):
    order = deal_out(n, n_blocks)
    assert sorted(order) == list(range(n))
    blocks = order % n_blocks
    assert (np.diff(blocks) >= 0).all()
    counts = np.bincount(blocks, minlength=n_blocks)
    assert counts.max() - counts.min() <= 1
