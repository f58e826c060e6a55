"""Compiled kernels of the CPU: their names, and a loader that compiles them in the background.

Compiling takes seconds, and loading from the disk half a second. So the loader starts only after the process has
trained for a while, and NumPy computes until the kernels are ready. Results do not change: a kernel computes the same
bits as the NumPy code that it replaces.
"""

import atexit
import itertools
import threading
from collections.abc import Callable

#: Calls that NumPy computes before the kernels are loaded: less than a second of small steps.
PATIENCE = 200


class Kernel:
    """A function that is compiled in the background.

    Attributes
    ----------
    compiled : callable or None
        Takes the address of a tuple of arrays and some numbers; returns whether it computed. None until it is ready.
    """

    __slots__ = ("compiled", "name")

    def __init__(self, name: str):
        self.name = name
        self.compiled: Callable[..., int] | None = None


class Loader:
    """Compiles all kernels, or loads them from the disk, once per process."""

    def __init__(self, kernels: tuple[Kernel, ...]):
        self._kernels = kernels
        self._asked = itertools.count(1)
        self._lock = threading.Lock()
        self._done = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Count a call that a kernel could have computed, and start loading after the last of `PATIENCE`."""
        if next(self._asked) == PATIENCE and not self._done:
            self._thread = threading.Thread(target=self.load, name="labnet-kernels", daemon=True)
            atexit.register(self.stop)
            self._thread.start()

    def load(self) -> bool:
        """Compile or load the kernels, and return whether this machine has all of them."""
        with self._lock:
            if not self._done:
                self._done = True
                self._compile()
        return all(kernel.compiled is not None for kernel in self._kernels)

    def _compile(self) -> None:
        from labnet.kernels import blas

        if not blas.link():
            return
        from labnet.kernels import cpu

        if not cpu.layout_is_known():
            return
        for kernel in self._kernels:
            if self._stopped:
                return
            function, signature = cpu.KERNELS[kernel.name]
            function.compile(signature)
            function.disable_compile()
            kernel.compiled = function

    def stop(self) -> None:
        """Wait for the kernel under way and skip the rest, at the exit of the process."""
        self._stopped = True
        if self._thread is not None:
            self._thread.join()


layers_forward = Kernel("layers_forward")
layers_backward = Kernel("layers_backward")
relu_backward = Kernel("relu_backward")
tile_max = Kernel("tile_max")
tile_max_backward = Kernel("tile_max_backward")
sgd = Kernel("sgd")
sgd_with_momentum = Kernel("sgd_with_momentum")
adam = Kernel("adam")

_loader = Loader(
    (sgd, layers_forward, layers_backward, adam, sgd_with_momentum, relu_backward, tile_max, tile_max_backward)
)
ask = _loader.ask
load = _loader.load
