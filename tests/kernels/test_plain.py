"""Kernels run as plain Python, too, where a debugger can follow them."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_kernels_do_the_same_without_numba():
    files = [
        str(FOLDER / f"test_{name}.py") for name in ("products", "one_vector", "sgd", "half_step")
    ]
    chosen = "products or refused or factor or border or one_step or dense_oracle or too_high"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *files, "-k", chosen],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert result.stdout.count(".") > 15
