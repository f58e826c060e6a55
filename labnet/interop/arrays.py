"""The adapters of estimators, as of scikit-learn, and of functions of arrays with a gradient of their own.

Estimators are known by their methods, so those of other packages are served as well, and none is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from labnet.errors import DTypeError, GradientError, ServeError
from labnet.network.adapters.model_adapter import Array, ModelAdapter, Options

#: Methods that compute something of an input, the most informative first.
METHODS = ("predict_proba", "decision_function", "predict", "transform")
_PAGE = "docs/bring-your-own-model.md"


class EstimatorAdapter(ModelAdapter):
    """A method of a fitted estimator, which has no gradient."""

    def __init__(self, estimator: Any, method: str):
        self._name = f"{type(estimator).__name__}.{method}"
        self._method = getattr(estimator, method)

    def call(
        self, inputs: Sequence[Array], named: Mapping[str, Array], *, training: bool, wanted: Sequence[bool] | None
    ) -> tuple[Any, Any]:
        """Call the method."""
        return _arrays(self._name, self._method(*inputs, **named)), None

    def pull_back(self, record: Any, gradients: Any) -> tuple[Sequence[Array | None], Mapping[str, Array]]:
        """Raise `GradientError`."""
        raise GradientError(
            f"the served {self._name} has no gradient, neither for its input nor for its parameters: call it under "
            f"ln.no_grad(), or with an input that requires none ({_PAGE})"
        )


class FunctionAdapter(ModelAdapter):
    """A function of arrays, with rules for the gradients of its inputs."""

    def __init__(self, function: Callable[..., Any], vjp: Any):
        self._function = function
        self._vjp = vjp
        self._name = getattr(function, "__name__", type(function).__name__)

    def call(
        self, inputs: Sequence[Array], named: Mapping[str, Array], *, training: bool, wanted: Sequence[bool] | None
    ) -> tuple[Any, Any]:
        """Call the function."""
        outputs = _arrays(self._name, self._function(*inputs, **named))
        return outputs, (outputs, inputs, named)

    def pull_back(self, record: Any, gradients: Any) -> tuple[Sequence[Array | None], Mapping[str, Array]]:
        """Call the rules."""
        outputs, inputs, named = record
        given = (gradients, outputs, *inputs)
        if callable(self._vjp):
            found = self._vjp(*given, **named)
        else:
            found = tuple(None if rule is None else rule(*given, **named) for rule in self._vjp)
        found = found if isinstance(found, tuple | list) else (found,)
        wanted = [*inputs, *named.values()]
        if len(found) != len(wanted):
            raise GradientError(f"vjp of {self._name} gave {len(found)} gradients for {len(wanted)} inputs")
        pairs = zip(found, wanted, strict=True)
        return [None if gradient is None else _fitting(self._name, gradient, own) for gradient, own in pairs], {}


def adapt(model: Any, optimizer: Any, options: Options) -> ModelAdapter | None:
    """Return the adapter of an estimator, or of a function with `vjp=`; None for another model.

    Raises
    ------
    ServeError
        If the estimator lacks the method, or `vjp=` is no rule.
    """
    if isinstance(model, type):
        return None
    if options.vjp is not None:
        options.refuse(model, "params", "method", "device")
        rules = options.vjp if isinstance(options.vjp, tuple | list) else (options.vjp,)
        if not callable(model) or not all(rule is None or callable(rule) for rule in rules):
            raise ServeError(
                f"serve_model: expected a function and rules as vjp=, such as lambda g, out, x: g * np.cos(x), got "
                f"{model!r:.60} and {options.vjp!r:.60}"
            )
        return FunctionAdapter(model, options.vjp)
    found = [name for name in METHODS if callable(getattr(model, name, None))]
    if callable(model) and (options.method is None or not found):
        return None
    if options.method is not None:
        if not callable(getattr(model, options.method, None)):
            raise ServeError(
                f"serve_model: {type(model).__name__} has no method {options.method!r}; it has {', '.join(found)}"
            )
        found = [options.method]
    if not found:
        return None
    options.refuse(model, "params", "device")
    _check_fitted(model)
    return EstimatorAdapter(model, found[0])


def _check_fitted(estimator: Any) -> None:
    """Refuse an estimator of scikit-learn that was not fitted."""
    fitted = getattr(estimator, "__sklearn_is_fitted__", None)
    names = [name for name in vars(estimator) if name.endswith("_") and not name.startswith("__")]
    if hasattr(estimator, "get_params") and hasattr(estimator, "fit"):
        tags = getattr(estimator, "__sklearn_tags__", None)
        needed = tags is None or tags().requires_fit
        if needed and not (fitted() if fitted is not None else names):
            raise ServeError(f"serve_model: this {type(estimator).__name__} is not fitted: call fit before")


def _arrays(name: str, outputs: Any) -> Any:
    """Return the outputs of a function as an array, or a tuple or dict of arrays."""
    if isinstance(outputs, Mapping):
        return {str(key): _array(name, value) for key, value in outputs.items()}
    if isinstance(outputs, tuple) or (isinstance(outputs, list) and all(hasattr(item, "dtype") for item in outputs)):
        return tuple(_array(name, value) for value in outputs)
    return _array(name, outputs)


def _array(name: str, value: Any) -> Array:
    value = value.toarray() if hasattr(value, "toarray") else value  # a sparse matrix
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DTypeError(
            f"{name} gives elements of dtype {array.dtype}, which are no numbers: serve another method with method=, "
            f"such as predict_proba, or a function that numbers them ({_PAGE})"
        )
    return array


def _fitting(name: str, gradient: Any, own: Array) -> Array:
    array = np.asarray(gradient)
    if array.shape != own.shape:
        raise GradientError(f"vjp of {name} gave a gradient of shape {array.shape} for an input of shape {own.shape}")
    return array.astype(own.dtype, copy=False)
