"""AMX: eight tile registers of 16 rows x 64 bytes, and the product of two of them.

    configure_tiles(state)                          whole tiles, for this thread: before any other
    zero_tile(state, c)
    load_tile(state, a, address, stride)            rows of 64 bytes, `stride` bytes apart
    multiply_tiles(state, c, a, b)                  c[i, j] += sum_k a[i, k] * b[k // 2, j, k % 2]
    store_tile(state, c, address, stride)
    release_tiles()                                 the thread's last: others switch faster without

c holds float32, 16 x 16; a bfloat16, 16 x 32; b bfloat16 in pairs, 16 x 16 x 2. Tiles are named by
literal numbers 0..7. `state` is the address of STATE bytes: the configuration, and behind it the
tiles themselves where they are emulated. Source: Intel 64 and IA-32 manual, volume 2, TDPBF16PS.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .cpu import current_tier
from .vector import call, constant, intrinsic, splat

ROWS = 16
ROW = 64  # bytes
TILE = ROWS * ROW
CONFIGURATION = 64
STATE = CONFIGURATION + 8 * TILE

_I8, _I32, _I64, _VOID = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VoidType()
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), 16), ir.VectorType(_I32, 16)
_EMULATED = current_tier().emulated
literal_intrinsic = intrinsic(prefer_literal=True)


def _pointer(builder: Any, address: Any, kind: Any = _I8) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _tile_instruction(builder: Any, name: str, tiles: list[Any], *operands: Any) -> Any:
    numbers = [ir.Constant(_I8, tile.literal_value) for tile in tiles]
    call(builder, f"llvm.x86.{name}", _VOID, [*numbers, *operands])


def _tile_row(builder: Any, state: Any, tile: Any, row: Any, kind: Any = _WORDS) -> Any:
    """Where a row of an emulated tile is."""
    start = ir.Constant(_I64, CONFIGURATION + tile.literal_value * TILE)
    offset = builder.mul(row, ir.Constant(_I64, ROW))
    return _pointer(builder, builder.add(builder.add(state, start), offset), kind)


def _copy_rows(
    builder: Any, state: Any, tile: Any, address: Any, stride: Any, *, load: bool
) -> None:
    with cgutils.for_range(builder, ir.Constant(_I64, ROWS)) as loop:
        memory = builder.add(address, builder.mul(loop.index, stride))
        ends = [
            _pointer(builder, memory, _WORDS),
            _tile_row(builder, state, tile, loop.index),
        ]
        source, target = ends if load else reversed(ends)
        value = builder.load(source)
        value.align = 1
        builder.store(value, target).align = 1


@intrinsic
def configure_tiles(typingctx: Any, state: Any) -> Any:
    """Palette 1; of each tile the bytes of a row (16 bits, from byte 16 on), the rows (from 48)."""
    layout = bytes([1, *[0] * 15, *[ROW, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(builder, args[0], ir.VectorType(_I8, CONFIGURATION))
        bits = ir.Constant(ir.VectorType(_I8, CONFIGURATION), list(layout))
        builder.store(bits, pointer).align = 1
        if not _EMULATED:
            call(builder, "llvm.x86.ldtilecfg", _VOID, [_pointer(builder, args[0])])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def release_tiles(typingctx: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not _EMULATED:
            call(builder, "llvm.x86.tilerelease", _VOID, [])
        return context.get_dummy_value()

    return types.void(), emit


@literal_intrinsic
def zero_tile(typingctx: Any, state: Any, tile: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _EMULATED:
            start = _tile_row(builder, args[0], tile, ir.Constant(_I64, 0), _I8)
            cgutils.memset(builder, start, ir.Constant(_I64, TILE), 0)
        else:
            _tile_instruction(builder, "tilezero", [tile])
        return context.get_dummy_value()

    return types.void(types.int64, tile), emit


def _mover(instruction: str) -> Any:
    @literal_intrinsic
    def move(typingctx: Any, state: Any, tile: Any, address: Any, stride: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address, stride = args[2:]
            if _EMULATED:
                load = instruction == "tileloadd64"
                _copy_rows(builder, args[0], tile, address, stride, load=load)
            else:
                _tile_instruction(builder, instruction, [tile], _pointer(builder, address), stride)
            return context.get_dummy_value()

        return types.void(types.int64, tile, types.int64, types.int64), emit

    return move


load_tile, store_tile = _mover("tileloadd64"), _mover("tilestored64")


def _low_and_high(builder: Any, pairs: Any) -> list[Any]:
    """The two bfloat16 of each 32 bits, as float32."""
    low = builder.shl(pairs, constant(_WORDS, 16))
    high = builder.and_(pairs, constant(_WORDS, 0xFFFF0000))
    return [builder.bitcast(bits, _FLOATS) for bits in (low, high)]


@literal_intrinsic
def multiply_tiles(typingctx: Any, state: Any, c: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        state = args[0]
        if not _EMULATED:
            _tile_instruction(builder, "tdpbf16ps", [c, a, b])
            return context.get_dummy_value()
        with cgutils.for_range(builder, ir.Constant(_I64, ROWS)) as loop:
            to = _tile_row(builder, state, c, loop.index, _FLOATS)
            total = builder.load(to, align=4)
            left = builder.load(_tile_row(builder, state, a, loop.index), align=4)
            for k in range(ROWS):
                pair = builder.extract_element(left, ir.Constant(_I32, k))
                row = _tile_row(builder, state, b, ir.Constant(_I64, k))
                right = builder.load(row, align=4)
                sides = (_low_and_high(builder, v) for v in (splat(builder, pair, 16), right))
                for x, y in zip(*sides, strict=True):
                    total = call(builder, "llvm.fma.v16f32", _FLOATS, [x, y, total])
            builder.store(total, to, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, c, a, b), emit
