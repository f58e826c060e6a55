"""Source becomes machine code: Numba finds the types and LLVM compiles, with an entry that CPython calls quickly.

The only module that imports Numba, and imported only where there is something to compile.
"""

# mypy: ignore-errors
# Numba has no types.

import linecache
import struct

from llvmlite import ir
from numba.core import compiler, cpu, sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
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

from labnet.compile.loader import ENTRY, Code

_OBJECT, _SIZE, _DOUBLE = ir.IntType(8).as_pointer(), ir.IntType(64), ir.DoubleType()
_PROTOTYPES = {
    "PyErr_BadArgument": ir.FunctionType(ir.IntType(32), []),
    "PyErr_Occurred": ir.FunctionType(_OBJECT, []),
    "PyEval_SaveThread": ir.FunctionType(_OBJECT, []),
    "PyEval_RestoreThread": ir.FunctionType(ir.VoidType(), [_OBJECT]),
    "PyFloat_AsDouble": ir.FunctionType(_DOUBLE, [_OBJECT]),
    "PyLong_FromLongLong": ir.FunctionType(_OBJECT, [_SIZE]),
}
#: Type of a section with symbols.
_SYMBOLS = 2
#: Bytes of a tuple before what it holds: what a call brings is handed on as if it were one.
_ITEMS = tuple.__basicsize__
_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "nopython": True}


class _Pipeline(compiler.CompilerBase):
    """Numba's passes that generated code needs: it has no closures, no array expressions and nothing to rewrite."""

    def define_pipelines(self):
        passes = PassManager("labnet")
        for kind in (TranslateByteCode, FixupArgs, IRProcessing, ReconstructSSA):
            passes.add_pass(kind, kind.__name__)
        for kind in (NopythonTypeInference, PreLowerStripPhis, InlineOverloads, IRLegalization, AnnotateTypes):
            passes.add_pass(kind, kind.__name__)
        for kind in (NativeLowering, NoPythonBackend):
            passes.add_pass(kind, kind.__name__)
        passes.finalize()
        return [passes]


class _Library(JITCodeLibrary):
    """A module that is optimised as a whole only, and kept out of Numba's own engine, which never lets go of any."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _finalize_final_module(self):
        self._finalized = True

    def file(self):
        """Return the object file of the optimised module."""
        return self._codegen._tm.emit_object(self._final_module)


@global_compiler_lock
def translate(source: str, name: str) -> Code:
    """Return the machine code of the function ``step`` of a generated file."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = {}
    exec(compile(source, name, "exec"), scope)
    function, signature, options = scope["step"]
    arrays = options.pop("arrays")
    arguments, result = sigutils.normalize_signature(signature)
    flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**options, **_FLAGS})
    flags.no_compile = True  # so that it is optimised in one go with its entry
    library = _Library(cpu_target.target_context.codegen(), name)
    compiled = compiler.compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        function,
        args=arguments,
        return_type=result,
        flags=flags,
        locals={},
        library=library,
        pipeline_class=_Pipeline,
    )
    library.add_ir_module(_entry(library, compiled, arrays))
    library.finalize()
    file = library.file()
    return Code(file, _symbols(library._final_module, file))


def _entry(library, compiled, arrays):
    """Return a module with the function that CPython calls: it unpacks its arguments and lets other threads run.

    Those are the tuple of what is held, numbers, and then arrays, which the step finds where the caller has them.
    """
    module = library.create_ir_module(ENTRY)
    numbers = len(compiled.signature.args) - 2
    function = ir.Function(module, ir.FunctionType(_OBJECT, [_OBJECT, _OBJECT.as_pointer(), _SIZE]), ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    call = {name: ir.Function(module, kind, name) for name, kind in _PROTOTYPES.items()}
    _, given, length = function.args
    with builder.if_then(builder.icmp_signed("!=", length, _SIZE(1 + numbers + arrays)), likely=False):
        builder.call(call["PyErr_BadArgument"], [])
        builder.ret(_OBJECT(None))
    objects = [builder.load(builder.gep(given, [_SIZE(position)])) for position in range(1 + numbers)]
    first = builder.ptrtoint(builder.gep(given, [_SIZE(1 + numbers)]), _SIZE)
    values = [builder.sub(first, _SIZE(_ITEMS)), builder.ptrtoint(objects[0], _SIZE)]
    values += [builder.call(call["PyFloat_AsDouble"], [one]) for one in objects[1:]]
    if numbers:
        with builder.if_then(builder.icmp_unsigned("!=", builder.call(call["PyErr_Occurred"], []), _OBJECT(None))):
            builder.ret(_OBJECT(None))
    context, described = compiled.target_context, compiled.fndesc
    native = context.declare_function(module, described)
    thread = builder.call(call["PyEval_SaveThread"], [])
    _, found = context.call_conv.call_function(builder, native, described.restype, described.argtypes, values)
    builder.call(call["PyEval_RestoreThread"], [thread])
    builder.ret(builder.call(call["PyLong_FromLongLong"], [found]))
    return module


def _symbols(module, file):
    """Return what code calls: what its module declares, and what LLVM has put in, such as `pow` and `memset`."""
    names = {one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")}
    names |= {one.name for one in module.global_variables if one.is_declaration}
    return tuple(sorted(names | undefined(file)))


def undefined(file):
    """Return the names that an object file of the format ELF (64 bits, little-endian) does not define; else none."""
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
