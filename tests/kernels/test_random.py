import subprocess
import sys

import numpy as np

from mfspark.kernels.random import random_rows


def test_rows_depend_on_their_key_alone(rng):
    keys = rng.integers(0, 2**63, 100).astype(np.uint64)
    rows = random_rows(keys, 8)
    order = rng.permutation(100)
    np.testing.assert_array_equal(random_rows(keys[order], 8), rows[order])
    assert len(np.unique(rows[:, :8])) == 800


def test_moments():
    rows = random_rows(np.arange(20_000, dtype=np.uint64), 10)
    assert np.all(rows[:, 10] == 0)
    np.testing.assert_allclose(rows[:, :10].mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(rows[:, :10].var(axis=0), 0.1, rtol=0.05)
    correlation = np.corrcoef(rows[:, :10].T) - np.eye(10)
    assert np.abs(correlation).max() < 0.04


def test_kernels_import_without_spark():
    code = "import sys, mfspark.kernels.half_step; assert 'pyspark' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
