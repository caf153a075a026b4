"""Products of bytes, four neighbours summed into an int32 lane, by the tier's best instruction.

    dot4_signed(a, b)             a -128..127, b -127..127                  i8x32, i8x32 -> i32x8
    add_products(sums, w, s)      running sums: no_nibbles(), no_fives() or no_bytes(), then add,
                                  then total_of
    sum_half_lanes, add_halves    sums over lanes, for several products at once
    dot2(a, b)                    int16 -32767..32767, two neighbours       i16x16, i16x16 -> i32x8

and of codes of six bits, 0..63, whose halves of 16 have int8 scales of their own:

    dot4_unsigned(a, b)           a 0..63, b -127..127                      i8x32, i8x32 -> i32x8
    sum_scaled_lanes              sum_half_lanes of four of them, each half times its scale
    add_scaled                    a running sum of sixteen of them times their scale

AVX2 has no such instruction: vpmaddubsw adds pairs into int16 (no overflow within the ranges
above), vpmaddwd by ones adds pairs of those into int32. A running sum of nibble products stays in
int16 for up to eight of them: 8 * 2 * 15 * 127 = 30480; one of codes of five bits for up to four:
4 * 2 * 31 * 127 = 31496; one of six bits for two: 2 * 2 * 63 * 127 = 32004.

On ARM both sides are signed: sdot, and without it smull, whose int16 products are added by pairs
(2 * 128 * 127 = 32512 at most) and then into int32.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from .cpu import current_tier
from .vector import (
    Vector,
    call,
    constant,
    f32x16,
    i8x32,
    i8x64,
    i16x16,
    i32x8,
    i32x16,
    intrinsic,
    shuffle,
    splat,
)

_PRODUCTS = current_tier().products
_VNNI = _PRODUCTS == "vpdpbusd"
_X86 = _VNNI or _PRODUCTS == "vpmaddubsw"
_EMULATED = current_tier().emulated
_ARM = _PRODUCTS in ("smull", "sdot")


def _portable_dot4(builder: Any, unsigned: Any, signed: Any, *, both_signed: bool) -> Any:
    n = signed.type.count
    wide = ir.VectorType(ir.IntType(32), n)
    extend = builder.sext if both_signed else builder.zext
    products = builder.mul(extend(unsigned, wide), builder.sext(signed, wide))
    lanes = [shuffle(builder, products, products, list(range(i, n, 4))) for i in range(4)]
    return builder.add(builder.add(lanes[0], lanes[1]), builder.add(lanes[2], lanes[3]))


def _halves(builder: Any, vector: Any) -> tuple[Any, Any]:
    n = vector.type.count // 2
    low, high = list(range(n)), list(range(n, 2 * n))
    return shuffle(builder, vector, vector, low), shuffle(builder, vector, vector, high)


def _sdot(builder: Any, sums: Any, a: Any, b: Any) -> Any:
    """sums + dot4(a, b) of signed bytes in one register of 16."""
    return call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", sums.type, [sums, a, b])


def _smull(builder: Any, sums: Any, a: Any, b: Any) -> Any:
    """What _sdot gives: eight products at a time, added by pairs, then into the sums (sadalp)."""
    i16x8 = ir.VectorType(ir.IntType(16), 8)
    sides = zip(_halves(builder, a), _halves(builder, b), strict=True)
    products = [call(builder, "llvm.aarch64.neon.smull.v8i16", i16x8, list(s)) for s in sides]
    pairs = call(builder, "llvm.aarch64.neon.addp.v8i16", i16x8, products)
    fours = call(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", sums.type, [pairs])
    return builder.add(sums, fours)


def _addp(builder: Any, a: Any, b: Any) -> Any:
    return call(builder, "llvm.aarch64.neon.addp.v4i32", a.type, [a, b])


def _by_halves(builder: Any, function: Any, *vectors: Any) -> Any:
    """An i32x8 of two results, of the low and of the high halves: registers of NEON."""
    parts = zip(*(_halves(builder, vector) for vector in vectors), strict=True)
    low, high = (function(builder, *part) for part in parts)
    return shuffle(builder, low, high, list(range(8)))


def _pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    return call(builder, "llvm.x86.avx2.pmadd.ub.sw", i16x16.llvm, [unsigned, signed])


def _add_pairs(builder: Any, pairs: Any) -> Any:
    return _dot2(builder, pairs, constant(i16x16.llvm, 1))


def _dot2(builder: Any, a: Any, b: Any) -> Any:
    if _X86:
        return call(builder, "llvm.x86.avx2.pmadd.wd", i32x8.llvm, [a, b])
    wide = ir.VectorType(ir.IntType(32), 16)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (shuffle(builder, products, products, list(range(i, 16, 2))) for i in range(2))
    return builder.add(even, odd)


def _accumulate(builder: Any, sums: Any, a: Any, b: Any, *, both_signed: bool) -> Any:
    """sums + dot4(a, b); a is 0..127 if it is not signed."""
    if _ARM:
        return _by_halves(builder, _sdot if _PRODUCTS == "sdot" else _smull, sums, a, b)
    if not _X86:
        return builder.add(sums, _portable_dot4(builder, a, b, both_signed=both_signed))
    if both_signed:
        a, b = _signed_operands(builder, a, b)
    if _VNNI:
        return _vpdpbusd(builder, sums, a, b)
    return builder.add(sums, _add_pairs(builder, _pairs(builder, a, b)))


def _vpdpbusd(builder: Any, *operands: Any) -> Any:
    """sums + dot4 of 0..255 and signed bytes, in registers of 256 or 512 bits.

    Emulated it is a function of its own: plain code for so many products takes long to compile.
    """
    kinds = [operand.type for operand in operands]
    bits, module = 32 * kinds[0].count, builder.module
    if not _EMULATED:
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", kinds[0], list(operands))
    name = f"edgellama.vpdpbusd.{bits}"
    if name not in module.globals:
        function = ir.Function(module, ir.FunctionType(kinds[0], kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        body = ir.IRBuilder(function.append_basic_block())
        sums, weights, signed = function.args
        body.ret(body.add(sums, _portable_dot4(body, weights, signed, both_signed=False)))
    return builder.call(module.globals[name], operands)


def _signed_operands(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """|a| and b with the sign of a: the same products with an unsigned left side."""
    size = call(builder, "llvm.abs.v32i8", i8x32.llvm, [a, ir.Constant(ir.IntType(1), 0)])
    return size, call(builder, "llvm.x86.avx2.psign.b", i8x32.llvm, [b, a])


@intrinsic
def dot4_signed(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _accumulate(builder, constant(i32x8.llvm, 0), *args, both_signed=True)

    return i32x8(i8x32, i8x32), emit


@intrinsic
def dot4_unsigned(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _accumulate(builder, constant(i32x8.llvm, 0), *args, both_signed=False)

    return i32x8(i8x32, i8x32), emit


@intrinsic
def dot2(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _dot2(builder, *args)

    return i32x8(i16x16, i16x16), emit


@intrinsic
def add_scaled(
    typingctx: Any, sums: Any, w0: Any, x0: Any, w1: Any, x1: Any, w2: Any, x2: Any, w3: Any,
    x3: Any, scales: Any
) -> Any:  # fmt: skip
    """sums + scale * (four products of 0..63 with -127..127, each four neighbours); the scales
    stand twice in i16x16, for each lane of i32x8.

    Two products fit int16: 2 * 2 * 63 * 127 = 32004; so vpmaddwd by the scales adds and scales.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, *operands, scale = args
        products = list(zip(operands[::2], operands[1::2], strict=True))
        if _X86 and not _VNNI:
            for two in (products[:2], products[2:]):
                a, b = (_pairs(builder, *operands) for operands in two)
                total = builder.add(total, _dot2(builder, builder.add(a, b), scale))
            return total
        dots = constant(i32x8.llvm, 0)
        for weights, signed in products:
            dots = _accumulate(builder, dots, weights, signed, both_signed=False)
        lanes = builder.bitcast(scale, i32x8.llvm)
        lanes = builder.ashr(lanes, constant(i32x8.llvm, 16))
        return builder.add(total, builder.mul(dots, lanes))

    operands = [i8x32] * 8
    return i32x8(i32x8, *operands, i16x16), emit


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

_SHORT = i16x16 if _X86 and not _VNNI else i32x8
NIBBLES = RunningSum("nibble_sum", _SHORT)  # codes 0..15
FIVES = RunningSum("five_bit_sum", _SHORT)  # codes 0..31
SIXES = RunningSum("six_bit_sum", i32x8)  # codes 0..63
BYTES = RunningSum("byte_sum", i32x8)


def _empty_sum(kind: RunningSum) -> Any:
    @intrinsic
    def empty(typingctx: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return constant(kind.llvm, 0)

        return kind(), emit

    return empty


no_nibbles, no_fives = _empty_sum(NIBBLES), _empty_sum(FIVES)
no_sixes, no_bytes = _empty_sum(SIXES), _empty_sum(BYTES)


@intrinsic
def parts_of_eight(typingctx: Any, sums: Any) -> Any:
    """Into how many running sums of this kind eight products must be cut: a constant, 1 or 2."""
    parts = 2 if sums == FIVES and sums.element == "i16" else 1

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), parts)

    return types.int64(sums), emit


@intrinsic
def add_products(typingctx: Any, sums: Any, weights: Any, signed: Any) -> Any:
    """sums + weights * signed, i8x32 each: up to eight times where the weights are nibbles, four
    times where they have five bits.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if sums.element == "i16":
            return builder.add(args[0], _pairs(builder, *args[1:]))
        return _accumulate(builder, *args, both_signed=sums == BYTES)

    return sums(sums, i8x32, i8x32), emit


@intrinsic
def total_of(typingctx: Any, sums: Any) -> Any:
    """A running sum as i32x8, each lane four neighbouring products."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _add_pairs(builder, args[0]) if sums.element == "i16" else args[0]

    return i32x8(sums), emit


# Sixteen rows in a register of 512 bits: a lane is four neighbouring columns of a row.


def _moved(kind: RunningSum) -> bool:
    """Whether signed weights are moved to 0..255, because vpdpbusd takes no signed ones."""
    return _VNNI and kind == BYTES


@intrinsic
def excess_of(typingctx: Any, nothing: Any) -> Any:
    """How much more than the weights those are that load_rows gives: 128 or 0."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), 128 if _moved(nothing) else 0)

    return types.int64(nothing), emit


@intrinsic
def load_rows(typingctx: Any, nothing: Any, address: Any) -> Any:
    """Four columns of sixteen rows, i8x64, ready for dot_rows."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(builder.inttoptr(args[1], i8x64.llvm.as_pointer()), align=1)
        return builder.xor(value, constant(i8x64.llvm, -128)) if _moved(nothing) else value

    return i8x64(nothing, types.int64), emit


def _add_pieces(builder: Any, kind: RunningSum, sums: Any, pieces: list[tuple[Any, Any]]) -> Any:
    """sums + the products of some pieces: as many as fit a running sum of this kind."""
    if _VNNI:
        for operands in pieces:
            sums = _vpdpbusd(builder, sums, *operands)
        return sums
    wide = ir.VectorType(ir.IntType(16), 32)
    pairs = constant(wide, 0)
    for weights, signed in pieces:
        if kind == BYTES:
            none = constant(i8x64.llvm, 0)
            negative = builder.icmp_signed("<", weights, none)
            signed = builder.select(negative, builder.sub(none, signed), signed)
            size = [weights, ir.Constant(ir.IntType(1), 0)]
            weights = call(builder, "llvm.abs.v64i8", i8x64.llvm, size)
        pairs = builder.add(pairs, _on_512(builder, "pmaddubs.w", _pairs, wide, weights, signed))
    fours = pairs, constant(wide, 1)
    return builder.add(sums, _on_512(builder, "pmaddw.d", _dot2, i32x16.llvm, *fours))


def _dot_pieces(builder: Any, kind: RunningSum, sums: Any, *operands: Any) -> Any:
    """sums + pieces of four columns times the codes at an address, four to a piece."""
    *weights, codes = operands
    at_once = {NIBBLES: 8, FIVES: 4, SIXES: 2, BYTES: 1}[kind]
    pieces = []
    for i, four_columns in enumerate(weights):
        at = builder.add(codes, ir.Constant(codes.type, 4 * i))
        four = builder.load(builder.inttoptr(at, ir.IntType(32).as_pointer()), align=1)
        pieces.append((four_columns, builder.bitcast(splat(builder, four, 16), i8x64.llvm)))
    for i in range(0, len(pieces), at_once):
        sums = _add_pieces(builder, kind, sums, pieces[i : i + at_once])
    return sums


def _on_512(builder: Any, name: str, by_halves: Any, result: Any, a: Any, b: Any) -> Any:
    """An instruction of AVX-512; emulated, that of AVX2 on each half."""
    if not _EMULATED:
        return call(builder, f"llvm.x86.avx512.{name}.512", result, [a, b])
    sides = zip(_halves(builder, a), _halves(builder, b), strict=True)
    low, high = (by_halves(builder, *side) for side in sides)
    return shuffle(builder, low, high, list(range(result.count)))


@intrinsic
def dot_rows(
    typingctx: Any, nothing: Any, start: Any, w0: Any, w1: Any, w2: Any, w3: Any, w4: Any, w5: Any,
    w6: Any, w7: Any, codes: Any
) -> Any:  # fmt: skip
    """start + 32 columns of sixteen rows times the 32 codes at an address: i32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _dot_pieces(builder, nothing, *args[1:])

    return i32x16(nothing, i32x16, *[i8x64] * 8, types.int64), emit


@intrinsic
def dot_half_rows(
    typingctx: Any, start: Any, w0: Any, w1: Any, w2: Any, w3: Any, codes: Any
) -> Any:
    """start + 16 columns of sixteen rows, of codes 0..63, times the 16 codes at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _dot_pieces(builder, SIXES, *args)

    return i32x16(i32x16, *[i8x64] * 4, types.int64), emit


@intrinsic
def dot2_rows(typingctx: Any, pairs: Any, pair: Any) -> Any:
    """The two int16 of each lane times those of an int32, summed: i32x16."""
    wide = ir.VectorType(ir.IntType(16), 32)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = args[0], splat(builder, args[1], 16)
        a, b = (builder.bitcast(side, wide) for side in lanes)
        return _on_512(builder, "pmaddw.d", _dot2, i32x16.llvm, a, b)

    return i32x16(i32x16, types.int32), emit


def _taker_of_pairs(*, first: bool) -> Any:
    @intrinsic
    def take(typingctx: Any, pairs: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            half = constant(i32x16.llvm, 16)
            lanes = builder.shl(args[0], half) if first else args[0]
            return builder.sitofp(builder.ashr(lanes, half), f32x16.llvm)

        return f32x16(i32x16), emit

    return take


# The first, and the second, of the two int16 of each lane.
first_of_pairs_to_f32 = _taker_of_pairs(first=True)
second_of_pairs_to_f32 = _taker_of_pairs(first=False)


# Sums over lanes.


def _add_neighbours(builder: Any, a: Any, b: Any) -> Any:
    """Sums of neighbouring lanes, of a and b by turns of 128 bits: what vphaddd gives."""
    if _X86:
        return call(builder, "llvm.x86.avx2.phadd.d", i32x8.llvm, [a, b])
    if _ARM:
        return _by_halves(builder, _addp, a, b)
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    odd = [lane + 1 for lane in even]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, odd))


def _pack(builder: Any, a: Any, b: Any) -> Any:
    return call(builder, "llvm.x86.avx2.packssdw", i16x16.llvm, [a, b])


def _add_by_turns(builder: Any, size: int, a: Any, b: Any) -> Any:
    """Of each 128 bits the first half added to the second: `size` int16 of a, of b, of a, ..."""
    n = 8 // size  # pieces of 128 bits
    lanes: list[list[int]] = [[], []]
    for start in (0, 8):  # the 128 bits
        for piece in range(n):
            for side in (0, 16):
                first = start + side + piece * size
                lanes[piece >= n // 2] += range(first, first + size)
    return builder.add(*(shuffle(builder, a, b, each) for each in lanes))


@intrinsic
def sum_half_lanes(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Low-half sums of a, b, c, d, then their high-half sums: i32x8.

    Running sums in int16 may hold two products a lane: then they still fit int16 when two lanes
    have been added (4 * 2 * 31 * 127 = 31496), those of nibbles even when four have
    (8 * 2 * 15 * 127 = 30480).
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if a == NIBBLES and a.element == "i16":
            ab, cd = _add_by_turns(builder, 2, *args[:2]), _add_by_turns(builder, 2, *args[2:])
            return _add_pairs(builder, _add_by_turns(builder, 4, ab, cd))
        if a.element == "i16":
            a2, b2, c2, d2 = (_add_pairs(builder, v) for v in args)
            ab = _add_pairs(builder, _pack(builder, a2, b2))
            cd = _add_pairs(builder, _pack(builder, c2, d2))
            return _add_neighbours(builder, ab, cd)
        ab, cd = _add_neighbours(builder, *args[:2]), _add_neighbours(builder, *args[2:])
        return _add_neighbours(builder, ab, cd)

    return i32x8(a, a, a, a), emit


@intrinsic
def sum_scaled_lanes(typingctx: Any, a: Any, b: Any, c: Any, d: Any, scales: Any) -> Any:
    """sum_half_lanes of what dot4_unsigned gave, each sum times its scale: i32x8.

    scales: i8x8, low half and high half of a, of b, of c, of d. A lane of a..d fits int16
    (4 * 63 * 127 = 32004), so vpackssdw and vpmaddwd by the scales do half of the adding.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        *dots, scale = args
        if _X86:
            scale = builder.sext(scale, ir.VectorType(ir.IntType(16), 8))
            ab = _dot2(builder, _pack(builder, *dots[:2]), _lanes(builder, scale, 0, 2, 1, 3))
            cd = _dot2(builder, _pack(builder, *dots[2:]), _lanes(builder, scale, 4, 6, 5, 7))
            return _add_neighbours(builder, ab, cd)
        scale = builder.sext(scale, i32x8.llvm)
        dots = [
            builder.mul(lanes, _lanes(builder, scale, 2 * i, 2 * i + 1))
            for i, lanes in enumerate(dots)
        ]
        ab, cd = _add_neighbours(builder, *dots[:2]), _add_neighbours(builder, *dots[2:])
        return _add_neighbours(builder, ab, cd)

    return i32x8(i32x8, i32x8, i32x8, i32x8, scales), emit


def _lanes(builder: Any, vector: Any, *numbers: int) -> Any:
    """Each of these lanes four times over."""
    return shuffle(builder, vector, vector, [number for number in numbers for _ in range(4)])


@intrinsic
def add_halves(typingctx: Any, a: Any, b: Any) -> Any:
    """(low half + high half) of a, then of b: i32x8, or a running sum of as many products more."""
    lanes, half = a.lanes, a.lanes // 2
    lows = [*range(half), *range(lanes, lanes + half)]
    highs = [lane + half for lane in lows]

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low, high = args
        return builder.add(shuffle(builder, low, high, lows), shuffle(builder, low, high, highs))

    return a(a, a), emit
