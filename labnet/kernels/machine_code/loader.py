"""Loading of machine code as a function of Python, by LLVM's linker.

Does not import Numba, which takes half a second. Knows object files and the symbols that they need; does not know
where they come from.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]

from labnet.kernels import blas, numpy_loops

#: Name of the function that an object file defines, called as CPython calls fast built-in functions.
ENTRY = "labnet_step"
#: Name of the function of a kernel that computes a part of a call in a thread without Python.
PART = "labnet_part"
#: What the entry itself needs of Python.
PYTHON = (
    *("PyErr_BadArgument", "PyErr_Occurred", "PyEval_RestoreThread", "PyEval_SaveThread"),
    *("PyFloat_AsDouble", "PyLong_AsLongLong", "PyLong_FromLongLong", "PyTuple_Type"),
)
_FASTCALL = 0x80


@dataclass(frozen=True)
class MachineCode:
    """Object files that call each other, and the symbols of others that they call."""

    objects: Sequence[bytes]
    symbols: Sequence[str]


class _Method(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    ]


def missing(symbols: Sequence[str]) -> list[str]:
    """Return the symbols that this process lacks; linking code that needs them would abort the process."""
    if blas.SGEMM in symbols:
        blas.link()
    numpy_loops.link(symbols)
    for library, names in ((ctypes.pythonapi, PYTHON), (blas.library(), symbols)):  # such as pow, in NumPy's reach
        for name in names:
            if not llvm.address_of_symbol(name) and hasattr(library, name):
                llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return [name for name in symbols if not llvm.address_of_symbol(name)]


def load(code: MachineCode) -> Callable[..., int]:
    """Link object files and return the function that one of them defines as `ENTRY`.

    Called with the tuple of what is held, numbers, and arrays; the memory of the code goes with the function. The first
    item of its ``__self__`` is the address of `PART`, 0 for a step.

    Raises
    ------
    ImportError
        If the code needs functions that this process does not have.
    """
    if lost := missing(code.symbols):
        raise ImportError(f"compiled code needs {', '.join(sorted(lost))}, which this process does not have")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.create_target_machine(jit=True))
    files = [llvm.ObjectFileRef.from_data(content) for content in code.objects]
    for file in files:
        engine.add_object_file(file)
    engine.finalize_object()
    method = _Method(b"step", engine.get_function_address(ENTRY), _FASTCALL, None)
    held = (engine.get_function_address(PART), engine, files, method)
    made: Callable[..., int] = _new_function(ctypes.byref(method), held, None)
    return made


_new_function: Any = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)
