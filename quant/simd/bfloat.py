"""bfloat16, the upper half of a float32: sixteen of them in memory, or thirty-two in a register.

In registers they are i16x32, held and never computed with.
"""

from typing import Any

from llvmlite import ir
from numba import types

from .cpu import current_tier
from .vector import Vector, call, constant, f32x16, i8x32, intrinsic, shuffle

i16x32 = Vector("i16", 32)
_LANES = 32
_HAS_INSTRUCTIONS = current_tier().tiles and not current_tier().emulated


class _BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


@intrinsic
def load_bf16x16(typingctx: Any, address: Any) -> Any:
    """16 bfloat16 as f32x16."""
    u16, u32 = (ir.VectorType(ir.IntType(bits), 16) for bits in (16, 32))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.load(builder.inttoptr(args[0], u16.as_pointer()), align=1)
        return builder.bitcast(builder.shl(builder.zext(bits, u32), constant(u32, 16)), f32x16.llvm)

    return f32x16(types.int64), emit


def _narrow(builder: Any, value: Any) -> Any:
    """float32 -> bfloat16 bits, nearest even; a NaN stays one."""
    u16, u32 = (ir.VectorType(ir.IntType(bits), value.type.count) for bits in (16, 32))
    bits = builder.bitcast(value, u32)
    top = builder.lshr(bits, constant(u32, 16))
    odd = builder.and_(top, constant(u32, 1))
    nearest = builder.add(bits, builder.add(odd, constant(u32, 0x7FFF)))
    quiet = builder.or_(top, constant(u32, 0x40))
    is_nan = builder.fcmp_unordered("uno", value, value)
    top = builder.select(is_nan, quiet, builder.lshr(nearest, constant(u32, 16)))
    return builder.trunc(top, u16)


@intrinsic
def narrow_to_bf16(typingctx: Any, low: Any, high: Any) -> Any:
    """Two f32x16 as 32 bfloat16, nearest even."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low, high = args
        if _HAS_INSTRUCTIONS:
            name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
            kind = ir.VectorType(_BFloat(), _LANES)
            return builder.bitcast(call(builder, name, kind, [high, low]), i16x32.llvm)
        low, high = _narrow(builder, low), _narrow(builder, high)
        return shuffle(builder, low, high, list(range(_LANES)))

    return i16x32(f32x16, f32x16), emit


@intrinsic
def look_up_32(typingctx: Any, table: Any, numbers: Any) -> Any:
    """The lanes of a table that numbers 0..31 name."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table, places = args[0], builder.zext(args[1], i16x32.llvm)
        if _HAS_INSTRUCTIONS:
            name = "llvm.x86.avx512.permvar.hi.512"
            return call(builder, name, i16x32.llvm, [table, places])
        return builder.call(_emulated_look_up(builder.module), [table, places])

    return i16x32(i16x32, i8x32), emit


def _emulated_look_up(module: Any) -> Any:
    """A function of its own: in line, so much plain code takes long to compile."""
    name, kind = "edgellama.look_up_32", i16x32.llvm
    if name not in module.globals:
        function = ir.Function(module, ir.FunctionType(kind, [kind, kind]), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        body = ir.IRBuilder(function.append_basic_block())
        (table, places), found = function.args, constant(kind, 0)
        for lane in range(_LANES):
            at = ir.Constant(ir.IntType(32), lane)
            value = body.extract_element(table, body.extract_element(places, at))
            found = body.insert_element(found, value, at)
        body.ret(found)
    return module.globals[name]
