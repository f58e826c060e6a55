"""The adapter of JAX: serves a function of parameters and inputs, and trains the parameters with optax.

Forward and backward are compiled by `jax.jit` for each shape; every call keeps the residuals of `jax.vjp`. Arrays of
JAX never change, so graphs of earlier calls keep the weights that they were computed with.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from labnet.errors import DTypeError, ServeError
from labnet.network.adapters.model_adapter import Array, ModelAdapter, Options


class Record:
    """The residuals of one call."""

    __slots__ = ("count", "nbytes", "outputs", "positions", "vjp")

    def __init__(self, vjp: Any, outputs: Any, positions: list[int], count: int):
        self.vjp, self.outputs = vjp, outputs
        #: The places of the inputs that `vjp` gives gradients of, and the number of all inputs.
        self.positions, self.count = positions, count
        self.nbytes = sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(vjp) if hasattr(leaf, "nbytes"))


class JaxAdapter(ModelAdapter):
    """A function of JAX, ``function(params, *inputs)``, or of inputs alone.

    If it has an argument ``training``, that is passed as a static bool.
    """

    def __init__(self, function: Callable[..., Any], params: Any, optimizer: Any):
        self.params = jax.tree_util.tree_map(jnp.asarray, params)
        self._has_params = params is not None
        self._function = function
        self._takes_mode = "training" in _names(function)
        self._optimizer = optimizer
        self.has_optimizer = optimizer is not None
        self.optimizer_name = "optax" if optimizer is not None else ""
        paths, self._tree = jax.tree_util.tree_flatten_with_path(self.params)
        self._names = [jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path, _ in paths]
        if len(set(self._names)) < len(self._names):
            raise ServeError(f"serve_model: two parameters have one name: {sorted(self._names)}")
        wrong = [name for name, (_, leaf) in zip(self._names, paths, strict=True) if leaf.dtype.kind not in "fiub"]
        if wrong:
            raise ServeError(f"serve_model: the parameter {wrong[0]!r} is of a dtype that labnet lacks")
        self._state = None if optimizer is None else optimizer.init(self.params)
        self._evaluate = jax.jit(self._computed, static_argnames="training")
        self._forward = jax.jit(self._differentiated, static_argnames=("training", "wanted"))
        self._backward = jax.jit(lambda vjp, gradients: vjp(gradients))
        self._update = jax.jit(self._updated)

    def _computed(self, params: Any, inputs: Any, named: Any, *, training: bool) -> Any:
        mode = {"training": training} if self._takes_mode else {}
        first = (params,) if self._has_params else ()
        return self._function(*first, *inputs, **named, **mode)

    def _differentiated(self, params: Any, inputs: Any, named: Any, *, training: bool, wanted: Any) -> Any:
        """Return outputs and their vjp for the floating parameters and the inputs whose gradients are wanted."""
        flat, tree = jax.tree_util.tree_flatten((inputs, named))
        leaves, params_tree = jax.tree_util.tree_flatten(params)
        trained = [leaf for leaf in leaves if _is_floating(leaf)]

        def of(trained: Any, chosen: Any) -> Any:
            own, given = iter(trained), iter(chosen)
            whole = [next(own) if _is_floating(leaf) else leaf for leaf in leaves]
            values = [next(given) if is_wanted else value for value, is_wanted in zip(flat, wanted, strict=True)]
            inputs, named = jax.tree_util.tree_unflatten(tree, values)
            return self._computed(jax.tree_util.tree_unflatten(params_tree, whole), inputs, named, training=training)

        chosen = [value for value, is_wanted in zip(flat, wanted, strict=True) if is_wanted]
        return jax.vjp(of, trained, chosen)

    def call(
        self, inputs: Sequence[Array], named: Mapping[str, Array], *, training: bool, wanted: Sequence[bool] | None
    ) -> tuple[Any, Any]:
        """Call the function, with its vjp if a gradient is wanted."""
        given = tuple(map(jnp.asarray, inputs)), {name: jnp.asarray(array) for name, array in named.items()}
        if wanted is None:
            return _host(self._evaluate(self.params, *given, training=training)), None
        order = list(range(len(wanted)))
        order[len(inputs) :] = sorted(order[len(inputs) :], key=lambda place: list(named)[place - len(inputs)])  # JAX's
        outputs, vjp = self._forward(
            self.params, *given, training=training, wanted=tuple(wanted[place] for place in order)
        )
        positions = [place for place in order if wanted[place]]
        return _host(outputs), Record(vjp, outputs, positions, len(wanted))

    def pull_back(self, record: Record, gradients: Any) -> tuple[Sequence[Array | None], Mapping[str, Array]]:
        """Call the vjp of JAX."""
        whole = jax.tree_util.tree_map(
            lambda output, gradient: _cotangent(output, gradient),
            record.outputs,
            gradients if not isinstance(record.outputs, list) else list(gradients),
            is_leaf=lambda value: value is None,
        )
        trained, chosen = self._backward(record.vjp, whole)
        found: list[Array | None] = [None] * record.count
        for position, gradient in zip(record.positions, chosen, strict=True):
            found[position] = np.asarray(gradient)
        names = [
            name
            for name, leaf in zip(self._names, jax.tree_util.tree_leaves(self.params), strict=True)
            if _is_floating(leaf)
        ]
        return found, {name: np.asarray(gradient) for name, gradient in zip(names, trained, strict=True)}

    def parameters(self) -> Mapping[str, Array]:
        """Return the leaves of the parameters by their paths, such as ``layers.0.weight``."""
        leaves = jax.tree_util.tree_leaves(self.params)
        return {name: _array(leaf) for name, leaf in zip(self._names, leaves, strict=True)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace parameters."""
        leaves = jax.tree_util.tree_leaves(self.params)
        new = [
            jnp.array(state[name], leaf.dtype) if name in state else leaf
            for name, leaf in zip(self._names, leaves, strict=True)
        ]
        self.params = jax.tree_util.tree_unflatten(self._tree, new)

    def apply(self, gradients: Mapping[str, Array]) -> None:
        """Make one update with the transformation of optax."""
        leaves = jax.tree_util.tree_leaves(self.params)
        flat = [
            jnp.asarray(gradients[name]).astype(leaf.dtype) if name in gradients else jnp.zeros_like(leaf)
            for name, leaf in zip(self._names, leaves, strict=True)
        ]
        self.params, self._state = self._update(
            jax.tree_util.tree_unflatten(self._tree, flat), self._state, self.params
        )

    def _updated(self, gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
        changes, state = self._optimizer.update(gradients, state, params)
        return jax.tree_util.tree_map(
            lambda value, change: (value + change).astype(value.dtype), params, changes
        ), state

    def optimizer_state(self) -> Mapping[str, Array]:
        """Return the leaves of optax's state by their position."""
        return {
            str(position): np.array(_array(leaf))
            for position, leaf in enumerate(jax.tree_util.tree_leaves(self._state))
        }

    def load_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Replace optax's state.

        Raises
        ------
        ServeError
            If it is of another transformation.
        """
        leaves, tree = jax.tree_util.tree_flatten(self._state)
        if sorted(state, key=int) != [str(position) for position in range(len(leaves))]:
            raise ServeError(f"the stored state of optax has {len(state)} parts, this transformation has {len(leaves)}")
        new = [jnp.array(state[str(position)], leaf.dtype) for position, leaf in enumerate(leaves)]
        self._state = jax.tree_util.tree_unflatten(tree, new)


def adapt(model: Any, optimizer: Any, options: Options) -> JaxAdapter | None:
    """Return the adapter of a function of JAX; None for another model.

    A function is JAX's if it is compiled by `jax.jit`, has arrays of JAX as `params=`, or an optimizer of optax.

    Raises
    ------
    ServeError
        If optimizer and parameters do not go together.
    """
    is_optax = all(callable(getattr(optimizer, name, None)) for name in ("init", "update")) and isinstance(
        optimizer, tuple
    )
    is_jitted = isinstance(model, type(jax.jit(lambda: None)))
    if options.params is None and not is_optax and not is_jitted:
        return None
    if not callable(model) or isinstance(model, type):
        raise ServeError(
            f"serve_model: params= and optimizers of optax are for a function of JAX, function(params, x), got "
            f"{type(model).__name__} {model!r:.60}"
        )
    if is_optax and options.params is None:
        raise ServeError(
            "serve_model: an optimizer of optax trains params=, the first argument of a function of JAX, got "
            f"{type(model).__name__} {model!r:.60} without them"
        )
    options.refuse(model, "method", "vjp", "device")
    return JaxAdapter(model, options.params, optimizer if is_optax else None)


def _names(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _is_floating(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _array(leaf: Any) -> Array:
    """Return an array of JAX as one of NumPy, bfloat16 as float32."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array


def _host(outputs: Any) -> Any:
    """Return outputs as arrays."""
    if isinstance(outputs, Mapping):
        return {str(name): _checked(value) for name, value in outputs.items()}
    return tuple(map(_checked, outputs)) if isinstance(outputs, tuple | list) else _checked(outputs)


def _checked(value: Any) -> Array:
    if not isinstance(value, jax.Array):
        raise DTypeError(
            "a function of JAX that is served must return an array, or a tuple or dict of arrays, got "
            f"{type(value).__name__} {value!r:.60}"
        )
    return _array(value)


def _cotangent(output: Any, gradient: Any) -> Any:
    if not _is_floating(output):
        return np.zeros(output.shape, jax.dtypes.float0)
    return jnp.zeros_like(output) if gradient is None else jnp.asarray(gradient).astype(output.dtype)
