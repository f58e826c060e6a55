"""Models of other libraries as modules of labnet, whose updates, stores and statistics then apply to them."""

from collections.abc import Iterator, Mapping
from typing import Any

from labnet import memory
from labnet.autograd import Node, Run, is_recording
from labnet.errors import GradientError, ServeError
from labnet.network.adapters.model_adapter import Array, ModelAdapter
from labnet.network.client.remote_call import Output, Parts
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.optim.optimizer import watch
from labnet.tensor import Tensor, as_array, on_host, wrap

_SINGLE = ""


class AdaptedCall(Node):
    """One call of an adapted model; its backward is that of the library."""

    __slots__ = ("_adapter", "_form", "_names", "_record")

    def __init__(self, model: "AdaptedModule", inputs: list[Tensor], record: Any, form: Any):
        parameters = model.trainable()
        self.parents = (*(tensor.node for tensor in inputs), *(tensor.node for _, tensor in parameters))
        self._names = [name for name, _ in parameters]
        self._adapter, self._record, self._form = model.adapter, record, form

    def vjp(self, gradient: Parts, run: Run) -> list[Array | None]:
        """Have the library compute the gradients of the inputs and parameters."""
        if run.create_graph:
            raise GradientError(
                f"a gradient through {type(self._adapter).__name__} cannot be differentiated again by labnet"
            )
        given = {name: on_host(value) for name, value in gradient.gradients.items()}
        inputs, parameters = self._adapter.pull_back(self._record, _formed(self._form, given))
        if unknown := parameters.keys() - set(self._names):
            raise GradientError(f"{type(self._adapter).__name__}.pull_back: {min(unknown)!r} is no parameter")
        return [*inputs, *(parameters.get(name) for name in self._names)]

    def release(self) -> None:
        """Drop the record of the library."""
        super().release()
        self._record = None

    @property
    def nbytes(self) -> int:
        """Bytes that the library keeps for the backward."""
        return int(getattr(self._record, "nbytes", 0))


class AdaptedModule(Module):
    """A model of another library; its parameters are tensors with the values of the library's.

    Attributes
    ----------
    adapter : ModelAdapter
    """

    def __init__(self, adapter: ModelAdapter):
        super().__init__()
        self.__dict__.update(adapter=adapter, _mirrors={}, _frozen=frozenset())
        self.refresh()
        self.__dict__["_watcher"] = _Watcher(self)
        watch(self._watcher)

    adapter: ModelAdapter
    _mirrors: dict[str, Tensor]
    _watcher: "_Watcher"

    def trainable(self) -> list[tuple[str, Tensor]]:
        """Return the parameters by name."""
        return list(self._mirrors.items())

    def refresh(self) -> None:
        """Read the parameters from the library."""
        for name, array in self.adapter.parameters().items():
            known = self._mirrors.get(name)
            if known is None:
                self._mirrors[name] = Tensor(as_array(array), requires_grad=True)
            elif known.array is not array:
                memory.overwrite(known, array)

    def push(self) -> None:
        """Write the parameters to the library, after an optimizer of labnet has changed them."""
        self.adapter.load_state({name: on_host(tensor) for name, tensor in self._mirrors.items()})

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute the model, and record the call if a backward may follow."""
        given = [value if isinstance(value, Tensor) else wrap(as_array(value)) for value in (*inputs, *named.values())]
        wanted = tuple(tensor.requires_grad for tensor in given) if is_recording() else None
        arrays = [_read_only(tensor) for tensor in given]
        outputs, record = self.adapter.call(
            arrays[: len(inputs)],
            dict(zip(named, arrays[len(inputs) :], strict=True)),
            training=self.training,
            wanted=wanted,
        )
        flat = _flat(outputs)
        if wanted is None:
            return _formed(outputs, {name: wrap(as_array(array)) for name, array in flat.items()})
        call = AdaptedCall(self, given, record, outputs_form(outputs))
        return _formed(outputs, {name: _output(call, name, as_array(array)) for name, array in flat.items()})

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers as they are now, under all their names."""
        self.refresh()
        return super().saved_tensors()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Any:
        """Write the values of a state dict into the parameters and buffers of the library."""
        found = super().load_state_dict(state, strict)  # checks names and shapes
        own = {**self._mirrors, **self.adapter.buffers()}
        self.adapter.load_state({name: on_host(Tensor(state[name])) for name in own if name in state})
        self.refresh()
        return found

    def _named(
        self, group: str, prefix: str, *, saved: bool = False, recurse: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        if group == "_parameters":
            names = {**{name: name for name in self._mirrors}, **self.adapter.aliases()}
            yield from ((prefix + name, self._mirrors[first]) for name, first in names.items())
        elif group == "_buffers":
            yield from ((prefix + name, Tensor(array)) for name, array in self.adapter.buffers().items())

    def _describe(self) -> str:
        return type(self.adapter).__name__


class AdaptedOptimizer(Optimizer):
    """The optimizer of another library, for the parameters of an adapted model."""

    def __init__(self, module: AdaptedModule):
        super().__init__(0.0)
        self._module = module
        self._adapter = module.adapter

    @property
    def kind(self) -> str:
        """Name of the optimizer in a store."""
        return self._adapter.optimizer_name

    def __call__(self, gradients: Any) -> None:
        """Make one update."""
        names = {id(tensor): name for name, tensor in self._module.trainable()}
        self._adapter.apply({names[id(tensor)]: on_host(gradient) for tensor, gradient in gradients.items()})
        self._module.refresh()

    def hyperparameters(self) -> dict[str, Any]:
        """Return the numbers that define an update."""
        return self._adapter.hyperparameters()

    def set_hyperparameters(self, numbers: Mapping[str, Any]) -> None:
        """Replace these numbers."""
        self._adapter.set_hyperparameters(numbers)

    def snapshot(self) -> Any:
        """Return the state, for `restore`."""
        return dict(self._adapter.optimizer_state())

    def restore(self, snapshot: Any) -> None:
        """Replace the state by that of `snapshot`."""
        self._adapter.load_optimizer_state(snapshot)

    def state_dict(self, named_parameters: Any = None) -> dict[str, Tensor]:
        """Return the state by name."""
        return {name: Tensor(array) for name, array in self._adapter.optimizer_state().items()}

    def load_state_dict(self, state: Mapping[str, Any], named_parameters: Any = None) -> None:
        """Replace the state."""
        self._adapter.load_optimizer_state({name: on_host(tensor) for name, tensor in state.items()})

    def __repr__(self) -> str:
        return self.kind


def adapted(adapter: ModelAdapter, optimizer: Any) -> tuple[AdaptedModule, Any]:
    """Return an adapted model as a module, and its optimizer.

    Raises
    ------
    ServeError
        If an optimizer is given that is neither the library's nor labnet's.
    """
    module = AdaptedModule(adapter)
    if adapter.has_optimizer:
        return module, AdaptedOptimizer(module)
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ServeError(
            f"serve_model: {type(optimizer).__name__} cannot train this model: expected an optimizer of its own "
            "library, or of labnet.optim"
        )
    return module, optimizer if module.trainable() else None


class _Watcher:
    """Writes parameters to the library when an optimizer of labnet has changed them."""

    def __init__(self, module: AdaptedModule):
        self._module = module
        self._ids = frozenset(id(tensor) for _, tensor in module.trainable())

    def __call__(self, changed: frozenset[int]) -> None:
        if not self._ids.isdisjoint(changed):
            self._module.push()


def _read_only(tensor: Tensor) -> Array:
    """Return a tensor as an array; as a call is recorded, this takes no values out of the graph."""
    array = on_host(as_array(tensor)).view()
    array.flags.writeable = False
    return array


def _output(call: AdaptedCall, name: str, array: Array) -> Tensor:
    tensor = wrap(array)
    return wrap(array, Output(call, name, tensor)) if array.dtype.kind == "f" else tensor


def _flat(outputs: Any) -> dict[str, Any]:
    """Return outputs by name: their key or position, or nothing for a single one."""
    if isinstance(outputs, Mapping):
        return {str(key): value for key, value in outputs.items()}
    if isinstance(outputs, tuple | list):
        return {str(position): value for position, value in enumerate(outputs)}
    return {_SINGLE: outputs}


def outputs_form(outputs: Any) -> Any:
    """Return the form of outputs without their values."""
    if isinstance(outputs, Mapping):
        return dict.fromkeys(outputs)
    return (None,) * len(outputs) if isinstance(outputs, tuple | list) else None


def _formed(form: Any, flat: Mapping[str, Any]) -> Any:
    """Return values by name in the form of some outputs, with None for missing ones."""
    if isinstance(form, Mapping):
        return {key: flat.get(str(key)) for key in form}
    if isinstance(form, tuple | list):
        return tuple(flat.get(str(position)) for position in range(len(form)))
    return flat.get(_SINGLE)
