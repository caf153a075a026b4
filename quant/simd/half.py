"""float16 in memory, float32 in registers.

Machines with F16C or NEON convert in one instruction. Elsewhere the conversion is done on the bits,
because LLVM would call a library function that a JIT does not find.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from .cpu import current_tier
from .vector import Vector, constant, f32x8, f32x16, intrinsic, shuffle, splat

_U16, _U32, _F32, _F16 = ir.IntType(16), ir.IntType(32), ir.FloatType(), ir.HalfType()


def _vector(element: ir.Type, lanes: int) -> Any:
    return ir.VectorType(element, lanes)


def _widen_bits(builder: Any, half: Any, lanes: int) -> Any:
    """float16 bits -> float32: move exponent and mantissa up, rescale, mend infinities and NaN."""
    u32, f32 = _vector(_U32, lanes), _vector(_F32, lanes)
    wide = builder.zext(half, u32)
    rest = builder.and_(wide, constant(u32, 0x7FFF))
    moved = builder.bitcast(builder.shl(rest, constant(u32, 13)), f32)
    scaled = builder.bitcast(builder.fmul(moved, constant(f32, 2.0**112)), u32)
    special = builder.icmp_unsigned(">=", rest, constant(u32, 0x7C00))
    mended = builder.select(special, builder.or_(scaled, constant(u32, 0x7F800000)), scaled)
    sign = builder.shl(builder.and_(wide, constant(u32, 0x8000)), constant(u32, 16))
    return builder.bitcast(builder.or_(mended, sign), f32)


def _narrow_bits(builder: Any, value: Any, lanes: int) -> Any:
    """float32 -> float16 bits, nearest even: an addition aligns the mantissa and rounds it."""
    u32, f32, u16 = _vector(_U32, lanes), _vector(_F32, lanes), _vector(_U16, lanes)
    bits = builder.bitcast(value, u32)
    twice = builder.add(bits, bits)  # drops the sign
    size = builder.bitcast(builder.and_(bits, constant(u32, 0x7FFFFFFF)), f32)
    clipped = builder.fmul(builder.fmul(size, constant(f32, 2.0**112)), constant(f32, 2.0**-110))
    bias = builder.and_(twice, constant(u32, 0xFF000000))
    least = constant(u32, 0x71000000)  # below it the result is subnormal
    bias = builder.select(builder.icmp_unsigned("<", bias, least), least, bias)
    aligner = builder.add(builder.lshr(bias, constant(u32, 1)), constant(u32, 0x07800000))
    rounded = builder.bitcast(builder.fadd(builder.bitcast(aligner, f32), clipped), u32)
    exponent = builder.and_(builder.lshr(rounded, constant(u32, 13)), constant(u32, 0x7C00))
    half = builder.add(exponent, builder.and_(rounded, constant(u32, 0xFFF)))
    is_nan = builder.icmp_unsigned(">", twice, constant(u32, 0xFF000000))
    half = builder.select(is_nan, constant(u32, 0x7E00), half)
    sign = builder.and_(builder.lshr(bits, constant(u32, 16)), constant(u32, 0x8000))
    return builder.trunc(builder.or_(half, sign), u16)


def widen(builder: Any, half: Any) -> Any:
    """A vector of float16 bits (i16) as float32."""
    lanes = half.type.count
    if not current_tier().f16c:
        return _widen_bits(builder, half, lanes)
    return builder.fpext(builder.bitcast(half, _vector(_F16, lanes)), _vector(_F32, lanes))


def narrow(builder: Any, value: Any) -> Any:
    """A vector of float32 as float16 bits (i16), nearest even."""
    lanes = value.type.count
    if not current_tier().f16c:
        return _narrow_bits(builder, value, lanes)
    return builder.bitcast(builder.fptrunc(value, _vector(_F16, lanes)), _vector(_U16, lanes))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


@intrinsic
def load_f16x16(typingctx: Any, address: Any) -> Any:
    """16 float16 as f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen(builder, _load(builder, args[0], _vector(_U16, 16)))

    return f32x16(types.int64), emit


@intrinsic
def load_f16_16_times(typingctx: Any, address: Any) -> Any:
    """One float16 in all lanes of f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen(builder, splat(builder, _load(builder, args[0], _U16), 16))

    return f32x16(types.int64), emit


@intrinsic
def load_f16(typingctx: Any, address: Any) -> Any:
    """One float16 as float32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        one = _load(builder, args[0], _vector(_U16, 1))
        return builder.extract_element(widen(builder, one), ir.Constant(_U32, 0))

    return types.float32(types.int64), emit


@intrinsic
def load_two_f16(typingctx: Any, address: Any) -> Any:
    """Two neighbouring float16, each in all lanes of f32x8."""
    result = types.UniTuple(f32x8, 2)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = _load(builder, args[0], _U32)
        halves = builder.bitcast(splat(builder, pair, 4), _vector(_U16, 8))
        both = widen(builder, halves)
        each = [shuffle(builder, both, both, [lane] * 8) for lane in range(2)]
        return context.make_tuple(builder, result, each)

    return result(types.int64), emit


@intrinsic
def f16_of(typingctx: Any, bits: Any) -> Any:
    """The float16 of the low 16 bits of an int64, as float32."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        undefined = ir.Constant(_vector(_U16, 1), ir.Undefined)
        low = builder.trunc(args[0], _U16)
        one = builder.insert_element(undefined, low, ir.Constant(_U32, 0))
        return builder.extract_element(widen(builder, one), ir.Constant(_U32, 0))

    return types.float32(types.int64), emit


@intrinsic
def store_f16(typingctx: Any, address: Any, value: Any) -> Any:
    """One float32 as float16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        undefined = ir.Constant(_vector(_F32, 1), ir.Undefined)
        one = builder.insert_element(undefined, args[1], ir.Constant(_U32, 0))
        bits = narrow(builder, one)
        builder.store(bits, builder.inttoptr(args[0], bits.type.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), emit


def _blended(builder: Any, address: Any, stride: int) -> Any:
    """Number i of eight float16 lies in lane i of the vector that begins i lanes before it."""
    halves = _load(builder, address, _vector(_U16, 8))
    for i in range(1, 8):
        at = builder.add(address, ir.Constant(address.type, i * (stride - 2)))
        lanes = [lane + 8 * (lane == i) for lane in range(8)]
        halves = shuffle(builder, halves, _load(builder, at, _vector(_U16, 8)), lanes)
    return halves


def _four_halves(builder: Any, address: Any, stride: int) -> Any:
    """Four float16 in an int64."""
    i64 = ir.IntType(64)
    total = None
    for i in range(4):
        at = builder.add(address, ir.Constant(address.type, i * stride))
        half = builder.shl(builder.zext(_load(builder, at, _U16), i64), ir.Constant(i64, 16 * i))
        total = half if total is None else builder.or_(total, half)
    return total


def _shifted(builder: Any, address: Any, stride: int) -> Any:
    """Eight float16 by way of general registers, which costs no load of a vector."""
    pair = ir.Constant(ir.VectorType(ir.IntType(64), 2), ir.Undefined)
    for i in range(2):
        start = builder.add(address, ir.Constant(address.type, 4 * i * stride))
        halves = _four_halves(builder, start, stride)
        pair = builder.insert_element(pair, halves, ir.Constant(_U32, i))
    return builder.bitcast(pair, _vector(_U16, 8))


def _strided_loader(gather: Callable[[Any, Any, int], Any], stride: int) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return widen(builder, gather(builder, args[0], stride))

        return Vector("f32", 8)(types.int64), emit

    return load


# The scales of eight neighbouring blocks, as f32x8; no byte beyond the blocks is read. Q8_0 has
# twice the vector loads of Q4_0 already: blended ones cost it 4 %, where others save 5 %.
load_8_scales_18 = _strided_loader(_blended, 18)
load_8_scales_20 = _strided_loader(_blended, 20)
load_8_scales_22 = _strided_loader(_blended, 22)
load_8_scales_24 = _strided_loader(_blended, 24)
load_8_scales_34 = _strided_loader(_shifted, 34)
