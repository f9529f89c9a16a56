"""Rows that a fit starts from."""

import numpy as np
import pyarrow as pa

from mfspark.algorithms.start import known_rows, start_keys, start_rows
from mfspark.columns import BIAS, FACTORS, ITEM, USER


def test_keys_depend_on_the_text_of_the_id():
    keys = [start_keys(pa.array([7, 8], kind), USER, 1) for kind in (pa.int32(), pa.int64())]
    keys.append(start_keys(pa.array(["7", "8"]), USER, 1))
    for other in keys[1:]:
        np.testing.assert_array_equal(keys[0], other)
    others = [start_keys(pa.array([7]), ITEM, 1)[0], start_keys(pa.array([7]), USER, 2)[0]]
    assert len({*keys[0], *others}) == 4


def test_known_ids_start_from_their_model_and_others_from_the_seed():
    ids = pa.array([5, 6, 7])
    model = pa.table(
        {
            USER: [7, 5],
            BIAS: pa.array([0.5, -1.0], pa.float32()),
            FACTORS: pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
        }
    )
    rows = start_rows(ids, known_rows(ids, model, USER), USER, 2, seed=3)
    np.testing.assert_array_equal(rows[[0, 2]], [[3, 4, -1], [1, 2, 0.5]])
    np.testing.assert_array_equal(rows[1], start_rows(ids, None, USER, 2, seed=3)[1])
