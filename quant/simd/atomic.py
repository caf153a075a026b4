"""What threads share inside one call: counters, barriers, waiting.

A barrier is one fetch-add and a wait. The wait spins for a bounded time and then gives the
processor away, so that it is quick on a quiet machine and fair on a busy one.
"""

import ctypes
import sys
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from ..jit import kernel
from .vector import intrinsic

SPINS = 4000  # about 50 us: longer than any phase differs between threads on a quiet machine
_YIELD = "edgellama_yield"


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 there; what it was before."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def load_shared(typingctx: Any, address: Any) -> Any:
    """The int64 there, with all that was written before it."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), emit


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        triple = binding.get_process_triple()
        if triple.startswith(("x86_64", "i686")):
            name, values = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            name, values = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]
        else:
            return context.get_dummy_value()
        kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
        return context.get_dummy_value()

    return types.void(), emit


def _yield_address() -> int:
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


binding.add_symbol(_YIELD, _yield_address())


@intrinsic
def yield_processor(typingctx: Any) -> Any:
    """Let another thread of the machine run."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, _YIELD), [])
        return context.get_dummy_value()

    return types.void(), emit


@kernel
def wait_until(address: int, least: int) -> None:
    """Return when the shared int64 there has reached `least`."""
    spins = 0
    while load_shared(address) < least:
        pause()
        spins += 1
        if spins >= SPINS:
            yield_processor()


@kernel
def barrier(address: int, nth: int) -> None:
    """Return when all `nth` threads have come; the int64 there counts arrivals and starts at 0."""
    arrived = fetch_add(address, 1)
    wait_until(address, (arrived // nth + 1) * nth)
