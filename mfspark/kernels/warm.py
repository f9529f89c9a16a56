"""Compile the kernels into this node's cache before a fit calls them.

    python -m mfspark.kernels.warm

The first fit on a node compiles for some twenty seconds; jobs let that happen while they ingest.
"""

import os
from collections.abc import Callable
from typing import Literal

import numpy as np

from mfspark.columns import USER
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.compiled import code_folder
from mfspark.kernels.csr import Csr, RowRuns, build_block, group_by_row, join_runs
from mfspark.kernels.draw import Prior, draw_rows, draw_rows_of_moments
from mfspark.kernels.features import feature_sums
from mfspark.kernels.half_step import half_step, squared_error
from mfspark.kernels.moments import half_step_of_moments, packed_moments, row_moments
from mfspark.kernels.neighbours import N_SUMS, Lists, add_common, corrections
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.predict import ModelRows, predict_pairs, top_n, variance_of_pairs
from mfspark.kernels.sgd import SGDSide, entries_of, shuffle, split, visit

Part = Literal["als", "bayes", "sgd", "knn", "predict"]

_OBJECTIVE = Objective(0.0, True, Penalty(1.0, 1.0, 0.5), Penalty(1.0, 1.0, 0.5))


def compile_once(part: Part) -> bool:
    """Compile the kernels of a part, unless this node has them or another process is at it.

    Returns whether this process did.
    """
    folder = code_folder()
    if folder is None:
        return False
    done, at_work = folder / f"{part}.done", folder / f"{part}.pid"
    if done.exists():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with at_work.open("x") as mark:
            mark.write(str(os.getpid()))
    except FileExistsError:
        if _is_alive(at_work.read_text()):
            return False
        # It died at its work; two that notice at once merely work twice.
        at_work.write_text(str(os.getpid()))
    try:
        PARTS[part]()
        done.touch()
    finally:
        at_work.unlink(missing_ok=True)
    return True


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, ValueError):
        return False
    return True


def _block_like(in_file: bool) -> Csr:
    """To numba, arrays that Arrow or a file lends are of another type: they cannot be written."""
    zeros = np.zeros(4, np.int32)
    values = np.ones(4, np.float32)
    values.setflags(write=not in_file)
    # Without validation ratings, build_block takes the arrays as they are.
    is_validation = np.array([False, False, False, not in_file])
    block = build_block(zeros, zeros, values, is_validation, 1, 1)
    for array in (*block.train, *block.validation):
        array.setflags(write=not in_file)
    fixed, rows = AlignedRows.zeros(1, 2), np.zeros((1, 3), np.float32)
    squared_error(block.validation, rows, fixed, 0.0)
    half_step(block, fixed, _OBJECTIVE, USER, "auto")
    packed_moments(block.train, np.ones(1, bool), fixed, 0.0)
    moments = row_moments(block.train, fixed, 0.0)
    half_step_of_moments(moments, moments, _OBJECTIVE, USER)
    return block.train


def _join_chunks() -> None:
    """Ratings travel as they are, or as numbers of their values."""
    zeros, ones = np.zeros(1, np.int32), np.ones(1, np.int32)
    for values in (np.ones(1, np.float32), np.ones(1, np.uint8)):
        group_by_row(zeros, zeros, values, 1)
    join_runs([RowRuns(zeros, ones, zeros, np.ones(1, np.float32))], 1, 1)


def _solve() -> None:
    _join_chunks()
    for in_file in (False, True):
        _block_like(in_file)


def _draw() -> None:
    """Needs what ``_solve`` compiles, too: a chain starts with half-steps."""
    prior, normals = Prior(np.zeros(3), np.eye(3)), np.zeros((1, 3), np.float32)
    for in_file in (False, True):
        train, fixed = _block_like(in_file), AlignedRows.zeros(1, 2)
        draw_rows(train, fixed, prior, 1.0, normals)
        feature_sums(train, normals)
    draw_rows_of_moments(row_moments(train, fixed, 0.0), prior, 1.0, normals)
    zeros, draws = np.zeros(1, np.int32), np.zeros((1, 2, 3), np.float32)
    variance_of_pairs(zeros, zeros, draws, draws)


def _descend() -> None:
    _join_chunks()
    zeros, values = np.zeros(2, np.int32), np.ones(2, np.float32)
    block = build_block(zeros, zeros, values, np.array([False, True]), 1, 1)
    fixed = AlignedRows.zeros(1, 2)
    for in_file in (False, True):
        for array in block.validation:
            array.setflags(write=not in_file)
        squared_error(block.validation, np.zeros((1, 3), np.float32), fixed, 0.0)
    entries = split(entries_of(block.train), np.zeros(1, np.int32), 1)[0]
    shuffle(entries, 1)
    users, items = (
        SGDSide.start(np.zeros((1, 3), np.float32), np.ones(1, np.int64), 1.0) for _ in range(2)
    )
    visit(entries, users, items, _OBJECTIVE, 0.1, True)


def _compare() -> None:
    """Neighbourhoods; cells lend their arrays, which cannot be written."""
    columns = Csr(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.float32))
    for array in columns:
        array.setflags(write=False)
    add_common(np.zeros((1, 1, N_SUMS), np.float32), 0, columns)
    lists = Lists(np.array([0, 1]), columns.columns, columns.values)
    corrections(lists, lists, 1, 0.0)


def _predict() -> None:
    zeros = np.zeros(1, np.int32)
    factors, bias = np.zeros((1, 2), np.float32), np.zeros(1, np.float32)
    rows = ModelRows(factors, bias, bias, np.ones(1, np.bool_))
    predict_pairs(zeros, zeros, rows, rows, 0.0)
    top_n(factors, factors, bias, 1)


PARTS: dict[Part, Callable[[], None]] = {
    "als": _solve,
    "bayes": _draw,
    "sgd": _descend,
    "predict": _predict,
    "knn": _compare,
}


def main() -> None:
    """Compile all kernels."""
    for part in PARTS:
        compile_once(part)


if __name__ == "__main__":
    main()
