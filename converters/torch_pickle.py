"""The pickles inside torch files, read by an interpreter that describes tensors and no more.

A pickle is a program for a small stack machine, and Python's own `pickle` lets that program import
and call anything. This one knows the opcodes of protocol 2 that torch.save writes, and for each
global that may be named a description of its own: nothing is imported, called or looked up.
Whatever else the program wants is refused by name. Opcodes: Lib/pickletools.py of CPython; the
arguments of the globals: torch/_utils.py and torch/serialization.py.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from edgellama.errors import CheckpointRefused

from .checkpoint import DTYPES, MAX_DIMS, MAX_ELEMENTS, quoted

# Llama 405B is written with 40,000 opcodes. The limit bounds time (under a second) and memory: an
# opcode makes at most one object of about 100 bytes.
MAX_OPCODES = 250_000
_MAX_NAME_BYTES = 256
_MAX_INT_BYTES = 16


@dataclass(frozen=True, slots=True)
class ElementType:
    """What a storage holds: elements of one dtype, or mere bytes (None)."""

    dtype: str | None

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes that tensors are views of; `key` says where the file keeps it."""

    key: str
    type: ElementType
    n_elements: int

    @property
    def n_bytes(self) -> int:
        return self.n_elements * self.type.itemsize


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor as a view of a storage, checked to lie inside it; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickleReader:
    """Reads the pickles that follow one another in `data`.

    Values are None, bool, int, float, str, tuple, list, dict (an OrderedDict too) and TensorView;
    `storages` gathers by key every storage that was named.

    Raises:
        CheckpointRefused: whatever is not a description of plain tensors.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source
        self.position = 0
        self.n_opcodes = 0
        self.storages: dict[str, Storage] = {}
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def read(self) -> object:
        """The value of the next pickle; `position` moves behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        while True:
            self.n_opcodes += 1
            if self.n_opcodes > MAX_OPCODES:
                self.refuse(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            opcode = self._byte()
            if opcode == _STOP:
                return self._pop()
            action = _ACTIONS.get(opcode)
            if action is None:
                self._refuse_opcode(opcode)
            action(self)

    def refuse(self, reason: str) -> NoReturn:
        raise CheckpointRefused(f"{self.source}: {reason}")

    def _refuse_opcode(self, opcode: int) -> NoReturn:
        name = _REFUSED_OPCODES.get(opcode, "unknown")
        self.refuse(
            f"pickle opcode 0x{opcode:02x} ({name}) at byte {self.position - 1:,} is none "
            "that torch.save writes for tensors"
        )

    # The machine: bytes in, values on the stack. A mark fences off the values below it.

    def _take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self.data):
            self.refuse(f"its pickle ends in the middle of an opcode at byte {self.position:,}")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, layout: str) -> int:
        (number,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        assert isinstance(number, int)
        return number

    def _float(self) -> float:
        (number,) = struct.unpack(">d", self._take(8))
        assert isinstance(number, float)
        return number

    def _line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _MAX_NAME_BYTES)
        if end < 0:
            self.refuse(f"a name in its pickle at byte {self.position:,} does not end")
        return self._take(end + 1 - self.position)[:-1].decode("latin-1")

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse(f"its pickle takes from an empty stack before byte {self.position:,}")
        return self.stack.pop()

    def _pop_mark(self) -> list[object]:
        if not self.marks:
            self.refuse(f"its pickle takes a mark never set before byte {self.position:,}")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    # Opcodes that need more than a line.

    def _protocol(self) -> None:
        protocol = self._byte()
        if protocol != 2:
            self.refuse(f"pickle protocol {protocol} where torch.save writes 2")

    def _text(self) -> None:
        n_bytes = self._number("<I")
        try:
            self._push(self._take(n_bytes).decode("utf-8"))
        except UnicodeDecodeError:
            self.refuse(f"text in its pickle before byte {self.position:,} is not UTF-8")

    def _long(self) -> None:
        n_bytes = self._byte()
        if n_bytes > _MAX_INT_BYTES:
            self.refuse(f"an integer of {n_bytes} bytes in its pickle")
        self._push(int.from_bytes(self._take(n_bytes), "little", signed=True))

    def _tuple(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self._push(tuple(values[::-1]))

    def _put(self, index: int) -> None:
        value = self._pop()
        self._push(value)
        self.memo[index] = value

    def _get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"its pickle asks for memo {index:,}, which was never kept")
        self._push(self.memo[index])

    def _append(self, values: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            self.refuse("its pickle appends to what is not a list")
        target.extend(values)
        self._push(target)

    def _set_items(self, values: list[object]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(values) % 2:
            self.refuse("its pickle sets items of what is not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # No other key: hashing tuples within tuples can be made to take for ever.
            if not isinstance(key, str | int):
                self.refuse(f"its pickle has a dictionary key of type {type(key).__name__}")
            if key in target:
                self.refuse(f"its pickle has {quoted(str(key))} twice in one dictionary")
            target[key] = value
        self._push(target)

    def _global(self) -> None:
        module, name = self._line(), self._line()
        known = _GLOBALS.get(f"{module}.{name}")
        if known is None:
            self.refuse(
                f"wants to import {quoted(f'{module}.{name}')[1:-1]}, which a checkpoint of plain "
                "tensors does not need"
            )
        self._push(known)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Builder) or not isinstance(arguments, tuple):
            self.refuse(f"its pickle makes a call that is none before byte {self.position:,}")
        self._push(function.build(self, arguments))

    def _build(self) -> None:
        # The state of an OrderedDict is its `_metadata`: versions of modules, no tensors.
        state, target = self._pop(), self._pop()
        if not isinstance(state, dict) or not isinstance(target, dict):
            self.refuse(f"its pickle sets the state of a {type(target).__name__}")
        self._push(target)

    def _persistent(self) -> None:
        """("storage", type, key, device, n_elements[, view]) -> Storage."""
        match self._pop():
            case ("storage", ElementType() as kind, str(key), str(), n, *view) if _is_size(n):
                if view not in ([], [None]):
                    self.refuse(f"storage {quoted(key)} is a view of another one (torch below 0.4)")
                storage = Storage(key, kind, n)
                if self.storages.setdefault(key, storage) != storage:
                    self.refuse(f"storage {quoted(key)} is described in two ways")
                self._push(storage)
            case _:
                self.refuse("a persistent id in its pickle does not describe a storage")

    # What the allowed globals build.

    def _ordered_dict(self, arguments: tuple[object, ...]) -> object:
        if arguments:
            self.refuse("its pickle makes an OrderedDict from arguments")
        return {}

    def _tensor(self, arguments: tuple[object, ...]) -> TensorView:
        """(storage, offset, shape, strides, requires_grad, hooks[, metadata])"""
        match arguments:
            case (Storage() as storage, offset, tuple(shape), tuple(strides), _, _, *metadata):
                if storage.type.dtype is None:
                    self.refuse(f"a tensor of untyped storage {quoted(storage.key)} has no dtype")
                return self._view(storage, storage.type.dtype, offset, shape, strides, metadata)
        self.refuse("the arguments of _rebuild_tensor_v2 in its pickle do not describe a tensor")

    def _tensor_with_dtype(self, arguments: tuple[object, ...]) -> TensorView:
        """(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])"""
        match arguments:
            case (
                Storage() as storage,
                offset,
                tuple(shape),
                tuple(strides),
                _,
                _,
                ElementType(dtype=str(dtype)),
                *metadata,
            ):
                return self._view(storage, dtype, offset, shape, strides, metadata)
        self.refuse("the arguments of _rebuild_tensor_v3 in its pickle do not describe a tensor")

    def _view(
        self,
        storage: Storage,
        dtype: str,
        offset: object,
        shape: tuple[object, ...],
        strides: tuple[object, ...],
        metadata: list[object],
    ) -> TensorView:
        where = f"a tensor of storage {quoted(storage.key)}"
        if metadata not in ([], [None], [{}]):
            self.refuse(f"{where} is marked conjugate, negative or otherwise special")
        sizes = [n for n in shape if _is_size(n)]
        steps = [n for n in strides if _is_size(n)]
        if not _is_size(offset) or len(sizes) < len(shape) or len(steps) < len(strides):
            self.refuse(f"{where} has a size, stride or offset that is negative or no integer")
        if len(sizes) != len(steps) or len(sizes) > MAX_DIMS:
            self.refuse(f"{where} has {len(sizes)} sizes and {len(steps)} strides")
        if math.prod(max(n, 1) for n in sizes) > MAX_ELEMENTS:
            self.refuse(f"{where} has the impossible shape {sizes}")
        capacity = storage.n_bytes // DTYPES[dtype].itemsize
        n_elements = math.prod(sizes)
        end = offset + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True)) + 1
        # More elements than the storage has would be one element seen many times.
        if n_elements and (end > capacity or n_elements > capacity):
            self.refuse(
                f"{where} has shape {sizes}, strides {steps} and offset {offset:,}, which reaches "
                f"beyond its {capacity:,} elements"
            )
        return TensorView(storage, dtype, offset, tuple(sizes), tuple(steps))

    def _parameter(self, arguments: tuple[object, ...]) -> TensorView:
        """(tensor, requires_grad, hooks[, state])"""
        match arguments:
            case (TensorView() as tensor, _, _) | (TensorView() as tensor, _, _, _):
                return tensor
        self.refuse("the arguments of _rebuild_parameter in its pickle do not describe a tensor")

    def _tensor_with_attributes(self, arguments: tuple[object, ...]) -> TensorView:
        """(rebuild, type, arguments of rebuild, attributes)"""
        match arguments:
            case (_Builder() as rebuild, _TensorType(), tuple(inner), _) if rebuild is _TENSOR_V2:
                return self._tensor(inner)
        self.refuse("the arguments of _rebuild_from_type_v2 in its pickle describe no tensor")


@dataclass(frozen=True, slots=True)
class _Builder:
    """A global that may be called, and what we do in its stead."""

    build: Callable[[PickleReader, tuple[object, ...]], object]


class _TensorType:
    """torch.Tensor or Parameter, named as a type."""


_TENSOR_V2 = _Builder(PickleReader._tensor)

_GLOBALS: dict[str, object] = {
    "collections.OrderedDict": _Builder(PickleReader._ordered_dict),
    "torch._utils._rebuild_tensor_v2": _TENSOR_V2,
    "torch._utils._rebuild_tensor_v3": _Builder(PickleReader._tensor_with_dtype),
    "torch._utils._rebuild_parameter": _Builder(PickleReader._parameter),
    "torch._utils._rebuild_parameter_with_state": _Builder(PickleReader._parameter),
    "torch._tensor._rebuild_from_type_v2": _Builder(PickleReader._tensor_with_attributes),
    "torch.Tensor": _TensorType(),
    "torch.nn.parameter.Parameter": _TensorType(),
    "torch.DoubleStorage": ElementType("F64"),
    "torch.FloatStorage": ElementType("F32"),
    "torch.HalfStorage": ElementType("F16"),
    "torch.BFloat16Storage": ElementType("BF16"),
    "torch.LongStorage": ElementType("I64"),
    "torch.IntStorage": ElementType("I32"),
    "torch.ShortStorage": ElementType("I16"),
    "torch.CharStorage": ElementType("I8"),
    "torch.ByteStorage": ElementType("U8"),
    "torch.BoolStorage": ElementType("BOOL"),
    "torch.storage.UntypedStorage": ElementType(None),
    "torch.float64": ElementType("F64"),
    "torch.float32": ElementType("F32"),
    "torch.float16": ElementType("F16"),
    "torch.bfloat16": ElementType("BF16"),
    "torch.float8_e4m3fn": ElementType("F8_E4M3"),
    "torch.int64": ElementType("I64"),
    "torch.int32": ElementType("I32"),
    "torch.int16": ElementType("I16"),
    "torch.int8": ElementType("I8"),
    "torch.uint8": ElementType("U8"),
    "torch.bool": ElementType("BOOL"),
}

_STOP = ord(".")
_ACTIONS: dict[int, Callable[[PickleReader], None]] = {
    0x80: PickleReader._protocol,
    ord("("): PickleReader._mark,
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._byte()),
    ord("M"): lambda m: m._push(m._number("<H")),
    0x8A: PickleReader._long,
    ord("G"): lambda m: m._push(m._float()),
    ord("X"): PickleReader._text,
    ord(")"): lambda m: m._push(()),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    ord("]"): lambda m: m._push([]),
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_mark()),
    ord("}"): lambda m: m._push({}),
    ord("s"): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("q"): lambda m: m._put(m._byte()),
    ord("r"): lambda m: m._put(m._number("<I")),
    ord("h"): lambda m: m._get(m._byte()),
    ord("j"): lambda m: m._get(m._number("<I")),
    ord("c"): PickleReader._global,
    ord("R"): PickleReader._reduce,
    ord("b"): PickleReader._build,
    ord("Q"): PickleReader._persistent,
}

# Names for the message only; an opcode in neither table is "unknown".
_REFUSED_OPCODES = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("P"): "PERSID",
    ord("2"): "DUP",
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("S"): "STRING",
    ord("T"): "BINSTRING",
    ord("U"): "SHORT_BINSTRING",
    ord("B"): "BINBYTES",
    ord("C"): "SHORT_BINBYTES",
    0x81: "NEWOBJ",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x8B: "LONG4",
    0x8C: "SHORT_BINUNICODE",
    0x8D: "BINUNICODE8",
    0x8E: "BINBYTES8",
    0x8F: "EMPTY_SET",
    0x90: "ADDITEMS",
    0x91: "FROZENSET",
    0x92: "NEWOBJ_EX",
    0x93: "STACK_GLOBAL",
    0x94: "MEMOIZE",
    0x95: "FRAME",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


def _is_size(value: object) -> TypeGuard[int]:
    """An integer that is not negative; True and False are none."""
    return type(value) is int and value >= 0
