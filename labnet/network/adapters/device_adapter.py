"""The adapter of models on a GPU: tensors of clients are moved to the device and back."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from labnet.device import CPU, check_device
from labnet.errors import ServeError
from labnet.nn import Module
from labnet.tensor import Tensor


def on_device(model: Callable[..., Any], device: str, compute: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that computes a model on a device; a module's parameters are moved there.

    Inputs are moved to the device and outputs back, as recorded ops, so gradients take the same way.

    Parameters
    ----------
    model : callable
        The model; a module stays what it is.
    device : str
    compute : callable, optional
        Computes the model in its place, such as its compiled version.

    Raises
    ------
    DeviceError
        If this machine has no such device; nothing is moved then.
    ServeError
        If the model is async.

    Examples
    --------
    >>> import labnet as ln
    >>> on_device(ln.nn.Linear(2, 1), "cpu")(ln.ones((3, 2))).shape
    (3, 1)
    """
    device = check_device(device)
    if not callable(model) or isinstance(model, type):
        return model  # refused later, when it is served
    call = model.forward if isinstance(model, Module) else model
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
        raise ServeError("serve_model: device= is for models that are not async: move the tensors in the model itself")
    if isinstance(model, Module):
        model.to(device)
    compute = compute or model

    @functools.wraps(compute, updated=())
    def computing(*inputs: Any, **named: Any) -> Any:
        return _moved(compute(*_moved(inputs, device), **_moved(named, device)), CPU)

    return computing


def is_on_gpu(model: Callable[..., Any], device: str | None) -> bool:
    """Return whether a model computes on a GPU, by the device it is served on or by a module's parameters.

    Examples
    --------
    >>> import labnet as ln
    >>> is_on_gpu(ln.nn.Linear(2, 1), None), is_on_gpu(ln.exp, "cuda")
    (False, True)
    """
    if device not in (None, CPU):
        return True
    return isinstance(model, Module) and any(parameter.device != CPU for parameter in model.parameters())


def gpu_of(model: Callable[..., Any], device: str | None) -> dict[str, Any] | None:
    """Return the name and memory of the GPU that a model computes on; None for the CPU.

    Returns
    -------
    dict or None
        ``name`` of the GPU, and memory in bytes: ``used`` by labnet, its ``peak``, ``free`` and ``total``.
    """
    if not is_on_gpu(model, device):
        return None
    from labnet.kernels.cuda.driver.gpu import current_gpu
    from labnet.kernels.cuda.driver.pool import pool

    gpu = current_gpu()
    free, total = gpu.memory()
    return {"name": gpu.name, "used": pool.used, "peak": pool.peak, "free": free, "total": total}


def _moved(value: Any, device: str) -> Any:
    """Return a nested value with all tensors moved to a device."""
    if isinstance(value, Tensor):
        return value.to_device(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(part, device) for part in value)
    return value
