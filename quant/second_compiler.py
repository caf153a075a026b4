"""A second process that compiles beside this one, because numba compiles one function at a time.

It takes the same entries from the other end and leaves them in the folder that both share. Nothing
depends on it: what it has not done by then, this process compiles itself.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entry import Entry

WORTH_IT = 4  # entries: fewer are compiled before another Python has started


def _is_possible() -> bool:
    """Whether there is a second core, and a Python to run on it: an app may name itself as one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    is_python = Path(sys.executable or "").stem.lower().startswith("python")
    return (cores or 1) > 1 and is_python and not getattr(sys, "frozen", False)


@contextmanager
def second_compiler(entries: "Sequence[Entry]") -> Iterator[None]:
    """Have these entries compiled elsewhere, the last first, until the block is left."""
    if len(entries) < WORTH_IT or not _is_possible():
        yield
        return
    names = [f"{e.module}:{e.function_name}" for e in reversed(entries)]
    code = f"from {__name__} import compile_named; compile_named({names!r})"
    silent: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    if sys.platform == "win32":
        silent["creationflags"] = subprocess.CREATE_NO_WINDOW
    # the same modules as here: -P, since -c would look in the working folder first
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        process = subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, **silent)
    except OSError:  # no more processes, or no such file
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def compile_named(names: Sequence[str]) -> None:
    """What the second process does: compile each "module:function" that is not there yet."""
    from .entry import Entry

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # leaves no half of a file behind
    for name in names:
        module, _, function = name.partition(":")
        entry = Entry(module, function)
        if not entry.is_cached(on_disk=True):
            _ = entry.address
