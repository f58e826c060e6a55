"""How Numba compiles generated functions and the functions that they call: few passes, and one optimisation as a whole.

It replaces parts of Numba that are not documented; `tests/compile/native/test_versions.py` lists them.
"""

# mypy: ignore-errors
# Numba has no types.

import functools

import llvmlite.binding as llvm
from numba.core import compiler
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import NativeLowering, NoPythonBackend, NopythonTypeInference, PreLowerStripPhis
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

from labnet.kernels.machine_code.processor import chosen, registers


class _Passes(PassManager):
    """Runs passes one after the other, without the bookkeeping between them that Numba's own pipelines need.

    The functions have no closures, generators, exceptions or reference counts, so no variable is ever deleted.
    """

    def run(self, state):
        """Run the passes."""
        for kind, _ in self.passes:
            kind().run_pass(state)


class _Pipeline(compiler.CompilerBase):
    """A list of passes."""

    kinds = ()

    def define_pipelines(self):
        passes = _Passes("labnet")
        for kind in self.kinds:
            passes.add_pass(kind, kind.__name__)
        passes.finalize()
        return [passes]


class GeneratedPipeline(_Pipeline):
    """Compiles generated functions, each name of which has one type."""

    kinds = (TranslateByteCode, FixupArgs, NopythonTypeInference, NativeLowering, NoPythonBackend)


class CalleePipeline(_Pipeline):
    """Compiles hand-written functions, in which a name may change its type."""

    kinds = (
        *(TranslateByteCode, FixupArgs, IRProcessing, ReconstructSSA, NopythonTypeInference, PreLowerStripPhis),
        *(NativeLowering, NoPythonBackend),
    )


class Library(JITCodeLibrary):
    """A module that is optimised as a whole, and not added to Numba's own engine, which never frees modules."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        """Bring loops into the form that the vectorizer understands, then run everything once.

        Loops are not unrolled before: the vectorizer takes the short ones whole, and would reach for elements that
        lie apart to take the loops around them.
        """
        early = llvm.create_pass_builder(machine(), llvm.create_pipeline_tuning_options(speed_level=0))
        passes = early.getModulePassManager()
        passes.add_loop_rotate_pass()
        passes.add_instruction_combine_pass()
        passes.add_jump_threading_pass()
        passes.run(self._final_module, early)
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization, options.loop_unrolling = True, False
        full = llvm.create_pass_builder(machine(), options)
        full.getModulePassManager().run(self._final_module, full)

    def _finalize_final_module(self):
        self._finalized = True

    def export(self, name, symbol):
        """Give a function the name of a symbol, and hide all others: other modules may have their own of that name."""
        module = self._final_module
        for library in self._linking_libraries:
            module.link_in(library._get_module_for_linking(), preserve=True)
        self._linking_libraries.clear()
        for one in (*module.functions, *module.global_variables):
            if not one.is_declaration and one.name != name:
                one.linkage = "internal"
        module.get_function(name).name = symbol

    def file(self):
        """Return the object file of the optimised module."""
        return machine().emit_object(self._final_module)


class CalleeLibrary(Library):
    """A module of a function that others call: it is optimised with them."""

    def _optimize_final_module(self):
        pass


class EntryLibrary(CalleeLibrary):
    """A module of an entry: a list of calls, in which there is nothing to optimise."""

    def file(self):
        """Return the object file of the module."""
        return machine(level=1).emit_object(self._final_module)


@functools.cache
def machine(level=3):
    """Return LLVM's target: the processor of this machine, or the one that `NUMBA_CPU_NAME` names.

    `level` is that of the selection of instructions.

    Where it has vectors of 64 bytes, those of 32 are preferred: the elements of small arrays are read sooner after they
    were written in vectors of the same length, and long loops are as quick.
    """
    name, features = chosen()
    if registers()[1] == 16:
        features = ",".join(filter(None, (features, "+prefer-256-bit")))
    target = llvm.Target.from_triple(llvm.get_process_triple())
    options = {"cpu": name, "features": features, "opt": level, "codemodel": "jitdefault", "jit": True}
    return target.create_target_machine(**options)
