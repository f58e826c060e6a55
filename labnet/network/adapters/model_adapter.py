"""The protocol between a served model and the library that it is written in.

A server knows models of other libraries by this protocol only. The adapters of labnet are in `labnet.interop`; those of
other packages are found by the entry point ``labnet.adapters``, or are handed to `serve_model` themselves.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from labnet.errors import ServeError
from labnet.nn import Module
from labnet.optim import Optimizer

Array = np.ndarray[Any, Any]
#: An array, or a tuple or dict of arrays.
Arrays = Any

GROUP = "labnet.adapters"
#: Labnet's own entry points, which are known without an installation; by the library that must be imported already.
_OWN = tuple(
    EntryPoint(name, value, GROUP)
    for name, value in (
        ("torch", "labnet.interop.torch.adapter:adapt"),
        ("jax", "labnet.interop.jax.adapter:adapt"),
        ("numpy", "labnet.interop.arrays:adapt"),
    )
)


class ModelAdapter:
    """A model of any library, as a server sees it: NumPy arrays go in and come out.

    Subclasses define `call`; those with gradients also `pull_back`; those with parameters `parameters` and
    `load_state`; those with an optimizer of their own `apply`. One thread calls all methods.
    """

    #: Whether `apply` makes the updates; otherwise an optimizer of labnet can.
    has_optimizer = False
    #: Name of the optimizer, which a store checks when it is opened again.
    optimizer_name = ""

    def call(
        self,
        inputs: Sequence[Array],
        named: Mapping[str, Array],
        *,
        training: bool,
        wanted: Sequence[bool] | None,
    ) -> tuple[Arrays, Any]:
        """Compute the model; return its outputs, and a record of the computation for `pull_back`.

        Parameters
        ----------
        inputs : sequence of array
            Read-only.
        named : mapping of str to array
            Inputs by name.
        training : bool
            Whether dropout and similar layers are active.
        wanted : sequence of bool, optional
            Whether the gradient of each input is wanted, first of `inputs` and then of `named`; None if no backward
            follows, and the record may be None.

        Returns
        -------
        outputs : array, or tuple or dict of arrays
        record : object
            Its ``nbytes``, if it has any, counts for the limit of memory of all calls. Later updates must not change
            the gradients that `pull_back` computes from it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define call")

    def pull_back(self, record: Any, gradients: Arrays) -> tuple[Sequence[Array | None], Mapping[str, Array]]:
        """Compute the gradients of one call; may be called again with the same record.

        Parameters
        ----------
        record : object
            As `call` returned it.
        gradients : array, or tuple or dict of arrays
            In the form of the outputs; None in place of the gradient of an output that was not used.

        Returns
        -------
        inputs : sequence of array or None
            In the order of `wanted`.
        parameters : mapping of str to array
            By name; a parameter that the outputs do not depend on is left out.

        Raises
        ------
        GradientError
            If there is none; the message says why.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define pull_back")

    def parameters(self) -> Mapping[str, Array]:
        """Return the present parameters by name; arrays that no later update writes to."""
        return {}

    def buffers(self) -> Mapping[str, Array]:
        """Return copies of what else belongs to the state, by name, such as running means."""
        return {}

    def aliases(self) -> Mapping[str, str]:
        """Return further names of parameters, each with the name in `parameters`."""
        return {}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace the parameters and buffers of these names."""
        raise NotImplementedError(f"{type(self).__name__} does not define load_state")

    def apply(self, gradients: Mapping[str, Array]) -> None:
        """Make one update with gradients by name; on an error nothing may have changed."""
        raise NotImplementedError(f"{type(self).__name__} does not define apply")

    def optimizer_state(self) -> Mapping[str, Array]:
        """Return copies of the state of the optimizer, by name."""
        return {}

    def load_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Replace the state of the optimizer."""

    def hyperparameters(self) -> dict[str, Any]:
        """Return the numbers that define an update, such as the step size; JSON-able."""
        return {}

    def set_hyperparameters(self, numbers: Mapping[str, Any]) -> None:
        """Replace the numbers of `hyperparameters`."""


@dataclass(frozen=True)
class Options:
    """The arguments of `serve_model` for models of other libraries."""

    params: Any = None
    method: str | None = None
    vjp: Any = None
    device: str | None = None

    def refuse(self, model: Any, *names: str) -> None:
        """Raise `ServeError` if one of these was given, or any if there are no names."""
        for field in fields(self):
            if field.name in (names or _ALWAYS) and getattr(self, field.name) is not None:
                raise ServeError(f"serve_model: {field.name}= is not for this model, {_described(model)}")


_ALWAYS = ("params", "method", "vjp")
#: Makes the adapter of a model with its optimizer, or returns None if the model is not of its library.
Adapt = Callable[[Any, Any, Options], ModelAdapter | None]
_registered: dict[str, Adapt] = {}


def register(library: str, adapt: Adapt) -> None:
    """Register a function that makes adapters for this process; packages use the entry point ``labnet.adapters``.

    Parameters
    ----------
    library : str
        Name of the module whose objects it knows; the function is called only after this module was imported.
    adapt : callable
        Given the model, the optimizer and the further `Options` of `serve_model`, returns a `ModelAdapter`; or None
        for a model of another library.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.interop.register("toy", lambda model, optimizer, options: None)
    """
    _registered[library] = adapt


def adapter_of(model: Any, optimizer: Any, options: Options) -> ModelAdapter | None:
    """Return the adapter of a model; None if the model is labnet's or a plain function.

    Raises
    ------
    ServeError
        If this library has no such model or optimizer, or the options are not for it.
    """
    if isinstance(model, ModelAdapter):
        options.refuse(model)
        return model
    if isinstance(model, Module) and isinstance(optimizer, Optimizer | None):
        options.refuse(model)
        return None
    points = {point.name: point.load for point in (*entry_points(group=GROUP), *_OWN)}
    for library in dict.fromkeys((*_registered, *points)):
        if library in sys.modules:  # otherwise the model cannot be one of its objects
            adapt = _registered.get(library) or points[library]()
            if (found := adapt(model, optimizer, options)) is not None:
                return found
    options.refuse(model)
    return None


def _described(model: Any) -> str:
    return f"{type(model).__name__} {model!r:.60}"
