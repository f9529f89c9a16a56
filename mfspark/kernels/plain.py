"""What is written in LLVM's language, as plain Python: kernels run on it under
``NUMBA_DISABLE_JIT=1``, where a debugger can step through them. Arguments and results are those of
:mod:`mfspark.kernels.vectors`, :mod:`mfspark.kernels.products` and
:mod:`mfspark.kernels.one_vector`."""

from collections.abc import Callable

import numpy as np
from numba.core import config

from mfspark.kernels.arrays import LANES, Float32s

IS_CHOSEN: bool = getattr(config, "DISABLE_JIT", False)

Single = np.float32


def dot(left: Float32s, i: int, right: Float32s, j: int) -> Single:
    """Σ_f left[i, f] · right[j, f]."""
    return Single(left[i] @ right[j])


def dots(
    rows: Float32s, a: int, b: int, c: int, d: int, right: Float32s, j: int
) -> tuple[Single, ...]:
    """Σ_f rows[·, f] · right[j, f] of four rows."""
    return tuple(Single(rows[number] @ right[j]) for number in (a, b, c, d))


def add_rows(
    rows: Float32s, a: int, b: int, c: int, d: int,
    target: Float32s, i: int, weights: tuple[Single, ...],
) -> None:  # fmt: skip
    """target[i] += Σ weights[·] · rows[·] over four rows."""
    for number, weight in zip((a, b, c, d), weights, strict=True):
        target[i] += weight * rows[number]


def step(
    left: Float32s, i: int, right: Float32s, j: int,
    keep_left: Single, add_left: Single, keep_right: Single, add_right: Single,
) -> None:  # fmt: skip
    """left[i] = keep_left · left[i] + add_left · right[j], and right[j] from the old left[i]."""
    old = left[i].copy()
    left[i] = keep_left * old + add_left * right[j]
    right[j] = keep_right * right[j] + add_right * old


def prefetch(array: Float32s, place: int) -> None:
    """Nothing: a hint to the processor."""


def block_setter(n_rows: int, by_rows: bool = False) -> Callable[..., None]:
    """The function that sets blocks of ``n_rows`` × 16 places."""

    def set_block(
        left: Float32s, at: int, right: Float32s, n: int, target: Float32s, i: int, j: int,
        keep: Single, sign: Single,
    ) -> None:  # fmt: skip
        own = left[at : at + n_rows, :n] if by_rows else left[:n, at : at + n_rows].T
        place = target[i : i + n_rows, j : j + LANES]
        place[:] = keep * place + sign * (own @ right[:n, j : j + LANES])

    return set_block


def factor_square(rows: Float32s, first: int, smallest: Single, inverse: Float32s) -> bool:
    """Replace A = rows[:16, first:first+16] by U with UᵀU = A, and set inverse to U⁻ᵀ."""
    square, unit = rows[:LANES, first : first + LANES], np.eye(LANES, dtype=np.float32)
    for i in range(LANES):
        pivot = square[i, i]
        if not pivot > smallest:
            return False
        scale = 1 / np.sqrt(pivot)
        square[i] *= scale
        unit[i] *= scale
        for r in range(i + 1, LANES):
            unit[r] -= square[i, r] * unit[i]
            square[r] -= square[i, r] * square[i]
    inverse[:] = unit
    return True


def set_features(fixed: Float32s, i: int, tile: Float32s, t: int, target: Single) -> None:
    """tile[t] = fixed[i], but for 1 in lane 14 and ``target`` in lane 15."""
    tile[t, :LANES] = fixed[i]
    tile[t, LANES - 2 : LANES] = 1, target


def eliminate(sums: Float32s, n: int, with_bias: bool, least: Single, least_bias: Single) -> bool:
    """Eliminate the first ``n`` unknowns of sums [16, 16] and, ``with_bias``, that of lane 14."""
    square, one = sums[:LANES, :LANES], LANES - 2
    for i, smallest in [*((i, least) for i in range(n)), *[(one, least_bias)] * with_bias]:
        if not square[i, i] > smallest:
            return False
        square[i] /= square[i, i]
        for r in range(one + 1):
            if r != i:
                square[r] -= square[r, i] * square[i]
    return True
