"""How numba compiles kernels: as parts of the entries that call them, and nothing else.

By default numba makes every function callable by itself: with wrappers for Python, optimized and
turned into machine code with all that it calls, and again in each of its callers. Kernels are only
called by other compiled code, so here they stay LLVM modules until an entry links them.

This reaches into numba (whose version is pinned for the kernels' sake anyway): a code library that
never becomes machine code, and a lowering pass that uses it.
"""

from typing import Any

from llvmlite.binding import Linkage
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Part(JITCodeLibrary):
    """Code to be linked into other libraries."""

    def _optimize_final_module(self) -> None:
        """Left to the entry: functions have been optimized one by one."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Whole(JITCodeLibrary):
    """An entry with all that it calls."""

    def _optimize_final_module(self) -> None:
        """Twice: what the first round inlines, the second finds simpler."""
        self._hide_kernels()
        super()._optimize_final_module()
        super()._optimize_final_module()

    def _hide_kernels(self) -> None:
        """Keep the names of what was linked to this entry.

        numba numbers the functions of a process, so the kernels of two entries that were compiled
        in two processes may have one name; loaded side by side, one would be called for the other.
        """
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.internal


@register_pass(mutates_CFG=True, analysis_only=False)
class _EntryLowering(NativeLowering):
    _name = "entry_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Whole(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeLowering):
    _name = "kernel_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_compile = True
        super().run_pass(state)
        kernel: Any = [].append  # a builtin function of its own, which numba wants; never called
        state.targetctx.insert_user_function(kernel, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=kernel)
        return True


class KernelCompiler(CompilerBase):
    """The usual passes, and the lowering of kernels."""

    lowering: Any = _KernelLowering

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (self.lowering if each is NativeLowering else each, text)
            for each, text in passes.passes
        ]
        passes.finalize()
        return [passes]


class EntryCompiler(KernelCompiler):
    """The usual passes, and the lowering of entries."""

    lowering = _EntryLowering
