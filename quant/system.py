"""What compiled code calls that is not its own, beside `memcpy` and `memset`.

Threads park at gates. Python's own locks are the gates: they park a thread on every system and ask
for no interpreter lock.
"""

import ctypes
import sys
from typing import Any

_WINDOWS = sys.platform == "win32"


def _system_function(posix: str, windows: str) -> Any:
    if sys.platform == "win32":
        return getattr(ctypes.WinDLL("kernel32"), windows)
    return getattr(ctypes.CDLL(None), posix)


def _c_function(name: str) -> Any:
    """None where Python was linked without it: LLVM then looks for it everywhere."""
    return getattr(ctypes.CDLL("ucrtbase" if _WINDOWS else None), name, None)


# By the names that compiled code calls them by. The shortest sleep of Windows may take 15 ms, so
# there a nap gives the processor away; it ignores an argument too many.
_FUNCTIONS = {
    "edgellama_nap": _system_function("usleep", "SwitchToThread"),
    "edgellama_acquire": ctypes.pythonapi.PyThread_acquire_lock,
    "edgellama_release": ctypes.pythonapi.PyThread_release_lock,
    "sqrtf": _c_function("sqrtf"),
    "floorf": _c_function("floorf"),
    # what LLVM calls where no instruction rounds (tier generic); few systems have it by this name
    "roundevenf": _c_function("rintf"),
}
NAMES = frozenset(_FUNCTIONS)
ADDRESSES = {
    name: ctypes.cast(function, ctypes.c_void_p).value or 0
    for name, function in _FUNCTIONS.items()
    if function is not None
}


def new_gate() -> int:
    """Address of a closed gate; raises MemoryError."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    gate: int | None = allocate()
    if gate is None:
        raise MemoryError
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(gate), 0)
    return gate


def free_gate(gate: int) -> None:
    """Give back a gate at which nobody waits."""
    ctypes.pythonapi.PyThread_free_lock(ctypes.c_void_p(gate))
