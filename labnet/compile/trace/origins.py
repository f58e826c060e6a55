"""The origin of objects and code: the user, Python, an installed package, or labnet.

Values of the user are guarded; those of libraries are not.
"""

import builtins
import functools
import os
import random
import sys
import sysconfig
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

#: The folder of labnet, and its modules that read attributes of users: observed like user code.
HOME = str(Path(__file__).parents[2]) + "/"
_OBSERVED = tuple(HOME + name for name in ("nn/", "loss.py"))
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CLOCKS = {
    getattr(time, name)
    for name in dir(time)
    if name.removesuffix("_ns") in ("time", "perf_counter", "monotonic", "process_time", "thread_time")
} | {time.localtime, time.gmtime, time.ctime, time.strftime}
_DRAWS = {
    ("uuid", "uuid1"),
    ("uuid", "uuid4"),
    ("secrets", "token_bytes"),
    ("secrets", "token_hex"),
    ("secrets", "randbelow"),
}
_DATES = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
#: Descriptors of slots and of attributes that are implemented in C.
MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)
#: The generator of NumPy's global random functions.
_NUMPY_STREAM = np.random.random.__self__  # type: ignore[attr-defined]
#: Builtins that read their arguments only by observed instructions or methods.
_HARMLESS = {x for x in vars(builtins).values() if isinstance(x, type | types.BuiltinFunctionType)} - {
    *(getattr, setattr, delattr, hasattr, vars, dir)
}
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)
_HARMLESS_PACKAGES = ("builtins", "labnet", "numpy", "math")


def is_observed(frame: types.FrameType) -> bool:
    """Return whether a frame runs user code, or code of labnet that reads attributes of the user."""
    name = frame.f_code.co_filename
    if name.startswith(HOME):
        return name.startswith(_OBSERVED) and frame.f_code.co_name not in ("__setattr__", "__delattr__")
    if name == "<string>" or is_library_file(name):  # code that was generated belongs to the module whose names it uses
        return not is_library(str(frame.f_globals.get("__name__", "__main__")))
    return True


def is_library_file(name: str) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    installed = "site-packages" in name or "dist-packages" in name
    return installed or name.startswith(("<frozen", *_LIBRARIES))


@functools.cache
def is_library(module: str) -> bool:
    """Return whether a module, by its name, is part of labnet, of Python, or of an installed package."""
    root = module.partition(".")[0]
    if root == "__main__":
        return False
    if root == "labnet" or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and is_library_file(file) and not _uses_labnet(root)


def _uses_labnet(package: str) -> bool:
    """Return whether an installed package uses labnet, so that its state is guarded like the user's."""
    # Copies, since other threads may import meanwhile.
    modules = [module for name, module in sys.modules.copy().items() if name.partition(".")[0] == package]
    return any(
        module_of(value).partition(".")[0] == "labnet" or getattr(value, "__name__", None) == "labnet"
        for module in modules
        for value in list(getattr(module, "__dict__", {}).values())
        if isinstance(value, type | types.FunctionType | types.ModuleType)
    )


def module_of(found: Any) -> str:
    """Return the name of the module that a class or function was defined in."""
    return str(getattr(found, "__module__", None) or "builtins")


def instance_dict(found: Any) -> dict[str, Any]:
    """Return the attributes of an instance without running user code."""
    try:
        attributes: dict[str, Any] = object.__getattribute__(found, "__dict__")
    except AttributeError:
        return {}
    return attributes


def in_classes(kind: type, name: str, after: type | None = None) -> tuple[type, Any] | None:
    """Return the class in the method resolution order that defines a name, and its value there."""
    order = kind.__mro__ if after is None else kind.__mro__[kind.__mro__.index(after) + 1 :]
    return next(((one, vars(one)[name]) for one in order if name in vars(one)), None)


def is_foreign(kind: Any) -> bool:
    """Return whether a class or function is of Python, or of an installed package other than labnet."""
    return is_library(module_of(kind)) and not is_of_labnet(kind)


def is_of_labnet(kind: Any) -> bool:
    """Return whether a class or function is of labnet."""
    return module_of(kind).partition(".")[0] == "labnet"


def name_of(callee: Any) -> str:
    """Return the qualified name of a function; an empty string for any other object."""
    return callee.__qualname__ if isinstance(callee, _FUNCTIONS) else ""


def reads_clock(callee: Any) -> bool:
    """Return whether a function returns the time."""
    return name_of(callee) in _DATES or (isinstance(callee, types.BuiltinFunctionType) and callee in _CLOCKS)


def reads_file(callee: Any) -> bool:
    """Return whether a function opens or reads a file."""
    return callee is open or name_of(callee) in ("Path.read_text", "Path.read_bytes", "Path.open")


def draws_outside(callee: Any) -> bool:
    """Return whether a function draws random numbers of the system."""
    return callee is os.urandom or (name_of(callee) != "" and (module_of(callee), name_of(callee)) in _DRAWS)


def is_stream(found: Any) -> bool:
    """Return whether an object is a random generator of Python or NumPy."""
    return isinstance(found, random.Random | np.random.Generator | np.random.RandomState)


def is_shared_stream(found: Any) -> bool:
    """Return whether a random generator is shared by the whole process."""
    return found is _NUMPY_STREAM or isinstance(found, random.Random)


def is_harmless(callee: Any) -> bool:
    """Return whether a call reads no attributes of its arguments, or only in observed code."""
    if isinstance(callee, types.BuiltinFunctionType | type) and callee in _HARMLESS:
        return True
    home = module_of(callee if isinstance(callee, _FUNCTIONS) else type(callee))
    return home.partition(".")[0] in _HARMLESS_PACKAGES or not is_library(home)
