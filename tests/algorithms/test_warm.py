"""Kernels compiled ahead are those that a fit calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIT = """
import numpy as np, pyarrow as pa
from mfspark.algorithms import sharing
from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, BayesianSettings, SGDSettings
# So that threads share the work, with the kernels that they have for it.
sharing.LEAST_WORK = 1
rng = np.random.default_rng(0)
table = pa.table({"user": rng.integers(0, 50, 900), "item": rng.integers(0, 30, 900),
                  "rating": rng.random(900).astype(np.float32)})
objective = Objective(0.0, True, Penalty(1.0, 0.2, 0.5), Penalty(1.0, 0.2, 0.5))
als = ThreadedALS(objective, ALSSettings(rank=4, max_iter=2, tol=0.0))
sgd = ThreadedSGD(objective, SGDSettings(rank=4, max_iter=2, tol=0.0, num_blocks=4))
gibbs = ThreadedGibbs(objective, BayesianSettings(rank=4, max_iter=2, burn_in=0))
for learner in (als, sgd, gibbs):
    learner.learn(index_ratings(with_validation_column(table)), n_threads=2)
"""


@pytest.mark.slow
def test_a_fit_after_the_warm_up_compiles_nothing(tmp_path):
    def compiled(*command: str) -> set[str]:
        subprocess.run(
            [sys.executable, *command], check=True, env={**os.environ, "NUMBA_CACHE_DIR": tmp_path}
        )
        return {path.name for path in Path(tmp_path).rglob("*.nbc")}

    warm = compiled("-m", "mfspark.kernels.warm")
    assert len(warm) > 10
    assert compiled("-c", FIT) == warm
