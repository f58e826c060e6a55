"""Compilation of generated source to machine code: Numba infers the types, LLVM compiles.

This module and the intrinsics import Numba, and are imported only where there is something to compile. It uses
parts of Numba that are not documented; `tests/compile/native/test_versions.py` lists them.
"""

# mypy: ignore-errors
# Numba has no types.

import contextlib
import functools
import linecache
import re
import struct

from numba import float64, int64, types, uint8, uint16
from numba.core import cgutils, compiler, cpu
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import builtin_registry
from numba.core.registry import cpu_target
from numba.core.typing import mathdecl, templates

from labnet.compile.native.entry import Call, Entry, write_kernel_entry, write_part
from labnet.compile.native.lowering import Unsupported, lower, register_rest
from labnet.compile.native.options import OPTIONS
from labnet.compile.native.pipeline import EntryLibrary, GeneratedPipeline, Library
from labnet.kernels.machine_code import cache
from labnet.kernels.machine_code.loader import ENTRY, MachineCode

#: What begins the list of calls of a step, and a call: whether its status is read, the function, and its arguments.
_STEP, _CALL = "\n\n\n@step(", re.compile(r"    (status = )?(f\d+)\((.*)\)")
#: Type of a section with symbols.
_SYMBOLS = 2
#: Types of numbers in memory for which processors have no arithmetic.
_IN_MEMORY = {"bool": uint8, "float16": uint16}
_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "nopython": True}


def _register(target):
    """Register what most generated functions use: numbers and `math`.

    Numba registers everything that it knows, which takes longer than to compile a small step.
    """
    from numba.cpython import mathimpl, numbers  # noqa: F401

    for registry in (mathimpl.registry, builtin_registry):
        target.install_registry(registry)
    for registry in (mathdecl.registry, templates.builtin_registry):
        target.typing_context.install_registry(registry)


def _take_new(context):
    """Take what was added to the registries of a context; Numba adds intrinsics to one of them when it meets them."""
    for registry in tuple(context._registries):
        context.install_registry(registry)


@contextlib.contextmanager
def _few_registrations(target):
    """Let Numba's contexts register little in a block, and resolve each call of the same types once."""
    typing, known = target.typing_context, {}
    resolve = typing.resolve_function_type

    def resolved(function, args, kws):
        if kws:
            return resolve(function, args, kws)
        found = known.get((function, args))
        if found is None:
            found = known[function, args] = resolve(function, args, kws)
        return found

    typing.resolve_function_type = resolved
    typing.refresh, target.refresh = (functools.partial(_take_new, context) for context in (typing, target))
    try:
        _register(target)
        yield
    finally:
        del typing.resolve_function_type, typing.refresh, target.refresh


@global_compiler_lock
def translate(source: str, name: str, *, report=lambda done, total: None) -> MachineCode:
    """Return the machine code of a source: of a ``kernel``, or of a ``step`` and the functions that it calls.

    The machine code of functions is kept on the disk: a step that differs in one of them compiles that one.

    `report` is called with the number of functions that are compiled and that of all functions, the entry included.
    """
    functions, mark, step = source.partition(_STEP)
    linecache.cache[name] = (len(functions), None, functions.splitlines(keepends=True), name)
    scope = {}
    exec(compile(functions, name, "exec"), scope)
    if not mark:
        return _kernel(name, *scope["kernel"])
    layout, _, calls = step.partition("\ndef ")
    exec(f"{mark}{layout}\ndef step(): ...", scope)
    return _step(name, functions, list(_calls(calls)), scope, report)


def _kernel(name, function, signature):
    """Return the machine code of a kernel."""
    library = Library(cpu_target.target_context.codegen(), name)
    flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**function.targetoptions, **_FLAGS})
    flags.no_compile = True
    compiled = _compiled(library, function.py_func, signature.args, flags, compiler.Compiler)
    module = library.create_ir_module(ENTRY)
    kinds = [compiled.target_context.get_value_type(kind) for kind in compiled.fndesc.argtypes]
    call = _call_of(module, compiled)
    write_kernel_entry(module, kinds, call)
    write_part(module, kinds, call)
    library.add_ir_module(module)
    return _code(library)


def _step(name, source, calls, scope, report):
    """Return the machine code of a step: one object file for each of its functions, and one for its entry."""
    sources = _function_sources(source)
    functions = list(dict.fromkeys(call.function for call in calls))
    symbols, codes = {}, []
    with _few_registrations(cpu_target.target_context):
        for done, called in enumerate(functions):
            report(done, len(functions) + 1)
            key = cache.digest(sources[called])
            symbols[called] = f"labnet_{key}"
            code = cache.read(key, cache.FUNCTION)
            if code is None:
                code = _function(symbols[called], *scope[called])
                cache.write(key, code, cache.FUNCTION)
            codes.append(code)
    report(len(functions), len(functions) + 1)
    library = EntryLibrary(cpu_target.target_context.codegen(), name)
    library.add_ir_module(_entry(library, symbols, {one: scope[one][1] for one in functions}, calls, scope["step"]))
    codes.append(_code(library))
    needed = set().union(*(code.symbols for code in codes)) - set(symbols.values())
    return MachineCode([file for code in codes for file in code.objects], sorted(needed))


def _function(symbol, function, kinds):
    """Return the machine code of a function of a step, under this symbol."""
    library = Library(cpu_target.target_context.codegen(), symbol)
    flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**OPTIONS, **_FLAGS})
    flags.noalias = True  # arguments of a function do not overlap
    flags.no_compile = True  # so that it is optimised in one go with its callees
    args = list(map(_typed, kinds))
    try:
        described = lower(library, function, args, flags, int64)
    except Unsupported:
        register_rest()
        described = _compiled(library, function, args, flags, GeneratedPipeline).fndesc
    library.export(described.mangled_name, symbol)
    return _code(library)


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


def _code(library):
    """Return the machine code of a library, optimised."""
    library.finalize()
    file = library.file()
    return MachineCode([file], _symbols(library._final_module, file))


def _typed(kind):
    """Return the type of a parameter: a pointer to elements of a dtype, or a number of the call."""
    return float64 if kind == "number" else types.CPointer(_IN_MEMORY.get(kind) or getattr(types, kind))


def _calls(lines):
    """Yield the calls among the lines of a step, in order."""
    for line in lines.splitlines()[1:]:
        found = _CALL.fullmatch(line)
        if found is None and line.strip() not in ("if status:", "return status", "return 0"):
            raise ValueError(f"a step consists of calls, and {line.strip()!r} is none")
        if found is not None:
            status, function, arguments = found.groups()
            pairs = [one.partition(" + ") for one in arguments.split(", ") if one]
            yield Call(function, [(name, int(distance or 0)) for name, _, distance in pairs], bool(status))


def _function_sources(source):
    """Return the source of each function under one common name, since equal functions differ in name between steps."""
    head, *functions = source.split("\n\n\n@function(")
    found = {}
    for text in functions:
        name = text.partition("\ndef ")[2].partition("(")[0]
        found[name] = head + text.replace(f"def {name}(", "def function(", 1)
    return found


def _call_of(module, compiled):
    """Return the emitter of the call of a compiled function, whose result is its status."""
    context, described = compiled.target_context, compiled.fndesc
    native = context.declare_function(module, described)

    def call(builder, values):
        return context.call_conv.call_function(builder, native, described.restype, described.argtypes, values)[1]

    return call


def _entry(library, symbols, kinds, calls, layout):
    """Return a module with the function that CPython calls, which calls the functions of a step.

    It hands pointers on whatever they point to, so all are declared to point to bytes.
    """
    module, context = library.create_ir_module(ENTRY), cpu_target.target_context

    def declared(symbol, kinds):
        args = [float64 if kind == "number" else types.voidptr for kind in kinds]
        return cgutils.get_or_insert_function(module, context.call_conv.get_function_type(int64, args), symbol)

    functions = {name: declared(symbol, kinds[name]) for name, symbol in symbols.items()}
    Entry(module, layout).write(calls, functions)
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
