"""Eight rows side by side: the same columns of each, four neighbouring bytes of a row a lane.

`place` below is the address of a row, or a tuple of eight of them; so one function of the bytes of
a row serves both. What eight rows give is turned: the first four of sixteen bytes of all rows, then
the next four of all rows, ... That is four registers of 32 bytes, as one vector.
"""

from typing import Any

from llvmlite import ir
from numba import types

from .half import widen
from .vector import (
    Vector,
    constant,
    f32x8,
    i8x16,
    i8x32,
    i16x16,
    i32x8,
    intrinsic,
    shuffle,
    splat,
)

ROWS = 8
LANE = 4  # bytes
i8x128 = Vector("i8", 128)
eight_rows = types.UniTuple(types.int64, ROWS)
_I16, _I32 = ir.IntType(16), ir.IntType(32)
_QUARTER = ir.VectorType(_I32, 4)


def _pointers(builder: Any, rows: Any, offset: Any, kind: Any) -> list[Any]:
    addresses = [builder.extract_value(rows, i) for i in range(ROWS)]
    return [builder.inttoptr(builder.add(a, offset), kind.as_pointer()) for a in addresses]


def _turn(builder: Any, rows: list[Any]) -> Any:
    """Eight vectors of four lanes: lane 0 of all rows, lane 1 of all rows, ... in one vector.

    Rows 0..3 in the low halves of registers, 4..7 in the high ones, so that no lane crosses them.
    """
    a, b, c, d = (shuffle(builder, rows[i], rows[i + 4], list(range(8))) for i in range(4))
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    first, second = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    lanes = []
    for half in (low, high):
        ab, cd = shuffle(builder, a, b, half), shuffle(builder, c, d, half)
        lanes += [shuffle(builder, ab, cd, first), shuffle(builder, ab, cd, second)]
    pairs = [shuffle(builder, lanes[i], lanes[i + 1], list(range(16))) for i in (0, 2)]
    return shuffle(builder, pairs[0], pairs[1], list(range(32)))


@intrinsic
def load_sixteen(typingctx: Any, place: Any, offset: Any) -> Any:
    """Sixteen bytes: i8x16 of a row, i8x128 of eight."""
    result = i8x128 if place == eight_rows else i8x16

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, offset = args
        if result is i8x16:
            at = builder.inttoptr(builder.add(place, offset), i8x16.llvm.as_pointer())
            return builder.load(at, align=1)
        pointers = _pointers(builder, place, offset, _QUARTER)
        rows = [builder.load(pointer, align=1) for pointer in pointers]
        return builder.bitcast(_turn(builder, rows), i8x128.llvm)

    return result(place, types.int64), emit


@intrinsic
def load_f16_of_rows(typingctx: Any, rows: Any, offset: Any) -> Any:
    """A float16 of each row: f32x8."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        halves = ir.Constant(ir.VectorType(_I16, ROWS), ir.Undefined)
        rows, offset = args
        for i, pointer in enumerate(_pointers(builder, rows, offset, _I16)):
            half = builder.load(pointer, align=1)
            halves = builder.insert_element(halves, half, ir.Constant(_I32, i))
        return widen(builder, halves)

    return f32x8(eight_rows, types.int64), emit


@intrinsic
def store_pieces(typingctx: Any, address: Any, codes: Any) -> Any:
    """The four registers of i8x128, each to the next 64 bytes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for i, piece in enumerate(_registers(builder, args[1])):
            at = builder.add(args[0], ir.Constant(args[0].type, 64 * i))
            builder.store(piece, builder.inttoptr(at, piece.type.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.int64, i8x128), emit


def _registers(builder: Any, vector: Any) -> list[Any]:
    starts = range(0, 128, 32)
    return [shuffle(builder, vector, vector, list(range(i, i + 32))) for i in starts]


# What stands at the head of a block, eight rows of it.


@intrinsic
def registers_of(typingctx: Any, codes: Any) -> Any:
    """i8x128 as a tuple of four i8x32."""
    result = types.UniTuple(i8x32, 4)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_tuple(builder, result, _registers(builder, args[0]))

    return result(i8x128), emit


def _shifted(builder: Any, lanes: Any, n: Any) -> Any:
    """Lanes of 32 bits, n bits (an int64) further down."""
    lanes = builder.bitcast(lanes, i32x8.llvm)
    return builder.lshr(lanes, splat(builder, builder.trunc(n, _I32), ROWS))


@intrinsic
def bits_of_lanes(typingctx: Any, lanes: Any, first: Any, mask: Any) -> Any:
    """Of each four bytes the bits of `mask` from bit `first` on: i32x8."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        moved = _shifted(builder, *args[:2])
        return builder.and_(moved, splat(builder, builder.trunc(args[2], _I32), ROWS))

    return i32x8(i8x32, types.int64, types.int64), emit


@intrinsic
def f16_of_lanes(typingctx: Any, lanes: Any, first: Any) -> Any:
    """Of each four bytes the float16 from bit `first` on: f32x8."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen(builder, builder.trunc(_shifted(builder, *args), ir.VectorType(_I16, ROWS)))

    return f32x8(i8x32, types.int64), emit


def _pair_taker(first: int) -> Any:
    @intrinsic
    def take(typingctx: Any, lanes: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            # each to the high byte of its 16 bits, from where a shift brings the sign along
            places = [LANE * (i // 4) + first + i % 4 // 2 for i in range(32)]
            doubled = builder.bitcast(shuffle(builder, args[0], args[0], places), i16x16.llvm)
            return builder.ashr(doubled, constant(i16x16.llvm, 8))

        return i16x16(i8x32), emit

    return take


# Of each four bytes the first two, and the last two, as int16.
first_pairs, last_pairs = _pair_taker(0), _pair_taker(2)


@intrinsic
def fifth_bits_of_rows(typingctx: Any, rows: Any, offset: Any, first: Any) -> Any:
    """16 where a bit of an int32 of each row is set, sixteen bits from `first` on: i8x128."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows, offset, first = args
        words = ir.Constant(i32x8.llvm, ir.Undefined)
        for i, pointer in enumerate(_pointers(builder, rows, offset, _I32)):
            word = builder.load(pointer, align=1)
            words = builder.insert_element(words, word, ir.Constant(_I32, i))
        words = _shifted(builder, words, first)
        four = shuffle(builder, words, words, list(range(ROWS)) * 4)
        kind = four.type
        places = ir.Constant(kind, [LANE * (i // ROWS) for i in range(4 * ROWS)])
        nibbles = builder.and_(builder.lshr(four, places), constant(kind, 15))
        # a product that has bit i of the nibble at bit 8 * i: copies 0, 7, 14 and 21 bits up
        spread = builder.mul(nibbles, constant(kind, 0x00204081))
        bits = builder.and_(spread, constant(kind, 0x01010101))
        return builder.bitcast(builder.shl(bits, constant(kind, 4)), i8x128.llvm)

    return i8x128(eight_rows, types.int64, types.int64), emit
