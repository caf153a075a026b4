"""SIMD vectors as numba values: `f32x16` and its kin, with operators, loads, stores and
conversions.

LLVM splits a vector into the registers of the machine, so kernels are written for one width on
every CPU and give the same bits on all of them. Addresses are int64; every access may be unaligned.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

from .cpu import architecture, current_tier

intrinsic: Any = extending.intrinsic  # its stub demands the typing context of every caller

_ELEMENTS = {
    "f32": (types.float32, ir.FloatType()),
    "f16": (types.uint16, ir.HalfType()),  # numba has no float16 on CPUs: held, never computed with
    "i32": (types.int32, ir.IntType(32)),
    "i16": (types.int16, ir.IntType(16)),
    "i8": (types.int8, ir.IntType(8)),
}
_I32 = ir.IntType(32)


class Vector(types.Type):
    """`lanes` numbers of one kind, held in registers."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        self.scalar, self.llvm_element = _ELEMENTS[element]
        self.llvm = ir.VectorType(self.llvm_element, lanes)
        super().__init__(name=f"{element}x{lanes}")

    @property
    def is_float(self) -> bool:
        return self.element == "f32"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


f32x16, f32x8 = Vector("f32", 16), Vector("f32", 8)
i32x16, i32x8 = Vector("i32", 16), Vector("i32", 8)
i16x16 = Vector("i16", 16)
i8x64, i8x32, i8x16 = Vector("i8", 64), Vector("i8", 32), Vector("i8", 16)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    """Emit a call of the LLVM intrinsic `name`."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def shuffle(builder: ir.IRBuilder, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return shuffle(builder, first, undefined, [0] * lanes)


# Operators: + - * / on floats, + - * on integers.

_OPERATORS = {
    operator.add: ("fadd", "add"),
    operator.sub: ("fsub", "sub"),
    operator.mul: ("fmul", "mul"),
    operator.truediv: ("fdiv", None),
}


def _define_operator(function: Callable[..., Any], float_op: str, int_op: str | None) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, float_op if sig.return_type.is_float else str(int_op))(*args)


for _function, (_float_op, _int_op) in _OPERATORS.items():
    _define_operator(_function, _float_op, _int_op)


# Memory.


def _loader(kind: Any, llvm: ir.Type) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = builder.load(builder.inttoptr(args[0], llvm.as_pointer()))
            value.align = 1
            return value

        return kind(types.int64), emit

    return load


load_f32x16, load_f32x8 = _loader(f32x16, f32x16.llvm), _loader(f32x8, f32x8.llvm)
load_i32x16, load_i32x8 = _loader(i32x16, i32x16.llvm), _loader(i32x8, i32x8.llvm)
load_i16x16 = _loader(i16x16, i16x16.llvm)
load_i8x32, load_i8x16 = _loader(i8x32, i8x32.llvm), _loader(i8x16, i8x16.llvm)
load_f32 = _loader(types.float32, ir.FloatType())
load_i32 = _loader(types.int32, _I32)
load_i64 = _loader(types.int64, ir.IntType(64))
load_i8 = _loader(types.int8, ir.IntType(8))


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a vector or a scalar, as wide as its type."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.int64, value), emit


def _prefetcher(locality: int, words: str) -> Any:
    def fetch(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
            options = [ir.Constant(_I32, n) for n in (0, locality, 1)]  # read, levels, data
            call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *options])
            return context.get_dummy_value()

        return types.void(types.int64), emit

    fetch.__doc__ = words
    return intrinsic(fetch)


# Ask for a cache line; any address may be named.
prefetch = _prefetcher(3, "One that will be read soon.")
prefetch_later = _prefetcher(2, "One that will be read later: not to the first level.")


@intrinsic
def unknown(typingctx: Any, address: Any) -> Any:
    """The same address, of which LLVM knows nothing: a loop up to it is not unrolled."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        hidden = call(builder, "llvm.launder.invariant.group.p0", pointer.type, [pointer])
        return builder.ptrtoint(hidden, args[0].type)

    return types.int64(types.int64), emit


# Making and taking apart.


def _splatter(kind: Vector) -> Any:
    @intrinsic
    def spread(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return splat(builder, args[0], kind.lanes)

        return kind(kind.scalar), emit

    return spread


splat_f32x16, splat_f32x8 = _splatter(f32x16), _splatter(f32x8)
splat_i32x16, splat_i32x8 = _splatter(i32x16), _splatter(i32x8)
splat_i8x32, splat_i8x16 = _splatter(i8x32), _splatter(i8x16)


@intrinsic
def splat_four_bytes(typingctx: Any, value: Any) -> Any:
    """The four bytes of an int32, eight times over: i8x32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(splat(builder, args[0], 8), i8x32.llvm)

    return i8x32(types.int32), emit


@intrinsic
def splat_pair(typingctx: Any, value: Any) -> Any:
    """The two int16 of an int32, eight times over: i16x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(splat(builder, args[0], 8), i16x16.llvm)

    return i16x16(types.int32), emit


@intrinsic
def bytes_of(typingctx: Any, low: Any, high: Any) -> Any:
    """The bytes of two int64: i8x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = ir.Constant(ir.VectorType(ir.IntType(64), 2), ir.Undefined)
        for lane, value in enumerate(args):
            pair = builder.insert_element(pair, value, ir.Constant(_I32, lane))
        return builder.bitcast(pair, i8x16.llvm)

    return i8x16(types.int64, types.int64), emit


@intrinsic
def join(typingctx: Any, low: Any, high: Any) -> Any:
    """The lanes of `low`, then those of `high`."""
    both = Vector(low.element, 2 * low.lanes)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return shuffle(builder, args[0], args[1], list(range(both.lanes)))

    return both(low, high), emit


def _doubler(offset: int) -> Any:
    @intrinsic
    def double(typingctx: Any, vector: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = [lane + offset for lane in range(0, vector.lanes, 2) for _ in range(2)]
            return shuffle(builder, args[0], args[0], lanes)

        return vector(vector), emit

    return double


even_lanes_twice, odd_lanes_twice = _doubler(0), _doubler(1)


def _halver(offset: int) -> Any:
    @intrinsic
    def half(typingctx: Any, vector: Any) -> Any:
        part = Vector(vector.element, vector.lanes // 2)

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            start = offset * part.lanes
            return shuffle(builder, args[0], args[0], list(range(start, start + part.lanes)))

        return part(vector), emit

    return half


low_half, high_half = _halver(0), _halver(1)


@intrinsic
def first_lanes(typingctx: Any, vector: Any, n: Any, otherwise: Any) -> Any:
    """Lane i of `vector` where i < n, else `otherwise`; n fits an int32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = vector.lanes
        index = ir.Constant(ir.VectorType(ir.IntType(64), lanes), list(range(lanes)))
        inside = builder.icmp_signed("<", index, splat(builder, args[1], lanes))
        return builder.select(inside, args[0], splat(builder, args[2], lanes))

    return vector(vector, types.int64, vector.scalar), emit


# Arithmetic.


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine can."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not current_tier().fma:
            return builder.fadd(builder.fmul(args[0], args[1]), args[2])
        return call(builder, f"llvm.fma.v{a.lanes}f32", args[0].type, list(args))

    return a(a, a, a), emit


@intrinsic
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the larger; b where a is NaN."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return a(a, a), emit


@intrinsic
def smaller(typingctx: Any, a: Any, b: Any) -> Any:
    """Lane by lane the smaller; b where a is NaN."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return a(a, a), emit


@intrinsic
def magnitude(typingctx: Any, a: Any) -> Any:
    """|a| of floats."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.fabs.v{a.lanes}f32", args[0].type, list(args))

    return a(a), emit


@intrinsic
def round_even(typingctx: Any, a: Any) -> Any:
    """Nearest integer as a float, ties to even."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.roundeven.v{a.lanes}f32", args[0].type, list(args))

    return a(a), emit


@intrinsic
def round_down(typingctx: Any, a: Any) -> Any:
    """The largest integer not above, as a float."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.floor.v{a.lanes}f32", args[0].type, list(args))

    return a(a), emit


@intrinsic
def with_sign_of(typingctx: Any, size: Any, sign: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, f"llvm.copysign.v{size.lanes}f32", args[0].type, list(args))

    return size(size, size), emit


@intrinsic
def between(typingctx: Any, a: Any, low: Any, high: Any) -> Any:
    """Lanes with low <= a < high as they are, all others (NaN too) zero."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        least, end = (splat(builder, limit, a.lanes) for limit in args[1:])
        inside = builder.and_(
            builder.fcmp_ordered(">=", args[0], least), builder.fcmp_ordered("<", args[0], end)
        )
        return builder.select(inside, args[0], constant(a.llvm, 0))

    return a(a, types.float32, types.float32), emit


@intrinsic
def smaller_int(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return a(a, a), emit


def _first_true(builder: Any, flags: Any) -> Any:
    """Number of the first true one of 16 flags, as int64; 16 if there is none."""
    bits = builder.zext(builder.bitcast(flags, ir.IntType(16)), _I32)
    end = builder.or_(bits, ir.Constant(_I32, 1 << 16))
    place = builder.cttz(end, ir.Constant(ir.IntType(1), 1))
    return builder.zext(place, ir.IntType(64))


@intrinsic
def first_lane_with_magnitude(typingctx: Any, a: Any, magnitude: Any) -> Any:
    """Number of the first lane of f32x16 that is +magnitude or -magnitude; 16 if there is none."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = call(builder, "llvm.fabs.v16f32", f32x16.llvm, [args[0]])
        return _first_true(builder, builder.fcmp_ordered("==", size, splat(builder, args[1], 16)))

    return types.int64(f32x16, types.float32), emit


@intrinsic
def first_lane_equal_to(typingctx: Any, a: Any, value: Any) -> Any:
    """Number of the first lane of f32x16 that equals a value; 16 if there is none."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _first_true(
            builder, builder.fcmp_ordered("==", args[0], splat(builder, args[1], 16))
        )

    return types.int64(f32x16, types.float32), emit


def _folder(pair: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def fold(typingctx: Any, a: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            (vector,), lanes = args, a.lanes
            while lanes > 1:
                lanes //= 2
                low = shuffle(builder, vector, vector, list(range(lanes)))
                high = shuffle(builder, vector, vector, list(range(lanes, 2 * lanes)))
                vector = pair(builder, low, high)
            return builder.extract_element(vector, ir.Constant(_I32, 0))

        return a.scalar(a), emit

    return fold


def _add(builder: Any, a: Any, b: Any) -> Any:
    is_float = isinstance(a.type.element, ir.FloatType)
    return builder.fadd(a, b) if is_float else builder.add(a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


sum_lanes = _folder(_add)  # in one fixed order: halves onto each other
max_lanes, min_lanes = _folder(_larger), _folder(_smaller)


# Conversions.


def _converter(source: Vector, target: Vector, operation: str) -> Any:
    @intrinsic
    def convert(typingctx: Any, vector: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return getattr(builder, operation)(args[0], target.llvm)

        return target(source), emit

    return convert


i32x16_to_f32 = _converter(i32x16, f32x16, "sitofp")
i32x8_to_f32 = _converter(i32x8, f32x8, "sitofp")
i8x16_to_f32 = _converter(i8x16, f32x16, "sitofp")
i8x16_to_i16 = _converter(i8x16, i16x16, "sext")
f32x16_to_i32 = _converter(f32x16, i32x16, "fptosi")
i32x16_to_i8 = _converter(i32x16, i8x16, "trunc")


@intrinsic
def low_nibbles(typingctx: Any, vector: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.and_(args[0], constant(vector.llvm, 15))

    return vector(vector), emit


@intrinsic
def high_nibbles(typingctx: Any, vector: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if architecture() == "aarch64":
            return builder.lshr(args[0], constant(vector.llvm, 4))
        # x86 shifts no bytes: shift pairs, then drop what came over from the neighbour
        pairs = ir.VectorType(ir.IntType(16), vector.lanes // 2)
        shifted = builder.lshr(builder.bitcast(args[0], pairs), constant(pairs, 4))
        return builder.and_(builder.bitcast(shifted, vector.llvm), constant(vector.llvm, 15))

    return vector(vector), emit


@intrinsic
def take_bits(typingctx: Any, codes: Any, first: Any, mask: Any, to: Any) -> Any:
    """Of every byte the bits of `mask` from bit `first` on, moved to bit `to`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = ir.VectorType(ir.IntType(16), codes.lanes // 2)  # x86 shifts no bytes
        vector, *numbers = args
        first, mask, to = (
            splat(builder, builder.trunc(number, pairs.element), pairs.count) for number in numbers
        )
        both = builder.or_(mask, builder.shl(mask, constant(pairs, 8)))
        taken = builder.and_(builder.lshr(builder.bitcast(vector, pairs), first), both)
        return builder.bitcast(builder.shl(taken, to), codes.llvm)

    return codes(codes, types.int64, types.int64, types.int64), emit


def _taker_of_two_bits(shift: int) -> Any:
    @intrinsic
    def take(typingctx: Any, vector: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pairs = ir.VectorType(ir.IntType(16), vector.lanes // 2)
            moved = builder.bitcast(args[0], pairs)
            if shift < 4:
                moved = builder.shl(moved, constant(pairs, 4 - shift))
            elif shift > 4:
                moved = builder.lshr(moved, constant(pairs, shift - 4))
            return builder.and_(builder.bitcast(moved, vector.llvm), constant(vector.llvm, 0x30))

        return vector(vector), emit

    return take


# Two bits of every byte, as bits 4 and 5: what stands above a nibble.
bits_0_1, bits_2_3 = _taker_of_two_bits(0), _taker_of_two_bits(2)
bits_4_5, bits_6_7 = _taker_of_two_bits(4), _taker_of_two_bits(6)


@intrinsic
def bits_as_bytes(typingctx: Any, bits: Any) -> Any:
    """16 where a bit of an int32 is set, from the lowest up, else 0: i8x32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flags = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), 32))
        return builder.and_(builder.sext(flags, i8x32.llvm), constant(i8x32.llvm, 0x10))

    return i8x32(types.int32), emit


@intrinsic
def bytes_as_bits(typingctx: Any, codes: Any) -> Any:
    """Bit 4 of every byte of i8x32, the first one lowest: int32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bit = builder.and_(args[0], constant(i8x32.llvm, 0x10))
        flags = builder.icmp_signed("!=", bit, constant(i8x32.llvm, 0))
        return builder.bitcast(flags, _I32)

    return types.int32(i8x32), emit


@intrinsic
def join_nibbles(typingctx: Any, low: Any, high: Any) -> Any:
    """low + 16 * high of bytes 0..15."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.or_(args[0], builder.shl(args[1], constant(low.llvm, 4)))

    return low(low, low), emit


@intrinsic
def lane_numbers(typingctx: Any) -> Any:
    """0, 1, ... 15: f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(f32x16.llvm, list(range(16)))

    return f32x16(), emit


@intrinsic
def turn_16x16(typingctx: Any, address: Any) -> Any:
    """Transpose 16 rows of 16 float32 (or of anything of 32 bits) where they are."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = [
            builder.inttoptr(
                builder.add(args[0], ir.Constant(args[0].type, 64 * row)), f32x16.llvm.as_pointer()
            )
            for row in range(16)
        ]
        rows = [builder.load(place, align=4) for place in places]
        for bit in (8, 4, 2, 1):  # swap the off-diagonal quarters of squares of twice that side
            for i in (row for row in range(16) if not row & bit):
                j = i | bit
                upper = [16 + lane - bit if lane & bit else lane for lane in range(16)]
                lower = [16 + lane if lane & bit else lane + bit for lane in range(16)]
                pair = rows[i], rows[j]
                rows[i], rows[j] = (shuffle(builder, *pair, lanes) for lanes in (upper, lower))
        for row, place in zip(rows, places, strict=True):
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def power_of_two(typingctx: Any, exponent: Any) -> Any:
    """2 ** exponent for whole exponents -126..127: f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        biased = builder.add(args[0], constant(i32x16.llvm, 127))
        return builder.bitcast(builder.shl(biased, constant(i32x16.llvm, 23)), f32x16.llvm)

    return f32x16(i32x16), emit
