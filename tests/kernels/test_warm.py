"""Kernels compiled ahead are those that a fit calls."""

import os
import subprocess
import sys
from pathlib import Path

FIT = """
import numpy as np, pyarrow as pa
from mfspark.engine.descend import Rates
from mfspark.engine.threaded_als import ThreadedALS
from mfspark.engine.threaded_sgd import ThreadedSGD
from mfspark.engine.one_task import OneTask, _fit, _pack
from mfspark.kernels.problem import Penalty, Problem
rng = np.random.default_rng(0)
table = pa.table({"user": rng.integers(0, 50, 900), "item": rng.integers(0, 30, 900),
                  "rating": rng.random(900).astype(np.float32)})
problem = Problem(3.5, Penalty(1.0, 0.2, 0.5), True)
problems = {"user": problem, "item": problem}
als = ThreadedALS(4, problems, 2, 0.0, 0, 1.0)
sgd = ThreadedSGD(4, problems, Rates("adagrad", 0.1, 0.0), 2, 0.0, 0, 1.0, 4)
for learner in (als, sgd):
    task = OneTask(learner, 2, None)
    assert list(_fit(_pack(iter(table.to_batches())), task))
"""


def test_a_fit_after_the_warm_up_compiles_nothing(tmp_path):
    def compiled(*command: str) -> set[str]:
        subprocess.run(
            [sys.executable, *command], check=True, env={**os.environ, "NUMBA_CACHE_DIR": tmp_path}
        )
        return {path.name for path in Path(tmp_path).rglob("*.nbc")}

    warm = compiled("-m", "mfspark.kernels.warm")
    assert len(warm) > 10
    assert compiled("-c", FIT) == warm
