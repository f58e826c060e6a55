"""Servers as modules of torch: torch's autograd sends the gradients."""

import asyncio
import math
from typing import Any

import torch

from labnet.autograd import Gradients, no_grad
from labnet.interop.torch.arrays import from_host, to_host
from labnet.network import RemoteModel
from labnet.network import remote_model as connect
from labnet.network.threads import IO
from labnet.tensor import Tensor, differentiate, on_host, wrap


class RemoteModule(torch.nn.Module):
    """A served model as a module of torch; made by `remote_module`.

    It has no parameters: those are on the server, and its optimizer trains them. A copy in another process, such as a
    worker of a `DataLoader`, connects by itself.

    Attributes
    ----------
    remote : labnet.network.RemoteModel
        The server, for its statistics and weights.
    """

    def __init__(self, url: str, **options: Any):
        super().__init__()
        self._url, self._options = url, options
        #: The server, for calls that wait, and for calls of several servers at the same time.
        self.remote: RemoteModel = connect(url, **options, blocking=True)
        self.concurrent: RemoteModel = connect(url, **options)
        #: Makes outputs require a gradient where no input does, since the server has parameters.
        self._anchor = torch.empty(0, requires_grad=True)

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.remote.url

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Compute one tensor, or several by name, on the server."""
        return _results([(self, inputs, named)])[0]

    def __reduce__(self) -> Any:
        return _connect_again, (self._url, self._options, self.training)

    def __deepcopy__(self, memo: Any) -> "RemoteModule":
        return _connect_again(self._url, self._options, self.training)

    def extra_repr(self) -> str:
        """Return the address."""
        return self.url


def remote_module(url: str, **options: Any) -> RemoteModule:
    """Connect to a served model as a `torch.nn.Module`, for training loops of torch.

    ``loss.backward()`` sends the gradient to the server and waits for its reply. Under `torch.no_grad`, or after
    ``eval()``, the server computes in evaluation mode and keeps nothing.

    Parameters
    ----------
    url : str
        Address of the server, as for `labnet.network.remote_model`.
    **options
        Its further arguments, such as ``token`` and ``timeout``.

    Returns
    -------
    RemoteModule
        Takes one tensor, or several by name; returns a tensor, or a dict of tensors.

    Examples
    --------
    >>> import torch, labnet as ln
    >>> with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ...     model = torch.nn.Sequential(torch.nn.Linear(3, 2), ln.interop.torch.remote_module(server.url))
    ...     model(torch.ones(4, 3)).sum().backward()
    ...     model[0].weight.grad.shape
    torch.Size([2, 3])
    """
    return RemoteModule(url, **options)


class Parallel(torch.nn.Module):
    """Several remote modules that compute the same inputs at the same time, forward and backward.

    Parameters
    ----------
    *modules : RemoteModule

    Examples
    --------
    >>> import torch, labnet as ln
    >>> with ln.network.serve_model(ln.exp, port=0) as one, ln.network.serve_model(ln.sin, port=0) as other:
    ...     both = Parallel(remote_module(one.url), remote_module(other.url))
    ...     [y.item() for y in both(torch.zeros(()))]
    [1.0, 0.0]
    """

    def __init__(self, *modules: RemoteModule):
        super().__init__()
        for module in modules:
            if not isinstance(module, RemoteModule):
                raise TypeError(f"Parallel: expected remote modules, got {type(module).__name__}")
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> tuple[Any, ...]:
        """Compute the inputs on every server; return the outputs in the order of the modules."""
        return tuple(_results([(part, inputs, named) for part in self.parts]))


def _connect_again(url: str, options: dict[str, Any], training: bool) -> RemoteModule:
    module = RemoteModule(url, **options)
    module.train(training)
    return module


_Asked = tuple[Any, tuple[torch.Tensor, ...], dict[str, torch.Tensor]]


def _results(asked: list[_Asked]) -> list[Any]:
    """Call several remote modules at the same time."""
    tensors = [tensor for _, inputs, named in asked for tensor in (*inputs, *named.values())]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"a remote module takes tensors of torch, got {type(tensor).__name__} {tensor!r:.60}")
    call = _Calls(asked)
    training = torch.is_grad_enabled() and all(part.training for part, _, _ in asked)
    if not training:
        with no_grad():
            return call.shaped(call.ask([False] * len(tensors)))
    anchors = [part._anchor for part, _, _ in asked]
    return call.shaped(_Remote.apply(call, *anchors, *tensors))


class _Calls:
    """The calls of several servers, with labnet's graphs until the backward."""

    def __init__(self, asked: list[_Asked]):
        self._asked = asked
        self.anchors = len(asked)
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._names: list[list[str] | None] = []

    def ask(self, wanted: list[bool]) -> tuple[torch.Tensor, ...]:
        """Send the inputs, and wait for all outputs."""
        given = [tensor for _, inputs, named in self._asked for tensor in (*inputs, *named.values())]
        self._inputs = [
            Tensor(wrap(to_host(tensor)), requires_grad=is_wanted and tensor.is_floating_point())
            for tensor, is_wanted in zip(given, wanted, strict=True)
        ]
        device = given[0].device if given else torch.device("cpu")
        own, results = iter(self._inputs), []
        for part, inputs, named in self._asked:
            positional = [next(own) for _ in inputs]
            remote = part.remote if len(self._asked) == 1 else part.concurrent
            results.append(remote(*positional, **{name: next(own) for name in named}))
        for result in results if len(results) == 1 else IO.run(_gathered(results)):
            self._names.append(list(result) if isinstance(result, dict) else None)
            self._outputs += result.values() if isinstance(result, dict) else [result]
        return tuple(from_host(on_host(output), device) for output in self._outputs)

    def shaped(self, flat: tuple[torch.Tensor, ...]) -> list[Any]:
        """Return the outputs of each call: a tensor, or a dict of tensors."""
        own = iter(flat)
        return [next(own) if names is None else {name: next(own) for name in names} for names in self._names]

    def send(self, gradients: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
        """Send the gradients of the outputs, and wait for those of the inputs."""
        pairs = [(y, g) for y, g in zip(self._outputs, gradients, strict=True) if g is not None and y.requires_grad]
        if not pairs:
            return [None] * len(self._inputs)
        device = pairs[0][1].device
        weighted = [(y, wrap(to_host(gradient))) for y, gradient in pairs]
        if len(weighted) == 1:
            found = differentiate(*weighted[0])
        else:
            total = weighted[0][0].new_zeros(())
            for output, gradient in weighted:
                total = total + (output * gradient).sum()
            found = differentiate(total, loss=math.nan)
        if found.is_pending:
            found = IO.run(_awaited(found))
        return [from_host(on_host(found[x]), device) if x in found else None for x in self._inputs]


async def _gathered(awaitables: list[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables)


async def _awaited(gradients: Gradients) -> Gradients:
    return await gradients


class _Remote(torch.autograd.Function):
    """The node of torch's graph for calls of servers."""

    @staticmethod
    def forward(context: Any, call: _Calls, *tensors: torch.Tensor) -> Any:
        outputs = call.ask(list(context.needs_input_grad[1 + call.anchors :]))
        context.call = call
        context.set_materialize_grads(False)
        context.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: torch.Tensor | None) -> Any:
        found = context.call.send(gradients)
        return None, *[None] * context.call.anchors, *found
