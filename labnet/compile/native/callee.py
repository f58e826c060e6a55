"""Functions that generated code calls, compiled by Numba into the module of their caller.

Numba's own dispatchers would optimise each of them by itself and load it as machine code, which nothing calls.
"""

# mypy: ignore-errors
# Numba has no types.

from collections.abc import Callable

from numba import types
from numba.core import compiler, cpu
from numba.core.datamodel import models
from numba.core.imputils import lower_constant
from numba.core.registry import cpu_target
from numba.core.typing import signature
from numba.core.typing.templates import Signature
from numba.extending import register_model, typeof_impl

from labnet.compile.native.lowering import Unsupported, lower, register_rest
from labnet.compile.native.pipeline import CalleeLibrary, CalleePipeline

_FLAGS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "nopython": True}


class Callee:
    """A function for generated code.

    Parameters
    ----------
    function : callable
        Its body; with `chooses`, it returns the body for the Numba types of the arguments instead.
    options : dict
        Numba's options.
    """

    def __init__(self, function: Callable, options: dict, *, chooses: bool = False):
        self.py_func, self.chooses, self._options = function, chooses, options
        self._signatures: dict[tuple, Signature] = {}
        self.type = _CalleeType(self)

    def signature(self, args: tuple) -> Signature:
        """Return the signature for these types of arguments; the function is compiled for them if it was not."""
        if args not in self._signatures:
            flags = cpu.CPUTargetOptions.parse_as_flags(compiler.Flags(), {**self._options, **_FLAGS})
            flags.no_compile = True
            context, function = cpu_target.target_context, self.py_func
            library = CalleeLibrary(context.codegen(), function.__qualname__)
            body = function(*args) if self.chooses else function
            try:
                described = lower(library, body, args, flags)
            except Unsupported:
                described = self._compiled(library, body, args, flags)
            context.insert_user_function((self, args), described, [library])
            self._signatures[args] = signature(described.restype, *args)
        return self._signatures[args]

    def _compiled(self, library, body, args, flags):
        """Have Numba's passes compile a body; return its descriptor."""
        register_rest()
        return compiler.compile_extra(
            cpu_target.typing_context,
            cpu_target.target_context,
            body,
            args=args,
            return_type=None,
            flags=flags,
            locals={},
            library=library,
            pipeline_class=CalleePipeline,
        ).fndesc


class _CalleeType(types.Callable, types.Opaque):
    """Numba's type of one function."""

    def __init__(self, callee: Callee):
        self._callee = callee
        super().__init__(f"callee {callee.py_func.__qualname__} {id(callee)}")

    def get_call_type(self, context, args, kws):
        return self._callee.signature(tuple(map(types.unliteral, args)))

    def get_call_signatures(self):
        return list(self._callee._signatures.values()), True

    def get_impl_key(self, sig):
        return self._callee, sig.args


register_model(_CalleeType)(models.OpaqueModel)


@typeof_impl.register(Callee)
def _typeof(value, context):
    return value.type


@lower_constant(_CalleeType)
def _constant(context, builder, kind, value):
    return context.get_dummy_value()


def callee(**options):
    """Mark a function that generated code calls, with Numba's options.

    Examples
    --------
    >>> @callee(error_model="numpy")
    ... def half(x):
    ...     return x / 2
    >>> half.signature((types.float32,)).return_type
    float64
    """
    return lambda function: Callee(function, options)


def chosen_callee(**options):
    """Mark a function that returns, for the Numba types of its arguments, the function that generated code calls."""
    return lambda function: Callee(function, options, chooses=True)
