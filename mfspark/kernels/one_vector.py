"""The ridge problem of one row at ranks up to 14, where all there is fits vectors of 16 lanes.

A rating is v = [q, zeros, 1, target], with its target r − μ − b in lane 15. Of Σ v vᵀ over the
ratings of a row, rows 0 to 14 are the normal equations of its factors and its bias, with their
right-hand sides in column 15; they are solved in the registers that they fill. At rank 10 a
half-step takes some .6 of what it takes with :mod:`mfspark.kernels.ridge`, which is for any rank.

Arguments that all share are described there. Scratch are ``tile`` float32 [≥ TILE, ≥ 16] and
``sums`` float32 [≥ 16, ≥ 16], both C-contiguous, of which the first 16 columns are used.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfspark.kernels import plain
from mfspark.kernels.arrays import LANES
from mfspark.kernels.compiled import jit
from mfspark.kernels.products import add_products
from mfspark.kernels.ridge import AHEAD, LEAST_WEIGHT, TILE, add_weight, row_sums
from mfspark.kernels.vectors import prefetch

ONE, TARGET = LANES - 2, LANES - 1
# The highest rank for which there is room.
MOST_FACTORS = ONE
_EPSILON = np.float32(np.finfo(np.float32).eps)

_SINGLE, _LANE = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_SINGLE, LANES)


def _set_features(typing: Any, fixed: Any, i: Any, tile: Any, t: Any, target: Any) -> Any:
    """tile[t] = fixed[i], but for 1 in lane 14 and ``target`` in lane 15."""
    index = types.intp
    return types.void(fixed, index, tile, index, types.float32), _lower_set_features


def _lower_set_features(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: one load, one store."""
    fixed, i, tile, t, target = arguments
    value = _load(builder, _row(context, builder, signature.args[0], fixed, i))
    for lane, number in ((ONE, ir.Constant(_SINGLE, 1.0)), (TARGET, target)):
        value = builder.insert_element(value, number, ir.Constant(_LANE, lane))
    builder.store(value, _row(context, builder, signature.args[2], tile, t)).align = 4
    return context.get_dummy_value()


def _eliminate(typing: Any, sums: Any, n: Any, with_bias: Any, least: Any, least_bias: Any) -> Any:
    """Eliminate the first ``n`` unknowns of sums [16, 16] and, ``with_bias``, that of lane 14, from
    all other equations (Gauss and Jordan): column 15 becomes the solution.

    Returns False, with ``sums`` undefined, when a pivot is not above ``least``, or that of the bias
    not above ``least_bias``.
    """
    single = types.float32
    return types.boolean(sums, types.intp, types.boolean, single, single), _lower_eliminate


def _lower_eliminate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: a block for each pivot, which is left out from the n-th on; then that of the bias.
    The rows stay in registers."""
    sums, n, with_bias, least, least_bias = arguments
    places = [
        _row(context, builder, signature.args[0], sums, ir.Constant(n.type, r))
        for r in range(LANES)
    ]
    rows, is_regular = [_load(builder, place) for place in places], ir.Constant(ir.IntType(1), 1)
    bias = builder.append_basic_block("bias")
    left = []
    for i in range(MOST_FACTORS):
        pivot = builder.append_basic_block("pivot")
        left.append((builder.block, [*rows, is_regular]))
        builder.cbranch(builder.icmp_signed(">", n, ir.Constant(n.type, i)), pivot, bias)
        builder.position_at_end(pivot)
        rows, is_regular = _without(builder, rows, i, least, is_regular)
    left.append((builder.block, [*rows, is_regular]))
    builder.branch(bias)

    builder.position_at_end(bias)
    *rows, is_regular = _joined(builder, left)
    last, after = builder.append_basic_block("last"), builder.append_basic_block("after")
    left = [(bias, [*rows, is_regular])]
    builder.cbranch(with_bias, last, after)
    builder.position_at_end(last)
    rows, is_regular = _without(builder, rows, ONE, least_bias, is_regular)
    left.append((last, [*rows, is_regular]))
    builder.branch(after)

    builder.position_at_end(after)
    *rows, is_regular = _joined(builder, left)
    for place, row in zip(places, rows, strict=True):
        builder.store(row, place).align = 4
    return is_regular


def _without(
    builder: Any, rows: list[Any], i: int, least: Any, is_regular: Any
) -> tuple[list[Any], Any]:
    """The rows when unknown ``i`` is eliminated from all equations but its own, and whether its
    pivot is one, too."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fma: Any = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    pivot = builder.extract_element(rows[i], ir.Constant(_LANE, i))
    ones = ir.Constant(_VECTOR, [1.0] * LANES)
    own = builder.fmul(rows[i], builder.fdiv(ones, _splat(builder, rows[i], i)))
    found = [
        builder.call(fma, [builder.fneg(_splat(builder, row, i)), own, row])
        for row in rows[:TARGET]
    ]
    found[i] = own
    is_above = builder.fcmp_ordered(">", pivot, least)
    return [*found, rows[TARGET]], builder.and_(is_regular, is_above)


def _joined(builder: Any, left: list[tuple[Any, list[Any]]]) -> list[Any]:
    """The values with which the block before was left, whichever that is."""
    found = [builder.phi(value.type) for value in left[0][1]]
    for block, values in left:
        for phi, value in zip(found, values, strict=True):
            phi.add_incoming(value, block)
    return found


def _splat(builder: Any, value: Any, lane: int) -> Any:
    """One lane in all lanes."""
    lanes = ir.Constant(ir.VectorType(_LANE, LANES), [lane] * LANES)
    return builder.shuffle_vector(value, ir.Constant(_VECTOR, ir.Undefined), lanes)


def _row(context: Any, builder: Any, kind: Any, matrix: Any, row: Any) -> Any:
    """Pointer to the first vector of a row of a matrix."""
    array = context.make_array(kind)(context, builder, matrix)
    width = cgutils.unpack_tuple(builder, array.shape)[1]
    place = builder.gep(array.data, [builder.mul(row, width)])
    return builder.bitcast(place, _VECTOR.as_pointer())


def _load(builder: Any, place: Any) -> Any:
    value = builder.load(place)
    value.align = 4
    return value


set_features: Any = plain.set_features if plain.IS_CHOSEN else intrinsic(_set_features)
eliminate: Any = plain.eliminate if plain.IS_CHOSEN else intrinsic(_eliminate)


@jit
def small_row_sums(columns, start, end, ratings, fixed, bias, mean, tile, sums):  # type: ignore[no-untyped-def]
    """Set the upper triangle of sums to that of Σ v vᵀ; the row has rated columns[start:end].

    While a row is gathered, a later one starts on its way to the cache; see ``ridge.row_sums``.
    """
    last = len(columns) - 1
    sums[:LANES, :LANES] = 0
    total = 0.0
    for first in range(start, end, TILE):
        n = min(TILE, end - first)
        for t in range(n):
            later = columns[min(first + t + AHEAD, last)]
            prefetch(fixed, later * LANES)
            prefetch(bias, later)
            column = columns[first + t]
            target = ratings[first + t - start] - mean - bias[column]
            set_features(fixed, column, tile, t, target)
            total += target
        add_products(tile, n, LANES, sums)
    sums[ONE, TARGET] = total


@jit
def solve_small(sums, n, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve the normal equations of a row with n ratings; returns False, with out undefined, when
    they are near singular."""
    rank = len(out) - 1
    for f in range(TARGET):
        for g in range(f):
            sums[f, g] = sums[g, f]
    largest = add_weight(sums, rank, weight)
    if n < rank and weight < LEAST_WEIGHT * largest:
        return False
    sums[ONE, ONE] = n + bias_weight
    rounding = np.float32(8) * _EPSILON
    if not eliminate(sums, rank, fit_biases, rounding * largest, rounding * sums[ONE, ONE]):
        return False
    for f in range(rank):
        out[f] = sums[f, TARGET]
    out[rank] = sums[ONE, TARGET] if fit_biases else np.float32(0)
    return True


@jit
def sums_at_rank(rank, columns, start, end, ratings, fixed, bias, mean, tile, gram, border):  # type: ignore[no-untyped-def]
    """``ridge.row_sums``, in the way that is quicker at this rank."""
    if rank > MOST_FACTORS:
        return row_sums(columns, start, end, ratings, fixed, bias, mean, tile, gram, border)
    small_row_sums(columns, start, end, ratings, fixed, bias, mean, tile, gram)
    total = np.float64(gram[ONE, TARGET])
    for b, lane in enumerate((ONE, TARGET)):
        for f in range(LANES):
            border[b, f] = gram[f, lane] if f < rank else 0
            gram[f, lane] = 0
    return total
