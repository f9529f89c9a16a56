"""Machine code is kept by the content of the kernels, in a place that is this user's alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mfspark
from mfspark.kernels import compiled, warm

ROOT = Path(mfspark.__file__).parent


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_copy_elsewhere_finds_the_code_of_the_first(tmp_path):
    """As executors do, who each unpack the environment to a path of their own."""
    predict = (
        "import numpy as np; from mfspark.kernels.predict import dot_rows; "
        "dot_rows(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))"
    )
    found = []
    for name in ("one", "two"):
        shutil.copytree(ROOT, tmp_path / name / "mfspark")
        run(
            f"import sys; sys.path.insert(0, {str(tmp_path / name)!r}); {predict}; "
            f"import mfspark; assert mfspark.__file__.startswith({str(tmp_path / name)!r})",
            NUMBA_CACHE_DIR=str(tmp_path / "code"), PYTHONDONTWRITEBYTECODE="1",
        )  # fmt: skip
        found.append(sorted(path.name for path in (tmp_path / "code").rglob("*.nb?")))
    assert len(found[0]) == 2
    assert found[1] == found[0]


def test_without_any_place_to_write_kernels_still_work(tmp_path):
    nowhere = str(tmp_path / "missing" / "\0")[:-1] + "file/below"
    (tmp_path / "missing").write_text("a file where folders should be")
    output = run(
        "import tempfile; tempfile.tempdir = '/dev/null'\n"
        "from mfspark.kernels.compiled import code_folder\n"
        "import numpy as np; from mfspark.kernels.predict import dot_rows\n"
        "print(code_folder(), dot_rows(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32)))",
        NUMBA_CACHE_DIR=nowhere, HOME="/dev/null", XDG_CACHE_HOME="/dev/null", SPARK_LOCAL_DIRS="",
    )  # fmt: skip
    assert output.strip() == "None [2.]"


def test_code_that_cannot_be_kept_still_runs(tmp_path):
    """Such as code with addresses of this process in it, or some of what is not optimised."""
    source = tmp_path / "addresses.py"
    source.write_text(
        "import ctypes\n"
        "from mfspark.kernels.compiled import jit\n"
        "absolute = ctypes.CDLL(None).abs\n"
        "absolute.argtypes, absolute.restype = [ctypes.c_int], ctypes.c_int\n"
        "@jit\n"
        "def size(x):\n"
        "    return absolute(x)\n"
        "print(size(-3))\n"
    )
    result = subprocess.run(
        [sys.executable, str(source)], capture_output=True, text=True, check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "code")},
    )  # fmt: skip
    assert result.stdout == "3\n", result.stderr
    assert f"{source}:5: NumbaWarning: Cannot cache" in result.stderr


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert not compiled._is_usable(open_to_all, is_trusted=False)
    assert compiled._is_usable(open_to_all, is_trusted=True)
    assert compiled._is_usable(tmp_path / "own", is_trusted=False)


def test_one_process_of_a_node_compiles(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(warm, "code_folder", lambda: tmp_path)
    monkeypatch.setitem(warm.PARTS, "predict", lambda: calls.append(1))
    (tmp_path / "predict.pid").write_text(str(os.getppid()))
    assert not warm.compile_once("predict")
    # The process of that number is gone.
    (tmp_path / "predict.pid").write_text(str(2**22 + 1))
    assert warm.compile_once("predict")
    assert not warm.compile_once("predict")
    assert calls == [1]
    assert not (tmp_path / "predict.pid").exists()


def test_a_failed_compilation_is_tried_again(tmp_path, monkeypatch):
    def fail():
        raise MemoryError

    monkeypatch.setattr(warm, "code_folder", lambda: tmp_path)
    monkeypatch.setitem(warm.PARTS, "predict", fail)
    with pytest.raises(MemoryError):
        warm.compile_once("predict")
    monkeypatch.setitem(warm.PARTS, "predict", lambda: None)
    assert warm.compile_once("predict")
