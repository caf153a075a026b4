"""Entries: compiled functions of int64 arguments, called by address by another entry, ctypes or C.

An entry is known by the name of its function. Its machine code is read from the cache folder if it
is there; only if it is not, the function's module is imported, and with it numba, and the entry
compiled and kept.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path

from . import cache_folder
from .cache_folder import CACHE_ENVIRONMENT
from .machine_code import MachineCode
from .second_compiler import second_compiler

_PACKAGE = __name__.partition(".")[0]


class Entry:
    """A compiled function, by name."""

    def __init__(
        self, module: str, function_name: str, function: Callable[..., None] | None = None
    ) -> None:
        """function: what is to be compiled; None: the entry that the module has by this name."""
        self.module = module
        self.function_name = function_name
        self._function = function

    @property
    def name(self) -> str:
        return f"{self.module.rpartition('.')[2]}.{self.function_name}"

    @property
    def function(self) -> Callable[..., None]:
        """In Python; the module is imported for it."""
        if self._function is not None:
            return self._function
        found: Entry = getattr(import_module(self.module), self.function_name)
        return found.function

    @property
    def path(self) -> Path | None:
        """Where its machine code is kept; None if it is not to be."""
        folder = cache_folder.CACHE_FOLDER
        # only of our own sources does the folder's name carry the hash
        ours = self.module.partition(".")[0] == _PACKAGE
        return folder / f"{self.name}.code" if folder is not None and ours else None

    def is_cached(self, *, on_disk: bool = False) -> bool:
        """Whether its machine code is at hand already, in memory or on disk."""
        if "address" in self.__dict__ and not on_disk:
            return True
        return self.path is not None and self.path.exists()

    @cached_property
    def _code(self) -> MachineCode:
        path = self.path
        if path is not None and (kept := MachineCode.read(path, self.name)):
            return kept
        code = self.compile()
        if path is not None:
            with suppress(OSError):  # the disk is full, or the folder was removed
                code.write(path)
                cache_folder.sweep(path.parent.parent)
        return code

    def compile(self) -> MachineCode:
        """Its machine code, made anew. Raises numba's errors."""
        function = self.function
        from .kernel_compiler import compile_entry

        return compile_entry(function, self.name)

    @cached_property
    def address(self) -> int:
        """Where its machine code is; compiled, or read from the cache, when first asked for."""
        return self._code.load()

    @cached_property
    def call(self) -> Callable[..., None]:
        """The entry as a Python callable that releases the GIL while it runs."""
        function: Callable[..., None] = self._code.as_function(self.address)
        return function


def compile_entries(entries: Iterable[Entry], progress: Callable[[str], None] | None) -> int:
    """Have entries compiled, or read from the cache; how many had to be compiled.

    progress is told, in words, of each that takes time, and once if none of it can be kept.
    """
    entries = dict.fromkeys(entries)  # formats share some
    missing = [entry for entry in entries if not entry.is_cached()]
    folder = cache_folder.CACHE_FOLDER
    if missing and progress is not None and folder is None:
        progress(
            f"kernels are compiled at every start, because {cache_folder.CACHE_REFUSAL}; set"
            f" {CACHE_ENVIRONMENT} to a folder of your own"
        )
    with second_compiler([entry for entry in missing if entry.path is not None]):
        for entry in entries:
            if progress is not None and entry in missing and not entry.is_cached():
                number = f"{missing.index(entry) + 1} of {len(missing)}"
                once = "" if folder is None else ", once"
                progress(f"compiling for this CPU{once}: {entry.name} ({number})")
            _ = entry.address
    return len(missing)
