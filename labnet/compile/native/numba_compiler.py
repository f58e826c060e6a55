"""Compilation of generated source to machine code: Numba infers the types, LLVM compiles.

This module and the intrinsics import Numba, and are imported only where there is something to compile. It replaces
parts of Numba that are not documented; `tests/compile/native/test_versions.py` lists them.
"""

# mypy: ignore-errors
# Numba has no types.

import functools
import linecache
import struct

import llvmlite.binding as llvm
from numba import float64, int64, types, uint8, uint16
from numba.core import compiler, cpu, typed_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.registry import cpu_target
from numba.core.typed_passes import (
    AnnotateTypes,
    InlineOverloads,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

from labnet.compile.native.entry import Entry, write_kernel_entry
from labnet.kernels.machine_code.loader import ENTRY, MachineCode
from labnet.kernels.machine_code.processor import chosen, registers

#: Type of a section with symbols.
_SYMBOLS = 2
#: Types of numbers in memory for which processors have no arithmetic.
_IN_MEMORY = {"bool": uint8, "float16": uint16}
_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "nopython": True}


@register_pass(mutates_CFG=True, analysis_only=False)
class _Inlining(InlineOverloads):
    """Numba's inlining, without the removal of writes.

    Numba removes writes to arrays without later reads. It cannot see that a later part of a step reads what an earlier
    part writes into the arena; `test_a_part_leaves_in_memory_what_a_later_part_reads` guards this.
    """

    _name = "labnet_inlining"

    def run_pass(self, state):
        """Inline while nothing is removed; `translate` holds the lock of the compiler."""
        before, typed_passes.dead_code_elimination = typed_passes.dead_code_elimination, lambda *_, **__: None
        try:
            return super().run_pass(state)
        finally:
            typed_passes.dead_code_elimination = before


class _Pipeline(compiler.CompilerBase):
    """Numba's passes that generated code needs: it has no closures, no array expressions and nothing to rewrite."""

    def define_pipelines(self):
        passes = PassManager("labnet")
        for kind in (TranslateByteCode, FixupArgs, IRProcessing, ReconstructSSA):
            passes.add_pass(kind, kind.__name__)
        for kind in (NopythonTypeInference, PreLowerStripPhis, _Inlining, IRLegalization, AnnotateTypes):
            passes.add_pass(kind, kind.__name__)
        for kind in (NativeLowering, NoPythonBackend):
            passes.add_pass(kind, kind.__name__)
        passes.finalize()
        return [passes]


class _Library(JITCodeLibrary):
    """A module that is optimised as a whole, and not added to Numba's own engine, which never frees any."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        """Bring loops into the form that the vectorizer understands, then run everything once.

        Loops are not unrolled before: the vectorizer takes the short ones whole, and would reach for elements that
        lie apart to take the loops around them.
        """
        early = llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options(speed_level=0))
        passes = early.getModulePassManager()
        passes.add_loop_rotate_pass()
        passes.add_instruction_combine_pass()
        passes.add_jump_threading_pass()
        passes.run(self._final_module, early)
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization, options.loop_unrolling = True, False
        full = llvm.create_pass_builder(_machine(), options)
        full.getModulePassManager().run(self._final_module, full)

    def _finalize_final_module(self):
        self._finalized = True

    def file(self):
        """Return the object file of the optimised module."""
        return _machine().emit_object(self._final_module)


@functools.cache
def _machine():
    """Return LLVM's target: the processor of this machine, or the one that `NUMBA_CPU_NAME` names.

    Where it has vectors of 64 bytes, those of 32 are preferred: the elements of small arrays are read sooner after they
    were written in vectors of the same length, and long loops are as quick.
    """
    name, features = chosen()
    if registers()[1] == 16:
        features = ",".join(filter(None, (features, "+prefer-256-bit")))
    target = llvm.Target.from_triple(llvm.get_process_triple())
    options = {"cpu": name, "features": features, "opt": 3, "codemodel": "jitdefault", "jit": True}
    return target.create_target_machine(**options)


@global_compiler_lock
def translate(source: str, name: str, *, report=lambda done, total: None) -> MachineCode:
    """Return the machine code of a source: of a ``kernel``, or of a ``step`` and the parts that follow it.

    `report` is called with the number of parts that are compiled and that of all parts; the last one is LLVM's work.
    """
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = {}
    exec(compile(source, name, "exec"), scope)
    library = _Library(cpu_target.target_context.codegen(), name)
    if "kernel" in scope:
        library.add_ir_module(_kernel(library, *scope["kernel"]))
    else:
        _add_step(library, scope, report)
    library.finalize()
    file = library.file()
    return MachineCode(file, _symbols(library._final_module, file))


def _kernel(library, function, signature):
    """Compile a kernel; return a module with the function that CPython calls."""
    flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**function.targetoptions, **_FLAGS})
    flags.no_compile = True
    compiled = _compiled(library, function.py_func, signature.args, flags, compiler.Compiler)
    module = library.create_ir_module(ENTRY)
    kinds = [compiled.target_context.get_value_type(kind) for kind in compiled.fndesc.argtypes]
    write_kernel_entry(module, kinds, _call_of(module, compiled))
    return module


def _compiled(library, function, args, flags, pipeline):
    """Have Numba compile a function, typed by its arguments, into a library."""
    return compiler.compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        function,
        args=args,
        return_type=int64,
        flags=flags,
        locals={},
        library=library,
        pipeline_class=pipeline,
    )


def _call_of(module, compiled):
    """Return the emitter of the call of a compiled function, whose result is its status."""
    context, described = compiled.target_context, compiled.fndesc
    native = context.declare_function(module, described)

    def call(builder, values):
        return context.call_conv.call_function(builder, native, described.restype, described.argtypes, values)[1]

    return call


def _add_step(library, scope, report):
    """Compile a step with its parts and its entry."""
    function, layout, options = scope["step"]
    flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**options, **_FLAGS})
    flags.noalias = True  # the arena, what is held, and what a call brings lie apart
    flags.no_compile = True  # so that it is optimised in one go with its entry
    functions = [function]
    while following := scope.get(f"step{len(functions)}"):
        functions.append(following)
    compiled = []
    for function in functions:
        report(len(compiled), len(functions) + 1)
        compiled.append(_compiled(library, function, _typed(layout), flags, _Pipeline))
    report(len(functions), len(functions) + 1)
    library.add_ir_module(_entry(library, compiled, layout))


def _typed(layout):
    """Return the types of the arguments of a step: the arena, pointers to arrays, and numbers."""
    scalars = [_IN_MEMORY.get(dtype) or getattr(types, dtype) for _, _, dtype in layout.places]
    return [types.CPointer(scalar) for scalar in (uint8, *scalars)] + [float64] * layout.numbers


def _entry(library, compiled, layout):
    """Return a module with the function that CPython calls, which calls the parts of a step."""
    module = library.create_ir_module(ENTRY)
    context, described = compiled[0].target_context, compiled[0].fndesc
    pointers = [context.get_value_type(kind) for kind in described.argtypes[: 1 + len(layout.places)]]
    Entry(module, layout).write([_call_of(module, part) for part in compiled], pointers)
    return module


def _symbols(module, file):
    """Return the symbols that code calls: declared by its module, or inserted by LLVM, such as `pow` and `memset`."""
    names = {one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")}
    names |= {one.name for one in module.global_variables if one.is_declaration}
    return tuple(sorted(names | undefined(file)))


def undefined(file):
    """Return the undefined symbols of a 64-bit little-endian ELF object; none for other formats."""
    if file[:6] != b"\x7fELF\x02\x01":
        return set()
    (start,), (size, count) = struct.unpack_from("<Q", file, 0x28), struct.unpack_from("<HH", file, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", file, start + size * index) for index in range(count)]
    found = set()
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind == _SYMBOLS:
            names = sections[link][4]
            for place in range(offset, offset + length, 24):
                name, _, _, section = struct.unpack_from("<IBBH", file, place)
                if name and not section:
                    found.add(file[names + name : file.index(b"\0", names + name)].decode())
    return found
