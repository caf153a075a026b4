"""The machine code of an entry: made once by numba, kept in a file, loaded by llvmlite alone.

It is an object file as LLVM emits it (ELF, Mach-O or COFF) with one symbol, the name of the entry.
A file of the cache folder holds

    sha256 of the rest            32 bytes
    name, n_arguments             a line of JSON
    the object file
"""

import ctypes
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import binding

from .system import ADDRESSES

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class MachineCode:
    name: str
    n_arguments: int  # each an int64
    object_file: bytes

    @classmethod
    def read(cls, path: Path, name: str) -> "MachineCode | None":
        """What `write` wrote for the entry of this name; None if it is not there or damaged."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        rest = data[_DIGEST_BYTES:]
        if hashlib.sha256(rest).digest() != data[:_DIGEST_BYTES]:
            return None
        line, _, object_file = rest.partition(b"\n")
        facts = json.loads(line)
        if facts["name"] != name:
            return None
        return cls(name, facts["n_arguments"], object_file)

    def write(self, path: Path) -> None:
        """Make the file, whole or not at all. Raises OSError."""
        facts = {"name": self.name, "n_arguments": self.n_arguments}
        rest = json.dumps(facts).encode() + b"\n" + self.object_file
        descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(rest).digest() + rest)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def load(self) -> int:
        """Its address. It stays in memory to the end: threads may run it to the end."""
        machine = _target().create_target_machine(codemodel="jitdefault", jit=True)
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        engine.add_object_file(binding.ObjectFileRef.from_data(self.object_file))
        engine.finalize_object()
        address = int(engine.get_function_address(self.name))
        engine.detach()
        return address

    def as_function(self, address: int) -> Any:
        """As a Python callable that releases the GIL while it runs."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.n_arguments)(address)


@cache
def _target() -> Any:
    """What LLVM makes code for here, which is told what code may need of the system."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name, address in ADDRESSES.items():
        binding.add_symbol(name, address)
    return binding.Target.from_triple(binding.get_process_triple())
