"""The meaning of a tensor that is assigned to a module's attribute, found in the frames of the running code."""

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from labnet.optim.inputs import users_frame

#: Methods in which an assigned tensor is a result and no state.
_COMPUTING = ("forward", "__call__")


def belongs_to_state(module: Any, kind: type) -> bool:
    """Return whether a plain tensor under a new name is state and not a result of a forward.

    Parameters
    ----------
    module : Module
        Owner of the attribute.
    kind : type
        The class of all modules.
    """
    in_method = False
    for owner, name in _methods(kind):
        if name == "__init__" and owner is module:
            return True
        if name in _COMPUTING:
            return False
        in_method = True
    return not (in_method and "_called" in vars(module))


def is_input(tensor: Any, kind: type) -> bool:
    """Return whether a tensor is an argument of the running forward."""
    for frame, _, name in _frames(kind):
        if name == "__init__":
            return False
        if name in _COMPUTING:
            code = frame.f_code
            given = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            return any(frame.f_locals.get(each) is tensor for each in given)
    return False


def looks_like_a_parameter(module: Any, kind: type) -> bool:
    """Return whether a computed tensor is assigned where a parameter is intended, not an activation.

    That is the case during construction, or in a cell or script before the first call.
    """
    if "_called" in vars(module):
        return False
    users = users_frame()
    if users is not None and users.f_code.co_name.startswith("<"):
        return True
    for owner, method in _methods(kind):
        if method in _COMPUTING:
            return False
        if method == "__init__" and owner is module:
            return True
    return False


def _methods(kind: type) -> Iterator[tuple[Any, str]]:
    """Iterate over the running methods of modules, as (module, method name), innermost first."""
    return ((owner, name) for _, owner, name in _frames(kind))


def _frames(kind: type) -> Iterator[tuple[FrameType, Any, str]]:
    frame = _assigning()
    while frame is not None:
        code = frame.f_code
        if code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if isinstance(owner, kind) and _is_method(type(owner), code):
                yield frame, owner, code.co_name
        frame = frame.f_back


def _assigning() -> FrameType | None:
    """Return the frame that assigns, the caller of ``__setattr__``."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "__setattr__":
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name == "__setattr__":
        frame = frame.f_back
    return frame


def _is_method(kind: type, code: Any) -> bool:
    return any(getattr(vars(base).get(code.co_name), "__code__", None) is code for base in kind.__mro__)
