"""The adapter of compiled models: machine code computes them.

Calls, graphs, versions and updates are handled in `labnet.network.model.served`, as for any model: the graph of a
compiled forward leads to a compiled backward.
"""

import inspect
from collections.abc import Callable
from typing import Any

from labnet.compile.differentiable import Differentiable
from labnet.device import CPU
from labnet.errors import ServeError, TraceError
from labnet.nn import Module

_WAY_OUT = "serve it without compile"


def compiled(model: Callable[..., Any], device: str | None = None) -> Callable[..., Any]:
    """Return a function that computes a model, eagerly until it is compiled in the background.

    If the model computes on another device, `device` names it, and the caller moves the inputs there.

    Raises
    ------
    ServeError
        If the model is async, which cannot be compiled, or is on a GPU without `device`.
    TraceError
        In a call, if the model cannot be compiled; names the line.

    Examples
    --------
    >>> import labnet as ln
    >>> compiled(ln.nn.Linear(2, 1))(ln.ones((3, 2))).shape
    (3, 1)
    """
    if not callable(model) or isinstance(model, type):
        return model  # refused later, when it is served
    call = model.forward if isinstance(model, Module) else model
    on_device = isinstance(model, Module) and any(parameter.device != CPU for parameter in model.parameters())
    if device is None and on_device:
        raise ServeError(
            "serve_model: compile=True needs device='cuda' for a model that is there, so that what clients send is too"
        )
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
        raise ServeError(f"serve_model: an async model cannot be compiled: {_WAY_OUT}")
    return _Computing(model)


class _Computing(Differentiable):
    """Adds a hint to compilation errors."""

    def __init__(self, model: Callable[..., Any]):
        super().__init__(model, wait=False)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        try:
            return super().__call__(*inputs, **named)
        except TraceError as error:
            raise TraceError(f"{error}; or {_WAY_OUT}") from None
