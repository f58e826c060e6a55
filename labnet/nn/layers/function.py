"""Modules that apply one function with fixed arguments."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from labnet.nn.modules import Module
from labnet.nn.sizes import MAX_DIMENSIONS, number, size
from labnet.tensor import Tensor

#: Parameters of torch's modules that make no difference here.
_IGNORED = ("inplace",)


class FunctionModule(Module):
    """The base class of modules that apply one function; the function's other parameters are those of the module.

    Numbers and dimensions are checked by their annotations. Tensors become buffers.

    Examples
    --------
    >>> from labnet.nn import functional
    >>> class CELU(FunctionModule):
    ...     function = functional.celu
    >>> import labnet as ln
    >>> CELU(alpha=0.5)
    CELU(alpha=0.5)
    >>> CELU()(ln.asarray([2.0])).tolist()
    [2.0]
    """

    #: The function; read through the class, so that it does not become a method.
    function: ClassVar[Callable[..., Tensor]]
    #: Number of inputs of `forward`.
    inputs: ClassVar[int] = 1
    _names: ClassVar[tuple[str, ...]] = ()
    #: Parameters of `__init__` of the class with the function; a subclass may take others.
    _signature: ClassVar[inspect.Signature]

    def __init_subclass__(cls) -> None:
        """Take the parameters of the class from its function."""
        if "function" in vars(cls):
            parameters = list(inspect.signature(cls.function).parameters.values())[cls.inputs :]
            kinds = [one.replace(kind=one.POSITIONAL_OR_KEYWORD) for one in parameters]
            cls.__signature__ = cls._signature = inspect.Signature(kinds)  # type: ignore[attr-defined]
            cls._names = tuple(one.name for one in kinds if one.name not in _IGNORED)
        elif "__init__" in vars(cls):
            own = inspect.signature(cls.__init__)
            cls.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]

    def __init__(self, *given: Any, **named: Any):
        super().__init__()
        signature = self._signature
        named = {name: value for name, value in named.items() if name not in _IGNORED or name in signature.parameters}
        try:
            bound = signature.bind(*given, **named)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; expected {signature}") from None
        bound.apply_defaults()
        for name in self._names:
            value = bound.arguments[name]
            annotation = signature.parameters[name].annotation
            if isinstance(value, Tensor) or annotation == Tensor | None:
                self.register_buffer(name, value)
            else:
                setattr(self, name, self._checked(name, value, annotation))

    def _checked(self, name: str, value: Any, annotation: Any) -> Any:
        layer = type(self).__name__
        if annotation is float:
            return number(layer, name, value)
        if isinstance(value, np.integer):
            value = int(value)
        return size(layer, name, value, least=-MAX_DIMENSIONS) if name == "dim" else value

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the function."""
        kind = type(self)
        if not kind._names:
            return kind.function(*inputs)
        return kind.function(*inputs, **{name: getattr(self, name) for name in kind._names})

    def _describe(self) -> str:
        shown = [(name, getattr(self, name)) for name in self._names]
        return ", ".join(f"{name}={value!r}" for name, value in shown if not isinstance(value, Tensor | None))
