"""Products of bytes, four neighbours summed into an int32 lane, by the tier's best instruction.

    dot4_signed(a, b)             a -128..127, b -127..127                  i8x32, i8x32 -> i32x8
    add_products(sums, w, s)      running sums: no_nibbles() or no_bytes(), then add, then total_of
    sum_half_lanes, add_halves    sums over lanes, for several products at once

AVX2 has no such instruction: vpmaddubsw adds pairs into int16 (no overflow within the ranges
above), vpmaddwd by ones adds pairs of those into int32. A running sum of nibble products stays in
int16 for up to eight of them: 8 * 2 * 15 * 127 = 30480.
"""

from typing import Any

from llvmlite import ir
from numba.extending import models, register_model

from .cpu import current_tier
from .vector import Vector, call, constant, i8x32, i16x16, i32x8, intrinsic, shuffle

_TIER = current_tier().name
_VNNI = current_tier().vnni
_X86 = _TIER != "generic"


def _portable_dot4(builder: Any, unsigned: Any, signed: Any, *, both_signed: bool = False) -> Any:
    wide = ir.VectorType(ir.IntType(32), 32)
    extend = builder.sext if both_signed else builder.zext
    products = builder.mul(extend(unsigned, wide), builder.sext(signed, wide))
    lanes = [shuffle(builder, products, products, list(range(i, 32, 4))) for i in range(4)]
    return builder.add(builder.add(lanes[0], lanes[1]), builder.add(lanes[2], lanes[3]))


def _pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    return call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, [unsigned, signed])


def _add_pairs(builder: Any, pairs: Any) -> Any:
    ones = constant(i16x16.llvm, 1)
    return call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, [pairs, ones])


def _accumulate(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """sums + dot4(unsigned, signed)."""
    if _VNNI:
        name = "llvm.x86.avx512.vpdpbusd.256"
        return call(builder, name, i32x8.llvm, [sums, unsigned, signed])
    if _X86:
        return builder.add(sums, _add_pairs(builder, _pairs(builder, unsigned, signed)))
    return builder.add(sums, _portable_dot4(builder, unsigned, signed))


def _signed_operands(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """|a| and b with the sign of a: the same products with an unsigned left side."""
    size = call(builder, "llvm.abs.v32i8", i8x32.llvm, [a, ir.Constant(ir.IntType(1), 0)])
    return size, call(builder, "llvm.x86.avx2.psign.b", i8x32.llvm, [b, a])


def _zero() -> ir.Constant:
    return constant(i32x8.llvm, 0)


@intrinsic
def dot4_signed(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _X86:
            return _accumulate(builder, _zero(), *_signed_operands(builder, *args))
        return _portable_dot4(builder, *args, both_signed=True)

    return i32x8(i8x32, i8x32), emit


# Running sums. The type of a sum says which products it takes, so that one loop serves both.


class RunningSum(Vector):
    """Sums of products of weights and signed bytes; `name` tells what the weights are."""

    def __init__(self, name: str, vector: Vector) -> None:
        super().__init__(vector.element, vector.lanes)
        self.name = name


class _RunningSumModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: RunningSum) -> None:
        super().__init__(manager, kind, kind.llvm)


register_model(RunningSum)(_RunningSumModel)

NIBBLES = RunningSum("nibble_sum", i16x16 if _X86 and not _VNNI else i32x8)
BYTES = RunningSum("byte_sum", i32x8)


def _empty_sum(kind: RunningSum) -> Any:
    @intrinsic
    def empty(typingctx: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return constant(kind.llvm, 0)

        return kind(), emit

    return empty


no_nibbles, no_bytes = _empty_sum(NIBBLES), _empty_sum(BYTES)


@intrinsic
def add_products(typingctx: Any, sums: Any, weights: Any, signed: Any) -> Any:
    """sums + weights * signed, i8x32 each: up to eight times where the weights are nibbles."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, weights, signed = args
        if sums == NIBBLES:
            if NIBBLES.element == "i16":
                return builder.add(total, _pairs(builder, weights, signed))
            return _accumulate(builder, total, weights, signed)
        if _X86:
            return _accumulate(builder, total, *_signed_operands(builder, weights, signed))
        return builder.add(total, _portable_dot4(builder, weights, signed, both_signed=True))

    return sums(sums, i8x32, i8x32), emit


@intrinsic
def total_of(typingctx: Any, sums: Any) -> Any:
    """A running sum as i32x8, each lane four neighbouring products."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _add_pairs(builder, args[0]) if sums.element == "i16" else args[0]

    return i32x8(sums), emit


# Sums over lanes.


def _add_neighbours(builder: Any, a: Any, b: Any) -> Any:
    """Sums of neighbouring lanes, of a and b by turns of 128 bits: what vphaddd gives."""
    if _X86:
        return call(builder, "llvm.x86.avx2.phadd.d", i32x8.llvm, [a, b])
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    odd = [lane + 1 for lane in even]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))


def _pack(builder: Any, a: Any, b: Any) -> Any:
    return call(builder, "llvm.x86.avx2.packssdw", i16x16.llvm, [a, b])


@intrinsic
def sum_half_lanes(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Low-half sums of a, b, c, d, then their high-half sums: i32x8.

    Running sums in int16 may hold two nibble products a lane: then they still fit int16 when four
    lanes have been added (8 * 15 * 127 * 2 = 30480), and packing is cheaper than vphaddd.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if a.element == "i16":
            a2, b2, c2, d2 = (_add_pairs(builder, v) for v in args)
            ab = _add_pairs(builder, _pack(builder, a2, b2))
            cd = _add_pairs(builder, _pack(builder, c2, d2))
            return _add_pairs(builder, _pack(builder, ab, cd))
        ab, cd = _add_neighbours(builder, *args[:2]), _add_neighbours(builder, *args[2:])
        return _add_neighbours(builder, ab, cd)

    return i32x8(a, a, a, a), emit


@intrinsic
def add_halves(typingctx: Any, a: Any, b: Any) -> Any:
    """(low half + high half) of a, then of b: i32x8."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low = shuffle(builder, args[0], args[1], [0, 1, 2, 3, 8, 9, 10, 11])
        high = shuffle(builder, args[0], args[1], [4, 5, 6, 7, 12, 13, 14, 15])
        return builder.add(low, high)

    return i32x8(i32x8, i32x8), emit
