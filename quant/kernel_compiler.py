"""How numba compiles kernels: as parts of the entries that call them, and nothing else.

By default numba makes every function callable by itself: with wrappers for Python, optimized and
turned into machine code with all that it calls, and again in each of its callers. Kernels are only
called by other compiled code, so here they stay LLVM modules until an entry links them; and an
entry becomes an object file with one C function, which needs neither numba nor Python.

This reaches into numba (whose version is pinned for the kernels' sake anyway): code libraries that
are not loaded, and a lowering pass that uses them.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import Linkage
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.registry import cpu_target
from numba.core.typed_passes import NativeLowering

from .machine_code import MachineCode
from .system import NAMES

# No fastmath: sums keep the order in which they are written, so that results do not depend on how a
# batch is cut, on the number of threads, or on what the compiler finds convenient.
OPTIONS: Any = {"nogil": True, "error_model": "numpy"}


class _Part(JITCodeLibrary):
    """Code to be linked into other libraries."""

    def _optimize_final_module(self) -> None:
        """Left to the entry: functions have been optimized one by one."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class EntryLibrary(JITCodeLibrary):
    """An entry with all that it calls; it shows the library's name and no other."""

    def _optimize_final_module(self) -> None:
        """Twice: what the first round inlines, the second finds simpler."""
        for function in self._final_module.functions:
            if not function.is_declaration and function.name != self.name:
                function.linkage = Linkage.internal
        for variable in self._final_module.global_variables:
            if variable.linkage == Linkage.common:  # for Python, which is not there: falls away
                variable.linkage = Linkage.internal
        super()._optimize_final_module()
        super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._finalized = True
        for function in self._final_module.functions:
            known = function.name in NAMES or function.name.startswith("llvm.")
            if function.is_declaration and not known:
                raise ValueError(f"{self.name} calls {function.name}: add it to system.py")

    def object_file(self) -> bytes:
        return bytes(self._codegen._tm.emit_object(self._final_module))


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

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (_KernelLowering if each is NativeLowering else each, text)
            for each, text in passes.passes
        ]
        passes.finalize()
        return [passes]


def compile_entry(function: Callable[..., None], name: str) -> MachineCode:
    """The machine code of a function whose arguments are all int64."""
    n_arguments = function.__code__.co_argcount
    return MachineCode(name, n_arguments, link_entry(function, name).object_file())


@global_compiler_lock
def link_entry(function: Callable[..., None], name: str) -> EntryLibrary:
    """An entry with all that it calls, optimized, as LLVM knows it."""
    flags: Any = Flags()
    context = cpu_target.target_context
    cpu_target.options.parse_as_flags(flags, OPTIONS)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    library = EntryLibrary(context.codegen(), name)
    compiled = compile_extra(
        cpu_target.typing_context,
        context,
        function,
        args=(types.int64,) * function.__code__.co_argcount,
        return_type=types.none,
        flags=flags,
        locals={},
        library=library,
    )
    library.add_ir_module(_c_function(context, compiled.fndesc, name))
    library.finalize()
    return library


def _c_function(context: Any, compiled: Any, name: str) -> Any:
    """void name(int64_t, ...): calls what numba compiled, and knows of no exceptions."""
    module = context.create_module(name)
    convention = context.call_conv
    callee = ir.Function(
        module,
        convention.get_function_type(compiled.restype, compiled.argtypes),
        compiled.llvm_func_name,
    )
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(compiled.argtypes))
    function = ir.Function(module, kind, name)
    builder = ir.IRBuilder(function.append_basic_block())
    convention.call_function(builder, callee, compiled.restype, compiled.argtypes, function.args)
    builder.ret_void()
    return module
