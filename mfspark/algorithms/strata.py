"""Strata: the ratings that a block of users shares with a block of items, and their order.

Users and items are split into B blocks each. An epoch has B sub-epochs; in each, every block of
users is paired with one block of items, a different one for each, so that strata visited side by
side never have a row in common (Gemulla, Nijkamp, Haas, Sismanis: Large-scale matrix factorization
with distributed stochastic gradient descent, KDD 2011). With two blocks on each side, an epoch is

                items 0   items 1
    users 0        A         B          sub-epoch 1: A and D
    users 1        C         D          sub-epoch 2: B and C
"""

import numpy as np

from mfspark.kernels.arrays import Int32s, Int64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.sgd import Entries, entries_of, split


def draw_sub_epochs(n_blocks: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """Of each sub-epoch of an epoch the pairs (block of users, block of items).

    A Latin square with its rows, columns and symbols drawn anew each epoch: every pair of blocks
    occurs once, and no sub-epoch has a block twice.
    """
    rng = np.random.default_rng((seed % 2**63, epoch))
    users, items, turns = (rng.permutation(n_blocks) for _ in range(3))
    return [
        [(int(users[b]), int(items[(b + turn) % n_blocks])) for b in range(n_blocks)]
        for turn in turns
    ]


def draw_key(seed: int, epoch: int, user_block: int, item_block: int) -> int:
    """What the order of the visits to a stratum is drawn from, 64 bits."""
    words = np.random.SeedSequence((seed % 2**63, epoch, user_block, item_block))
    return int(words.generate_state(1, np.uint64)[0])


def order_by_block(n_rows: int, n_blocks: int) -> Int64s:
    """Positions in the order of their blocks, int64 [n_rows]; block b has b, b + B, b + 2B, …

    Positions go by popularity, so blocks are of about equal weight; in this order the rows of a
    block lie side by side in memory.

    >>> order_by_block(5, 2).tolist()
    [0, 2, 4, 1, 3]
    """
    return np.concatenate([np.arange(block, n_rows, n_blocks) for block in range(n_blocks)])


def split_into_strata(train: Csr, n_columns: int, n_blocks: int) -> list[list[Entries]]:
    """Training ratings by block of users and block of items: every rating is in one of them.

    Rows and columns are in the order of :func:`order_by_block`.
    """
    entries = entries_of(train)
    user_block = _block_of(entries.rows, train.n_rows, n_blocks)
    item_block = _block_of(entries.columns, n_columns, n_blocks)
    parts = split(entries, user_block * n_blocks + item_block, n_blocks**2)
    return [parts[row * n_blocks : (row + 1) * n_blocks] for row in range(n_blocks)]


def _block_of(places: Int32s, n_rows: int, n_blocks: int) -> Int64s:
    sizes = [len(range(block, n_rows, n_blocks)) for block in range(n_blocks)]
    return np.repeat(np.arange(n_blocks), sizes)[places]
