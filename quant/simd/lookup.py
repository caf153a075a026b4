"""Values found by number: sixteen of them in a register, a book of them in memory; signs by bit."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .cpu import current_tier
from .vector import call, constant, i8x16, i32x8, intrinsic, shuffle, splat

_PRODUCTS = current_tier().products
_X86 = _PRODUCTS in ("vpmaddubsw", "vpdpbusd")
_ARM = _PRODUCTS in ("smull", "sdot")


def _look_up_sixteen(builder: Any, table: Any, numbers: Any) -> Any:
    """In one register of 16 bytes (tbl)."""
    return call(builder, "llvm.aarch64.neon.tbl1.v16i8", i8x16.llvm, [table, numbers])


def _look_up(builder: Any, values: list[int], numbers: Any) -> Any:
    lanes = numbers.type.count
    if lanes > 32:
        halves = [list(range(i, i + lanes // 2)) for i in (0, lanes // 2)]
        parts = [shuffle(builder, numbers, numbers, half) for half in halves]
        low, high = (_look_up(builder, values, part) for part in parts)
        return shuffle(builder, low, high, list(range(lanes)))
    table = ir.Constant(numbers.type, values * (lanes // 16))
    if _X86:
        name = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b"}[lanes]
        return call(builder, name, numbers.type, [table, numbers])
    if _ARM:
        sixteen = ir.Constant(i8x16.llvm, values)
        parts = [
            shuffle(builder, numbers, numbers, list(range(i, i + 16))) for i in range(0, lanes, 16)
        ]
        found = [_look_up_sixteen(builder, sixteen, part) for part in parts]
        return shuffle(builder, found[0], found[-1], list(range(lanes)))
    found = constant(numbers.type, values[0])
    for number, value in enumerate(values):
        here = builder.icmp_signed("==", numbers, constant(numbers.type, number))
        found = builder.select(here, constant(numbers.type, value), found)
    return found


def lookup16(values: tuple[int, ...]) -> Any:
    """An intrinsic: numbers 0..15, sixteen or more int8, to those of these 16 int8 values."""

    @intrinsic
    def look_up(typingctx: Any, numbers: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _look_up(builder, list(values), args[0])

        return numbers(numbers), emit

    return look_up


def book_in_memory(book: npt.NDArray[np.int8]) -> Any:
    """An intrinsic: the address of these bytes, which become part of the machine code."""
    data = bytearray(book.tobytes())

    @intrinsic
    def address(typingctx: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = ir.Constant(ir.ArrayType(ir.IntType(8), len(data)), data)
            place = cgutils.global_constant(builder.module, "book", value)
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(), emit

    return address


@intrinsic
def with_signs(typingctx: Any, codes: Any, bits: Any) -> Any:
    """-codes where a bit is set, from the lowest up: i8x16 and the low 16 bits of an int64."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low = builder.trunc(args[1], ir.IntType(16))
        set_ = builder.bitcast(low, ir.VectorType(ir.IntType(1), 16))
        return builder.select(set_, builder.sub(constant(i8x16.llvm, 0), args[0]), args[0])

    return i8x16(i8x16, types.int64), emit


@intrinsic(prefer_literal=True)
def bit_fields(typingctx: Any, word: Any, width: Any) -> Any:
    """Eight fields of an int32, each `width` bits (a literal), the lowest first: i32x8."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        n = width.literal_value
        places = ir.Constant(i32x8.llvm, [lane * n for lane in range(8)])
        moved = builder.lshr(splat(builder, args[0], 8), places)
        return builder.and_(moved, constant(i32x8.llvm, (1 << n) - 1))

    return i32x8(types.int32, width), emit


def _fields(builder: Any, words: Any, order: list[int], places: list[int], masks: list[int]) -> Any:
    """Of four int32 those in this order, each moved down so many bits; of its bytes this mask."""
    kind = words.type
    moved = builder.lshr(shuffle(builder, words, words, order), ir.Constant(kind, places))
    return builder.and_(moved, ir.Constant(kind, [mask * 0x01010101 for mask in masks]))


@intrinsic
def six_bit_fields(typingctx: Any, head: Any) -> Any:
    """The scales of eight blocks and then their minimums, 0..63, as Q4_K and Q5_K pack them into
    the last twelve of sixteen bytes: i8x16.

    Bytes 4..7 are scales 0..3 and bytes 8..11 minimums 0..3, each with two bits of a later one on
    top; the nibbles of bytes 12..15 are the rest of scales and minimums 4..7.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], ir.VectorType(ir.IntType(32), 4))
        first = _fields(builder, words, [1, 1, 2, 2], [0, 2, 0, 2], [0x3F, 0x30, 0x3F, 0x30])
        rest = _fields(builder, words, [3, 3, 3, 3], [0, 0, 0, 4], [0, 0x0F, 0, 0x0F])
        return builder.bitcast(builder.or_(first, rest), i8x16.llvm)

    return i8x16(i8x16), emit
