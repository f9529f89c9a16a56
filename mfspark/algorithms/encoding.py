"""Features of users or items as numbers: from a table of them to a sparse matrix.

Columns of numbers become normal scores, Φ⁻¹((rank − ½)/n), ties in the middle: of any scale, and
with no value far off. Columns of text become a feature per category, columns of lists one per tag,
1 where it holds. What is null says nothing.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri

from mfspark.algorithms.history import FeatureCounts
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Int32s
from mfspark.kernels.csr import Csr, build_block

# A feature of one row with ratings says nothing of any other.
_LEAST_ROWS = 2
# Between a column and a category or tag of it.
_SEPARATOR = "\x1f"


class EncodedFeatures(NamedTuple):
    """Features ``names`` of the ids of a side that have ratings, by position (no entries for an id
    without features), and of the ``unrated`` ones that have features alone.

    ``n_rated``: ids with ratings and features.
    """

    names: list[str]
    n_rated: int
    of_rated: Csr
    unrated: pa.Array
    of_unrated: Csr

    def counts(self) -> FeatureCounts:
        """What is told of them."""
        return FeatureCounts(len(self.names), self.n_rated, len(self.unrated))


Entries = tuple[Int32s, Int32s, Float32s]


def encode_features(table: pa.Table, side: Side, rated: pa.Array) -> EncodedFeatures:
    """Features in ``table`` (the id ``side``, each once; one or more columns of numbers, text or
    lists of text) of the ids ``rated``, and of others."""
    names: list[str] = []
    parts: list[Entries] = []
    for name in sorted(set(table.column_names) - {side}):
        values, (rows, places, numbers) = _encode(table[name].combine_chunks())
        parts.append((rows, places + np.int32(len(names)), numbers))
        names += [name if value is None else name + _SEPARATOR + value for value in values]
    rows, places, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
    ids = table[side].combine_chunks()
    order = pc.sort_indices(ids).to_numpy()
    is_rated = pc.is_in(ids, rated).to_numpy(zero_copy_only=False)
    unrated = order[~is_rated[order]]
    position = np.empty(len(ids), np.int32)
    position[is_rated] = pc.index_in(ids.filter(pa.array(is_rated)), rated).to_numpy()
    position[unrated] = np.arange(len(unrated), dtype=np.int32)

    of_rated = is_rated[rows]
    occurs = np.bincount(places[of_rated], minlength=len(names)) >= _LEAST_ROWS
    new_place = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    kept = [name for name, there in zip(names, occurs, strict=True) if there]

    def part(chosen: np.ndarray, n_rows: int) -> Csr:
        at = np.flatnonzero(chosen & occurs[places])
        return sparse_rows(
            (position[rows[at]], new_place[places[at]], numbers[at]), n_rows, len(kept)
        )

    return EncodedFeatures(
        names=kept,
        n_rated=int(is_rated.sum()),
        of_rated=part(of_rated, len(rated)),
        unrated=ids.take(pa.array(unrated)),
        of_unrated=part(~of_rated, len(unrated)),
    )


def sparse_rows(entries: Entries, n_rows: int, n_columns: int) -> Csr:
    """The matrix of ``entries`` (row, column, value) in any order."""
    return build_block(*entries, np.zeros(len(entries[0]), np.bool_), n_rows, n_columns).train


def _encode(column: pa.Array) -> tuple[list[str | None], Entries]:
    """Values that are features of their own (None: the column itself), and entries (row, place
    among the values, number)."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows, tags = pc.list_parent_indices(column), pc.list_flatten(column)
        return _categories(rows.to_numpy().astype(np.int32), tags)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _categories(np.arange(len(column), dtype=np.int32), column)
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    known = np.flatnonzero(~np.isnan(numbers)).astype(np.int32)
    ranks = pd.Series(numbers[known]).rank().to_numpy()
    scores = ndtri((ranks - 0.5) / max(len(known), 1)).astype(np.float32)
    # Those of a constant are all 0, and so say nothing.
    known, scores = known[scores != 0], scores[scores != 0]
    return [None], (known, np.zeros(len(known), np.int32), scores)


def _categories(rows: Int32s, values: pa.Array) -> tuple[list[str | None], Entries]:
    known = values.is_valid().to_numpy(zero_copy_only=False)
    encoded = values.drop_null().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    # A tag that a row has twice is one tag.
    pairs = np.unique(np.stack([rows[known], place[encoded.indices.to_numpy()]]), axis=1)
    found = encoded.dictionary.take(pa.array(order)).to_pylist()
    return found, (pairs[0], pairs[1], np.ones(pairs.shape[1], np.float32))
