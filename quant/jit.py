"""The decorators of compiled code. Importing them imports numba; `entry.py` does not."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numba

from .entry import Entry
from .kernel_compiler import OPTIONS, KernelCompiler
from .simd.cpu import bounded, current_tier

__all__ = ["Entry", "entry", "inlined", "kernel"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

if bounded():
    _settings: Any = numba.config
    _settings.CPU_NAME = current_tier().cpu
    _settings.CPU_FEATURES = current_tier().features


class _Decorator(Protocol):
    """Leaves the type of a function as it is."""

    def __call__(self, function: _Function, /) -> _Function: ...


# A kernel is compiled into whoever calls it; only the entries, which Python calls by their address,
# are kept on disk.
_PART: Any = {
    **OPTIONS, "pipeline_class": KernelCompiler, "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # fmt: skip
kernel: _Decorator = numba.njit(**_PART)

# A kernel that becomes part of every caller's own loop: a call would pass vectors by memory.
inlined: _Decorator = numba.njit(forceinline=True, **_PART)


def entry(function: Callable[..., None]) -> Entry:
    """Make an entry of a function whose arguments are all int64 (sizes and addresses)."""
    return Entry(function.__module__, function.__name__, function)
