"""The adapter of torch: serves a `torch.nn.Module` and trains it with an optimizer of torch.

Every call keeps torch's graph. An update gives the parameters new memory, so the graphs of earlier calls keep the
weights that they were computed with, as those of labnet's models do.
"""

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from labnet.errors import DTypeError, GradientError, ServeError
from labnet.interop.torch.arrays import Array, from_host, to_host
from labnet.interop.torch.spare_memory import SpareMemory
from labnet.network.adapters.model_adapter import ModelAdapter, Options

#: The name of the part of an optimizer's state that is no tensor, as UTF-8 bytes.
_REST = "rest.json"


class Record:
    """The inputs and outputs of one call, with torch's graph between them."""

    __slots__ = ("inputs", "nbytes", "outputs")

    def __init__(self, inputs: list[torch.Tensor | None], outputs: list[torch.Tensor], nbytes: int):
        self.inputs = inputs
        self.outputs = outputs
        self.nbytes = nbytes


class TorchAdapter(ModelAdapter):
    """A module of torch, and its optimizer.

    Raises
    ------
    ServeError
        If the optimizer cannot train the module.
    """

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None, device: str | None = None):
        self.module = module
        self._optimizer = optimizer
        self._memory = SpareMemory()
        self.has_optimizer = optimizer is not None
        self.optimizer_name = "" if optimizer is None else f"torch.optim.{type(optimizer).__name__}"
        for name, parameter in module.named_parameters():
            if isinstance(parameter, torch.nn.parameter.UninitializedTensorMixin):
                raise ServeError(f"serve_model: the shape of {name!r} is not known yet: call the module once before")
            if parameter.is_complex():
                raise ServeError(f"serve_model: the parameter {name!r} is complex, which labnet has no tensors for")
        if device is not None:
            try:
                module.to(device)
            except (RuntimeError, AssertionError) as error:
                raise ServeError(f"serve_model: torch cannot move the module to {device!r}: {error}") from None
        if optimizer is not None:
            _check_optimizer(module, optimizer)
        self._trained = {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group["params"]}
        first = next(iter(module.parameters()), None)
        self._device = first.device if first is not None else torch.device(device or "cpu")

    def call(
        self, inputs: Sequence[Array], named: Mapping[str, Array], *, training: bool, wanted: Sequence[bool] | None
    ) -> tuple[Any, Any]:
        """Call the module, with a graph if a gradient is wanted."""
        given = [from_host(array, self._device) for array in (*inputs, *named.values())]
        names = dict(zip(named, given[len(inputs) :], strict=True))
        if wanted is None:
            with torch.no_grad(), self._mode(training):
                return _mapped(to_host, _outputs(self.module(*given[: len(inputs)], **names))), None
        for tensor, is_wanted in zip(given, wanted, strict=True):
            tensor.requires_grad_(is_wanted)
        saved = _Saved(self.module)
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, _unpack)
        with torch.enable_grad(), self._mode(training), hooks:
            outputs = _outputs(self.module(*given[: len(inputs)], **names))
        arrays = _mapped(to_host, outputs)
        flat = list(_leaves(outputs))
        leaves = [tensor if is_wanted else None for tensor, is_wanted in zip(given, wanted, strict=True)]
        return arrays, Record(leaves, flat, saved.nbytes)

    def pull_back(self, record: Record, gradients: Any) -> tuple[Sequence[Array | None], Mapping[str, Array]]:
        """Have torch compute the gradients of a call."""
        pairs = [
            (output, from_host(gradient).to(output.device, output.dtype))
            for output, gradient in zip(record.outputs, _leaves(gradients), strict=True)
            if gradient is not None
        ]
        reached = [pair for pair in pairs if pair[0].requires_grad]
        parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        leaves = [tensor for tensor in record.inputs if tensor is not None]
        targets = [*leaves, *parameters.values()]
        if not targets:
            return [None] * len(record.inputs), {}
        if not reached:
            raise GradientError(
                f"no output of the torch module {type(self.module).__name__} depends on its inputs or parameters by "
                "recorded operations, so no gradient can come back; leave out detach(), torch.no_grad() and .numpy()"
            )
        found = torch.autograd.grad(
            [output for output, _ in reached],
            targets,
            [gradient for _, gradient in reached],
            retain_graph=True,  # an update that fails is tried again
            allow_unused=True,
        )
        own = iter(found[: len(leaves)])
        inputs = [None if tensor is None else _host_or_none(next(own)) for tensor in record.inputs]
        trained = zip(parameters, found[len(leaves) :], strict=True)
        return inputs, {name: to_host(gradient) for name, gradient in trained if gradient is not None}

    def parameters(self) -> Mapping[str, Array]:
        """Return the parameters, on the CPU without a copy."""
        return {name: to_host(parameter) for name, parameter in self.module.named_parameters()}

    def buffers(self) -> Mapping[str, Array]:
        """Return copies of the persistent buffers."""
        names = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        state = self.module.state_dict()
        return {
            name: to_host(tensor).copy()
            for name, tensor in state.items()
            if name not in names and isinstance(tensor, torch.Tensor)
        }

    def aliases(self) -> Mapping[str, str]:
        """Return the further names of parameters that several layers share."""
        first = {id(parameter): name for name, parameter in self.module.named_parameters()}
        named = self.module.named_parameters(remove_duplicate=False)
        return {name: first[id(parameter)] for name, parameter in named if first[id(parameter)] != name}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Give parameters new memory with these values, and write buffers."""
        parameters = dict(self.module.named_parameters())
        buffers = dict(self.module.named_buffers())
        with torch.no_grad():
            for name, array in state.items():
                if name in parameters:
                    own = parameters[name]
                    own.data = from_host(array).to(own.device, own.dtype, copy=True)
                elif name in buffers:
                    buffers[name].copy_(from_host(array))

    def apply(self, gradients: Mapping[str, Array]) -> None:
        """Take a step of the optimizer on new memory of the parameters."""
        assert self._optimizer is not None, "it is called for an optimizer only"
        changed = [
            (name, parameter, gradients[name])
            for name, parameter in self.module.named_parameters()
            if name in gradients and id(parameter) in self._trained
        ]
        values = [parameter.data for _, parameter, _ in changed]
        # torch's own optimizers check their arguments before they change anything
        is_own = type(self._optimizer).__module__.startswith("torch.optim")
        state = None if is_own else deepcopy(self._optimizer.state_dict())
        try:
            for name, parameter, gradient in changed:
                parameter.data = self._memory.copy(name, parameter.data)
                parameter.grad = from_host(gradient).to(parameter.device, parameter.dtype)
            self._optimizer.step()
        except BaseException:
            self._memory.clear()
            for (_, parameter, _), value in zip(changed, values, strict=True):
                parameter.data = value
            if state is not None:
                self._optimizer.load_state_dict(state)
            raise
        finally:
            for _, parameter, _ in changed:
                parameter.grad = None

    def optimizer_state(self) -> Mapping[str, Array]:
        """Return copies of the state of the optimizer; numbers and texts in it as JSON."""
        if self._optimizer is None:
            return {}
        arrays: dict[str, Array] = {}
        rest: dict[str, dict[str, Any]] = {}
        for position, slots in self._optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, torch.Tensor):
                    arrays[f"{position}.{slot}"] = to_host(value).copy()
                else:
                    rest.setdefault(str(position), {})[slot] = value
        arrays[_REST] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        return arrays

    def load_optimizer_state(self, state: Mapping[str, Array]) -> None:
        """Replace the state of the optimizer."""
        if self._optimizer is None:
            return
        rest = json.loads(state[_REST].tobytes()) if _REST in state else {}
        slots: dict[int, dict[str, Any]] = {int(position): dict(values) for position, values in rest.items()}
        for name, array in state.items():
            if name != _REST:
                position, _, slot = name.partition(".")
                slots.setdefault(int(position), {})[slot] = from_host(array).clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def hyperparameters(self) -> dict[str, Any]:
        """Return the numbers of each parameter group, such as ``0.lr``."""
        return {
            f"{position}.{name}": value.item() if isinstance(value, torch.Tensor) else value
            for position, group in enumerate(getattr(self._optimizer, "param_groups", ()))
            for name, value in group.items()
            if isinstance(value, int | float | str | tuple | None) or _is_number(value)
        }

    def set_hyperparameters(self, numbers: Mapping[str, Any]) -> None:
        """Replace the numbers of the parameter groups."""
        groups = getattr(self._optimizer, "param_groups", [])
        for name, value in numbers.items():
            position, _, own = name.partition(".")
            group = groups[int(position)]
            if isinstance(group.get(own), torch.Tensor):
                group[own].fill_(value)
            else:
                group[own] = tuple(value) if isinstance(value, list) else value

    @contextlib.contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """Set training or evaluation mode for one call; parts that the user has frozen stay so in a training module."""
        if self.module.training == training and training:
            yield
            return
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.train(training)
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode


class _Saved:
    """Lets graphs keep the memory of parameters as it is at the call, and counts the rest of what they keep."""

    def __init__(self, module: torch.nn.Module):
        tensors = (*module.parameters(), *module.buffers())
        self._own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._seen: set[int] = set()
        self.nbytes = 0

    def pack(self, tensor: torch.Tensor) -> tuple[torch.Tensor, int | None]:
        """Return what a graph saves in place of a tensor; the tensor itself would refer to the graph."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._own:
            return tensor.data, None  # refers to this memory, also when the parameter is given another
        if place not in self._seen:
            self._seen.add(place)
            self.nbytes += storage.nbytes()
        return tensor.detach(), tensor._version


def _unpack(packed: tuple[torch.Tensor, int | None]) -> torch.Tensor:
    """Return a saved tensor after a check of its version, which torch omits for packed tensors."""
    tensor, version = packed
    if version is not None and tensor._version != version:
        raise GradientError(
            f"the torch module has changed a tensor of shape {tuple(tensor.shape)} in place that its backward needs: "
            f"it is at version {tensor._version}, expected {version}"
        )
    return tensor


def adapt(model: Any, optimizer: Any, options: Options) -> TorchAdapter | None:
    """Return the adapter of a module of torch; None for another model.

    Raises
    ------
    ServeError
        If torch's module or optimizer cannot be served in this way.
    """
    is_torchs = isinstance(optimizer, torch.optim.Optimizer)
    if not isinstance(model, torch.nn.Module):
        if is_torchs and not isinstance(model, type):
            raise ServeError(
                f"serve_model: a torch optimizer trains a torch.nn.Module, got {type(model).__name__} {model!r:.60}; "
                "serve the torch module itself, or train with an optimizer of labnet.optim"
            )
        return None
    options.refuse(model)
    return TorchAdapter(model, optimizer if is_torchs else None, options.device)


def _check_optimizer(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer).__name__
    own = {id(parameter) for parameter in module.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    others = sum(id(parameter) not in own for parameter in given)
    if others:
        raise ServeError(
            f"serve_model: {others} of the {len(given)} parameters of the optimizer {kind} are not the module's: make "
            f"it with torch.optim.{kind}(module.parameters())"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ServeError(
            f"serve_model: {kind} computes the loss several times in one step, but the loss is with the clients: use "
            "an optimizer whose step needs no closure, such as torch.optim.Adam"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise ServeError("serve_model: gradients arrive dense, which SparseAdam refuses: use torch.optim.Adam")


def _outputs(outputs: Any) -> Any:
    """Return the outputs of a module as a tensor, or a tuple or dict of tensors; None among them is left out."""
    if isinstance(outputs, Mapping):
        outputs = {str(name): value for name, value in outputs.items() if value is not None}
    elif isinstance(outputs, tuple | list):
        outputs = tuple(outputs)
    wrong = [value for value in _leaves(outputs) if not isinstance(value, torch.Tensor)]
    if wrong or not list(_leaves(outputs)):
        found = wrong[0] if wrong else outputs
        raise DTypeError(
            "a torch module that is served must return a tensor, or a tuple or dict of tensors, got "
            f"{type(found).__name__} {found!r:.60} in a {type(outputs).__name__}"
        )
    return outputs


def _leaves(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, Mapping):
        yield from outputs.values()
    elif isinstance(outputs, tuple):
        yield from outputs
    else:
        yield outputs


def _mapped(function: Callable[[Any], Any], outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return {name: function(value) for name, value in outputs.items()}
    return tuple(map(function, outputs)) if isinstance(outputs, tuple) else function(outputs)


def _host_or_none(tensor: torch.Tensor | None) -> Array | None:
    return None if tensor is None else to_host(tensor)


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 0
