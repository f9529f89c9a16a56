"""Rows of whole vectors: what numba's own loops are slow at, in LLVM's language.

Arguments that all share: C-contiguous float32 matrices whose number of columns is a multiple of 16,
and the number of a row of each. LLVM splits the 16 lanes as the processor needs.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mfspark.kernels import plain
from mfspark.kernels.arrays import LANES

_SINGLE = ir.FloatType()
_VECTOR = ir.VectorType(_SINGLE, LANES)


def _dot(typing: Any, left: Any, i: Any, right: Any, j: Any) -> Any:
    """Σ_f left[i, f] · right[j, f]; float32."""
    index = types.intp
    return types.float32(left, index, right, index), _lower_dot


def _lower_dot(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: sixteen sums side by side, added up at the end."""
    fma = _intrinsic(builder, "fma", ir.FunctionType(_VECTOR, [_VECTOR] * 3))
    add_up = _intrinsic(builder, "vector.reduce.fadd", ir.FunctionType(_SINGLE, [_SINGLE, _VECTOR]))
    left, width = _row(context, builder, signature, arguments, 0)
    right, _ = _row(context, builder, signature, arguments, 2)
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    entry, loop, after, place = _enter_loop(builder, width)
    sums = builder.phi(_VECTOR)
    sums.add_incoming(zero, entry)
    added = builder.call(fma, [_load(builder, left, place), _load(builder, right, place), sums])
    sums.add_incoming(added, loop)
    _next_vector(builder, place, width, loop, after)
    builder.position_at_end(after)
    # In any order, which is what lets the processor add them in four steps.
    return builder.call(add_up, [ir.Constant(_SINGLE, 0.0), added], fastmath=("reassoc",))


def _step(
    typing: Any, left: Any, i: Any, right: Any, j: Any, keep_left: Any, add_left: Any,
    keep_right: Any, add_right: Any,
) -> Any:  # fmt: skip
    """left[i] = keep_left · left[i] + add_left · right[j], and right[j] likewise from the old
    left[i]."""
    index, single = types.intp, types.float32
    return types.void(left, index, right, index, *[single] * 4), _lower_step


def _lower_step(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: both rows are loaded before either is stored."""
    fma = _intrinsic(builder, "fma", ir.FunctionType(_VECTOR, [_VECTOR] * 3))
    left, width = _row(context, builder, signature, arguments, 0)
    right, _ = _row(context, builder, signature, arguments, 2)
    keep_left, add_left, keep_right, add_right = (
        _splat(builder, argument) for argument in arguments[4:]
    )
    _, loop, after, place = _enter_loop(builder, width)
    old_left, old_right = _load(builder, left, place), _load(builder, right, place)
    for pointer, own, other, keep, add in (
        (left, old_left, old_right, keep_left, add_left),
        (right, old_right, old_left, keep_right, add_right),
    ):
        value = builder.call(fma, [add, other, builder.fmul(keep, own)])
        at = builder.bitcast(builder.gep(pointer, [place]), _VECTOR.as_pointer())
        builder.store(value, at).align = 4
    _next_vector(builder, place, width, loop, after)
    builder.position_at_end(after)
    return context.get_dummy_value()


def _dots(
    typing: Any, rows: Any, a: Any, b: Any, c: Any, d: Any, right: Any, j: Any
) -> Any:  # fmt: skip
    """Σ_f rows[·, f] · right[j, f] of four rows a, b, c, d; four float32."""
    index = types.intp
    return types.UniTuple(types.float32, 4)(rows, *[index] * 4, right, index), _lower_dots


def _lower_dots(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: four times sixteen sums, so that none waits for its last addition."""
    fma = _intrinsic(builder, "fma", ir.FunctionType(_VECTOR, [_VECTOR] * 3))
    add_up = _intrinsic(builder, "vector.reduce.fadd", ir.FunctionType(_SINGLE, [_SINGLE, _VECTOR]))
    rows, width = _rows(context, builder, signature, arguments)
    right, _ = _row(context, builder, signature, arguments, 5)
    entry, loop, after, place = _enter_loop(builder, width)
    sums = [builder.phi(_VECTOR) for _ in rows]
    factor = _load(builder, right, place)
    added = []
    for row, total in zip(rows, sums, strict=True):
        total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), entry)
        added.append(builder.call(fma, [_load(builder, row, place), factor, total]))
        total.add_incoming(added[-1], loop)
    _next_vector(builder, place, width, loop, after)
    builder.position_at_end(after)
    zero = ir.Constant(_SINGLE, 0.0)
    found = [builder.call(add_up, [zero, total], fastmath=("reassoc",)) for total in added]
    return context.make_tuple(builder, signature.return_type, found)


def _add_rows(
    typing: Any, rows: Any, a: Any, b: Any, c: Any, d: Any, target: Any, i: Any, weights: Any
) -> Any:  # fmt: skip
    """target[i] += Σ weights[·] · rows[·] over four rows a, b, c, d; ``weights`` four float32."""
    index = types.intp
    return types.void(rows, *[index] * 4, target, index, weights), _lower_add_rows


def _lower_add_rows(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: the target is loaded and stored once for four rows."""
    fma = _intrinsic(builder, "fma", ir.FunctionType(_VECTOR, [_VECTOR] * 3))
    rows, width = _rows(context, builder, signature, arguments)
    target, _ = _row(context, builder, signature, arguments, 5)
    weights = [_splat(builder, weight) for weight in cgutils.unpack_tuple(builder, arguments[7], 4)]
    _, loop, after, place = _enter_loop(builder, width)
    total = _load(builder, target, place)
    for row, weight in zip(rows, weights, strict=True):
        total = builder.call(fma, [weight, _load(builder, row, place), total])
    at = builder.bitcast(builder.gep(target, [place]), _VECTOR.as_pointer())
    builder.store(total, at).align = 4
    _next_vector(builder, place, width, loop, after)
    builder.position_at_end(after)
    return context.get_dummy_value()


def _prefetch(typing: Any, array: Any, place: Any) -> Any:
    """Begin to load the cache line of the element at ``place`` of a C-contiguous array."""
    return types.void(array, types.intp), _lower_prefetch


def _lower_prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """LLVM code: for reading, into all levels of the cache."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    )
    at = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
    builder.call(prefetch, [at, number(0), number(3), number(1)])
    return context.get_dummy_value()


def _intrinsic(builder: Any, name: str, kind: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")


def _row(
    context: Any, builder: Any, signature: Any, arguments: Any, argument: int
) -> tuple[Any, Any]:
    """Pointer to the first element of a row, and elements per row."""
    array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
    width = cgutils.unpack_tuple(builder, array.shape)[1]
    return builder.gep(array.data, [builder.mul(arguments[argument + 1], width)]), width


def _rows(context: Any, builder: Any, signature: Any, arguments: Any) -> tuple[list[Any], Any]:
    """Pointers to the first elements of four rows of the first argument, and elements per row."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    width = cgutils.unpack_tuple(builder, array.shape)[1]
    return [
        builder.gep(array.data, [builder.mul(number, width)]) for number in arguments[1:5]
    ], width


def _load(builder: Any, pointer: Any, place: Any) -> Any:
    value = builder.load(builder.bitcast(builder.gep(pointer, [place]), _VECTOR.as_pointer()))
    value.align = 4
    return value


def _splat(builder: Any, value: Any) -> Any:
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, lanes)


def _enter_loop(builder: Any, width: Any) -> tuple[Any, Any, Any, Any]:
    """A loop over the vectors of a row: the block before, its own, the one behind, and the place of
    the first lane. The builder is left at the beginning of the loop."""
    entry = builder.block
    loop, after = builder.append_basic_block("columns"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(width.type)
    place.add_incoming(ir.Constant(width.type, 0), entry)
    return entry, loop, after, place


def _next_vector(builder: Any, place: Any, width: Any, loop: Any, after: Any) -> None:
    following = builder.add(place, ir.Constant(width.type, LANES))
    place.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, width), loop, after)


dot: Any = plain.dot if plain.IS_CHOSEN else intrinsic(_dot)
dots: Any = plain.dots if plain.IS_CHOSEN else intrinsic(_dots)
add_rows: Any = plain.add_rows if plain.IS_CHOSEN else intrinsic(_add_rows)
step: Any = plain.step if plain.IS_CHOSEN else intrinsic(_step)
prefetch: Any = plain.prefetch if plain.IS_CHOSEN else intrinsic(_prefetch)
