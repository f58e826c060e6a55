"""Servers as functions of JAX, with a gradient by `jax.custom_vjp` and callbacks to the host."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from labnet.autograd import no_grad
from labnet.errors import GradientError
from labnet.network import RemoteModel, remote_model
from labnet.tensor import Tensor, differentiate, on_host, wrap

#: Most calls of one function that wait for their gradient.
_MOST = 1024


class RemoteFunction:
    """A served model as a function of JAX; made by `remote_function`.

    Attributes
    ----------
    remote : labnet.network.RemoteModel
        The server, for its statistics and weights.
    anchor : array
        An argument for training a server that no differentiated value is sent to.
    """

    def __init__(self, url: str, **options: Any):
        self.remote: RemoteModel = remote_model(url, **options, blocking=True)
        self.anchor = jnp.zeros(())
        self._shapes: dict[Any, Any] = {}
        self._numbers = itertools.count(1)
        self._calls: dict[int, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()
        self._function = jax.custom_vjp(self._evaluated)
        self._function.defvjp(self._forward, self._backward)

    def __call__(self, x: Any, anchor: Any = None) -> jax.Array:
        """Compute an array on the server.

        Parameters
        ----------
        x : array
        anchor : array, optional
            The attribute `anchor`, if a loss is differentiated with respect to it: the server is then trained even if
            `x` is data.
        """
        found: jax.Array = self._function(jnp.asarray(x), self.anchor if anchor is None else anchor)
        return found

    def _shape(self, x: Any) -> jax.ShapeDtypeStruct:
        """Return shape and dtype of the output; asks the server once for each shape, with zeros."""
        given = tuple(x.shape), np.dtype(x.dtype)
        if given not in self._shapes:
            output = self._ask(np.zeros(*given))
            self._shapes[given] = jax.ShapeDtypeStruct(output.shape, output.dtype)
        return self._shapes[given]

    def _ask(self, x: Any) -> np.ndarray[Any, Any]:
        with no_grad():
            return on_host(self.remote(wrap(np.asarray(x))))

    def _evaluated(self, x: Any, anchor: Any) -> Any:
        return io_callback(self._ask, self._shape(x), x, ordered=True)

    def _forward(self, x: Any, anchor: Any) -> Any:
        number = jax.ShapeDtypeStruct((), np.int32)
        output, call = io_callback(self._keep, (self._shape(x), number), x, ordered=True)
        return output, (call, jnp.zeros_like(x))  # residuals are arrays: this one has the shape of the input

    def _keep(self, x: Any) -> tuple[np.ndarray[Any, Any], Any]:
        given = Tensor(wrap(np.asarray(x)), requires_grad=np.asarray(x).dtype.kind == "f")
        output = self.remote(given)
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = given, output
            while len(self._calls) > _MOST:
                del self._calls[next(iter(self._calls))]
        return on_host(output), np.int32(number)

    def _backward(self, residuals: Any, gradient: Any) -> Any:
        call, like = residuals
        if not jnp.issubdtype(like.dtype, jnp.floating):
            io_callback(self._send, jax.ShapeDtypeStruct((), np.float32), call, gradient, ordered=True)
            return np.zeros(like.shape, jax.dtypes.float0), jnp.zeros(())
        found = io_callback(self._send, jax.ShapeDtypeStruct(like.shape, like.dtype), call, gradient, ordered=True)
        return found, jnp.zeros(())

    def _send(self, call: Any, gradient: Any) -> np.ndarray[Any, Any]:
        with self._lock:
            known = self._calls.pop(int(call), None)
        if known is None:
            raise GradientError(
                f"the gradient of this call of {self.remote.url} was sent before, or more than {_MOST} calls came "
                "after it: compute the forward again"
            )
        given, output = known
        found = differentiate(output, wrap(np.asarray(gradient)))
        if given in found:
            return on_host(found[given])
        return np.zeros(given.shape if given.requires_grad else (), given.dtype if given.requires_grad else np.float32)

    def __repr__(self) -> str:
        return f"RemoteFunction({self.remote.url})"


def remote_function(url: str, **options: Any) -> Callable[..., jax.Array]:
    """Connect to a served model as a function of JAX, with `jax.grad` and under `jax.jit`.

    The backward sends the gradient to the server, which trains its model. The function has an effect, so it cannot be
    used under `jax.vmap`: send a batch. For each new shape the server is asked once with zeros for that of its output.

    Parameters
    ----------
    url : str
        Address of the server, as for `labnet.network.remote_model`.
    **options
        Its further arguments, such as ``token`` and ``timeout``.

    Returns
    -------
    RemoteFunction
        Takes an array, and optionally its ``anchor``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, labnet as ln
    >>> with ln.network.serve_model(ln.square, port=0) as server:
    ...     f = ln.interop.jax.remote_function(server.url)
    ...     jax.grad(lambda x: f(x).sum())(jnp.asarray([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    return RemoteFunction(url, **options)
