"""Symmetric products of tall, narrow matrices at the speed of a tuned matrix product.

``add_products(rows, n, width, target)`` is the same as

    target[:width, :width] += np.triu(rows[:n, :width].T @ rows[:n, :width])

but for some places below the diagonal, and without a temporary. numba's own loops reach a tenth of
the machine's speed here, because sums that live in memory are loaded and stored for each rating.
So the innermost block is written in LLVM's language: 8 × 16 sums stay in vector registers while the
rows pass by. LLVM splits the 16 lanes as the processor needs (AVX-512: one register, AVX2: two,
NEON: four).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfspark.kernels import plain
from mfspark.kernels.arrays import LANES
from mfspark.kernels.compiled import compiled

_ROWS = 8
BORDER = 2
_EPSILON = np.float32(np.finfo(np.float32).eps)


def _block(n_rows: int, by_rows: bool = False) -> Any:
    """target[i:i+n_rows, j:j+16] = keep · (itself) + sign · Σ_{t<n} left[t, at:at+n_rows]ᵀ
    right[t, j:j+16]; with ``by_rows`` left[at:at+n_rows, t] takes the place of the former."""
    if plain.IS_CHOSEN:
        return plain.block_setter(n_rows, by_rows)

    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def set_block(
        typing: Any,
        left: Any,
        at: Any,
        right: Any,
        n: Any,
        target: Any,
        i: Any,
        j: Any,
        keep: Any,
        sign: Any,
    ) -> Any:
        index, single = types.intp, types.float32
        signature = types.void(left, index, right, index, target, index, index, single, single)
        return signature, lambda *lowering: _lower_block(n_rows, by_rows, *lowering)

    return set_block


def _lower_block(  # noqa: PLR0915 (one piece of code, read from top to bottom)
    n_rows: int, by_rows: bool, context: Any, builder: Any, signature: Any, arguments: Any
) -> Any:
    """LLVM code of one block: a loop over t with ``n_rows`` vectors of sums in registers."""
    left, at, right, n, target, i, j, keep, sign = arguments
    vector = ir.VectorType(ir.FloatType(), LANES)
    zero = ir.Constant(vector, [0.0] * LANES)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
    )

    def matrix(argument: int, value: Any) -> tuple[Any, Any]:
        """Pointer to the first element, and elements per row."""
        array = context.make_array(signature.args[argument])(context, builder, value)
        return array.data, cgutils.unpack_tuple(builder, array.shape)[1]

    def integer(value: int) -> Any:
        return ir.Constant(n.type, value)

    def splat(value: Any) -> Any:
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, undefined, lanes)

    def vector_at(pointer: Any) -> Any:
        return builder.bitcast(pointer, vector.as_pointer())

    def load(pointer: Any) -> Any:
        value = builder.load(vector_at(pointer))
        value.align = 4
        return value

    left_data, left_width = matrix(0, left)
    right_data, right_width = matrix(2, right)
    target_data, target_width = matrix(4, target)
    entry = builder.block
    loop, after = builder.append_basic_block("rows"), builder.append_basic_block("sums")
    builder.cbranch(builder.icmp_signed(">", n, integer(0)), loop, after)

    builder.position_at_end(loop)
    t = builder.phi(n.type)
    t.add_incoming(integer(0), entry)
    sums = [builder.phi(vector) for _ in range(n_rows)]
    lanes_of_right = load(builder.gep(right_data, [builder.add(builder.mul(t, right_width), j)]))
    steps = (left_width, integer(1)) if by_rows else (integer(1), left_width)
    added = []
    for r, total in enumerate(sums):
        total.add_incoming(zero, entry)
        across = builder.mul(builder.add(at, integer(r)), steps[0])
        place = builder.add(across, builder.mul(t, steps[1]))
        value = builder.load(builder.gep(left_data, [place]))
        added.append(builder.call(fma, [splat(value), lanes_of_right, total]))
        total.add_incoming(added[r], loop)
    following = builder.add(t, integer(1))
    t.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    finished = []
    for value in added:
        total = builder.phi(vector)
        total.add_incoming(zero, entry)
        total.add_incoming(value, loop)
        finished.append(total)
    kept, signed = splat(keep), splat(sign)
    for r, total in enumerate(finished):
        place = builder.add(builder.mul(builder.add(i, integer(r)), target_width), j)
        pointer = builder.gep(target_data, [place])
        before = builder.fmul(kept, load(pointer))
        stored = builder.store(builder.call(fma, [signed, total, before]), vector_at(pointer))
        stored.align = 4
    return context.get_dummy_value()


def _factor(typing: Any, rows: Any, first: Any, smallest: Any, inverse: Any) -> Any:
    """Replace A = rows[:16, first:first+16] by U with UᵀU = A, and set inverse to U⁻ᵀ.

    Returns False, with both undefined, when a pivot is not above ``smallest``.
    """
    return types.boolean(rows, types.intp, types.float32, inverse), _lower_factor_square


def _lower_factor_square(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: Gaussian elimination of [A, I], both in registers, one pivot after another."""
    rows, first, smallest, inverse = arguments
    single = ir.FloatType()
    vector = ir.VectorType(single, LANES)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
    )
    root = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(single, [single]), "llvm.sqrt.f32"
    )

    def lane(value: Any, n: int) -> Any:
        return builder.extract_element(value, ir.Constant(ir.IntType(32), n))

    def splat(value: Any) -> Any:
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, undefined, lanes)

    def row_pointers(argument: int, value: Any, column: Any) -> list[Any]:
        array = context.make_array(signature.args[argument])(context, builder, value)
        width = cgutils.unpack_tuple(builder, array.shape)[1]
        places = [
            builder.add(builder.mul(ir.Constant(width.type, row), width), column)
            for row in range(LANES)
        ]
        return [
            builder.bitcast(builder.gep(array.data, [place]), vector.as_pointer())
            for place in places
        ]

    square_at = row_pointers(0, rows, first)
    inverse_at = row_pointers(3, inverse, ir.Constant(first.type, 0))
    square = []
    for pointer in square_at:
        value = builder.load(pointer)
        value.align = 4
        square.append(value)
    unit = [
        ir.Constant(vector, [1.0 if column == row else 0.0 for column in range(LANES)])
        for row in range(LANES)
    ]
    is_positive: Any = ir.Constant(ir.IntType(1), 1)
    for i in range(LANES):
        pivot = lane(square[i], i)
        is_positive = builder.and_(is_positive, builder.fcmp_ordered(">", pivot, smallest))
        scale = splat(builder.fdiv(ir.Constant(single, 1.0), builder.call(root, [pivot])))
        square[i], unit[i] = builder.fmul(square[i], scale), builder.fmul(unit[i], scale)
        for r in range(i + 1, LANES):
            minus = builder.fneg(splat(lane(square[i], r)))
            square[r] = builder.call(fma, [minus, square[i], square[r]])
            unit[r] = builder.call(fma, [minus, unit[i], unit[r]])
    for pointer, value in zip([*square_at, *inverse_at], [*square, *unit], strict=True):
        builder.store(value, pointer).align = 4
    return is_positive


_factor_square: Any = plain.factor_square if plain.IS_CHOSEN else intrinsic(_factor)
_set_square = _block(_ROWS)
_set_square_by_rows = _block(_ROWS, by_rows=True)
_set_border = _block(BORDER)
_ONE, _ZERO = np.float32(1), np.float32(0)


@compiled()
def add_products(rows, n, width, target):  # type: ignore[no-untyped-def]
    """Add Σ_{t<n} rows[t, :width]ᵀ rows[t, :width] to the upper triangle of target[:, :width].

    ``rows`` float32 [≥ n, ≥ width] and ``target`` float32 [≥ width, ≥ width], both C-contiguous;
    ``width`` is a multiple of 16.
    """
    for i in range(0, width, _ROWS):
        for j in range(i // LANES * LANES, width, LANES):
            _set_square(rows, i, rows, n, target, i, j, _ONE, _ONE)


@compiled()
def add_border(rows, n, width, target):  # type: ignore[no-untyped-def]
    """target[b] += Σ_{t<n} rows[t, width + b] · rows[t, :width] for b = 0, 1."""
    for j in range(0, width, LANES):
        _set_border(rows, width, rows, n, target, 0, j, _ONE, _ONE)


@compiled()
def factor(matrix, inverse):  # type: ignore[no-untyped-def]
    """Cholesky: replace A = matrix[:, :n], given by its upper triangle, by U with UᵀU = A.

    ``matrix`` float32 [n, n + 16], n a multiple of 16; its last sixteen columns are right-hand
    sides b and become U⁻ᵀ b; what is below the diagonal becomes meaningless. ``inverse`` float32
    [16, 16] is scratch. Returns False at a pivot that rounding could have produced.

    Sixteen rows at a time: the square on the diagonal is factored, and a unit matrix beside it
    becomes the square's U⁻ᵀ; that times the rest of the rows finishes them; their products are
    subtracted from all rows below.
    """
    n, width = matrix.shape
    largest = matrix[0, 0]
    for i in range(n):
        largest = max(largest, matrix[i, i])
    smallest = np.float32(8) * _EPSILON * largest
    for first in range(0, n, LANES):
        rows = matrix[first : first + LANES]
        if not _factor_square(rows, first, smallest, inverse):
            return False
        for j in range(first + LANES, width, LANES):
            # The lower half first: the upper half of its input must still be there.
            _set_square_by_rows(inverse, _ROWS, rows, LANES, rows, _ROWS, j, _ZERO, _ONE)
            _set_square_by_rows(inverse, 0, rows, _ROWS, rows, 0, j, _ZERO, _ONE)
        for i in range(first + LANES, n, _ROWS):
            for j in range(i // LANES * LANES, width, LANES):
                _set_square(rows, i, rows, LANES, matrix, i, j, _ONE, -_ONE)
    return True
