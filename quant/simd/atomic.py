"""What threads share inside one call: counters, barriers, waiting.

A barrier is one fetch-add and a wait. A wait spins for a bounded time and then sleeps in the
shortest pieces the system has: quick on a quiet machine, and on a busy one a thread that waits uses
nothing of its share of the processor. That matters more than it seems: a scheduler soon runs again
what has used less than its share, so threads that sleep while one of them is held up go on
together with it; threads that burn their share meanwhile hold each other up in turn. Yielding is
no middle way: it gives a whole time slice away, and the thread that yielded counts as having used
it.
"""

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from ..jit import kernel
from .vector import intrinsic

# Pauses of 50 to 80 ns: longer than the ends of a phase lie apart on a quiet machine, which is the
# time of one chunk of rows. Half of it costs 5 % of decoding there.
SPINS = 1000


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
    """The int64 there, with all that was written before it; in one order with all exchanges."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), emit


@intrinsic
def exchange(typingctx: Any, address: Any, value: Any) -> Any:
    """Store an int64 there; what it was before."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", _pointer(builder, args[0]), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this is a waiting loop; 50 to 80 ns on most."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        triple = binding.get_process_triple()
        if triple.startswith(("x86_64", "i686")):
            name, values = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            # `yield` does nothing on most cores; an instruction barrier takes 10 to 20 ns
            name, values = "llvm.aarch64.isb", [ir.Constant(ir.IntType(32), 15)]
        else:
            return context.get_dummy_value()
        kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        for _ in range(4 if "aarch64" in name else 1):
            builder.call(function, values)
        return context.get_dummy_value()

    return types.void(), emit


_I32, _ADDRESS = ir.IntType(32), ir.IntType(8).as_pointer()


def _call(builder: Any, name: str, result: Any, values: list[Any]) -> None:
    """Call a function of system.py."""
    kind = ir.FunctionType(result, [v.type for v in values])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


@intrinsic
def nap(typingctx: Any) -> Any:
    """Sleep for as short a time as the system can: some 70 us on Linux."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _call(builder, "edgellama_nap", _I32, [ir.Constant(_I32, 1)])  # microseconds
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def pass_gate(typingctx: Any, gate: Any) -> Any:
    """Wait until the gate is open; it closes behind the one thread that passes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _ADDRESS)
        _call(builder, "edgellama_acquire", _I32, [pointer, ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def open_gate(typingctx: Any, gate: Any) -> Any:
    """Let one thread pass a gate, which must be closed."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _ADDRESS)
        _call(builder, "edgellama_release", ir.VoidType(), [pointer])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@kernel
def spin_until(address: int, least: int, spins: int) -> bool:
    """Whether the shared int64 there reached `least` within so many pauses."""
    for _ in range(spins):
        if load_shared(address) >= least:
            return True
        pause()
    reached: bool = load_shared(address) >= least
    return reached


@kernel
def wait_until(address: int, least: int) -> None:
    """Return when the shared int64 there has reached `least`."""
    if not spin_until(address, least, SPINS):
        while load_shared(address) < least:
            nap()


@kernel
def barrier(address: int, nth: int) -> None:
    """Return when all `nth` threads have come; the int64 there counts arrivals and starts at 0."""
    arrived = fetch_add(address, 1)
    wait_until(address, (arrived // nth + 1) * nth)
