"""Arrays in the memory of a GPU, which NumPy's functions work on.

Where elements lie is said by an ordinary NumPy array, the layout, that nobody ever reads: its address is one on the
GPU. So shapes, strides, views and slices are NumPy's own. What is computed element by element is pending until
somebody needs the values, so that a whole expression becomes one kernel.
"""

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.accelerator import AcceleratorArray
from labnet.kernels.cuda.array.operators import Operators
from labnet.kernels.cuda.codegen import elementwise, expressions
from labnet.kernels.cuda.codegen.expressions import Node
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import Dtype
from labnet.kernels.cuda.driver.pool import Block, take

Host = np.ndarray[Any, Any]

#: Operations of one kernel: longer expressions are computed in parts.
LONGEST = 48
#: What answers NumPy for arrays of the GPU: "ufunc", "function", "read" and "write" of elements.
#: `labnet.kernels.cuda` fills it, for those functions need this module.
PROTOCOLS: dict[str, Callable[..., Any]] = {}


class _Place:
    """Tells NumPy where an array lies."""

    __slots__ = ("__array_interface__",)

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: Dtype):
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
        }


def layout_at(address: int, shape: tuple[int, ...], dtype: Dtype, strides: tuple[int, ...] | None = None) -> Host:
    """Return an array that says where elements lie; it must not be read."""
    return np.asarray(_Place(address, shape, strides, dtype))


#: Arrays that are still to be computed, of all threads, by identity: they have no use for equality.
_pending: "dict[int, weakref.ref[DeviceArray]]" = {}


def pending_arrays() -> "list[DeviceArray]":
    """Return the arrays that are still to be computed."""
    return [array for reference in list(_pending.values()) if (array := reference()) is not None]


class DeviceArray(Operators, AcceleratorArray):
    """An array on the GPU.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    base : DeviceArray or None
        The array whose memory this one is a view of.
    form : tuple
        Shape and strides, as a key: of elements that follow each other the shape alone.
    """

    __slots__ = ("__weakref__", "_address", "_block", "_layout", "_node", "base", "dtype", "form", "shape")
    __hash__ = object.__hash__
    shape: tuple[int, ...]
    dtype: Dtype
    base: "DeviceArray | None"
    form: tuple[Any, ...]
    _address: int
    _block: Block | None
    _layout: Host | None
    _node: Node | None

    # How one is made

    @classmethod
    def empty(cls, shape: Any, dtype: Dtype) -> "DeviceArray":
        """Return an array of whatever is in memory."""
        if type(shape) is not tuple:
            shape = (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape))
        size = dtype.itemsize
        for length in shape:
            if type(length) is not int:
                return cls.empty(tuple(map(int, shape)), dtype)
            if length < 0:
                raise ValueError("negative dimensions are not allowed")
            size *= length
        self = cls.__new__(cls)
        self.shape = self.form = shape
        self.dtype, self.base, self._node, self._layout = dtype, None, None, None
        self._block = block = take(size)
        self._address = block.address
        return self

    @classmethod
    def pending(cls, node: Node, shape: tuple[int, ...]) -> "DeviceArray":
        """Return an array that will be computed where its values are needed."""
        self = cls.__new__(cls)
        self.shape = self.form = shape
        self.dtype, self.base, self._node = node.dtype, None, node
        self._layout = self._block = None
        me = id(self)
        _pending[me] = weakref.ref(self, lambda _: _pending.pop(me, None) and None)
        return self

    @classmethod
    def upload(cls, values: Host) -> "DeviceArray":
        """Return a copy of an array of the host."""
        values = np.ascontiguousarray(values).reshape(values.shape)
        self = cls.empty(values.shape, values.dtype)
        if values.size:
            machine().upload(self.address, values)
        return self

    @classmethod
    def filled(cls, shape: Any, value: Any, dtype: Dtype) -> "DeviceArray":
        """Return an array of one value."""
        self = cls.empty(shape, dtype)
        if not value and not np.signbit(value) and self.size:
            machine().clear(self.address, self.nbytes)
        else:
            elementwise.run(Node("constant", dtype, payload=value), self)
        return self

    def view_of(self, layout: Host) -> "DeviceArray":
        """Return a view of this array's memory, given where its elements lie."""
        self.settle()
        view = type(self).__new__(type(self))
        view.dtype, view._node, view._block = layout.dtype, None, self._block
        view.lie(layout)
        view.base = self if self.base is None else self.base
        return view

    def lie(self, layout: Host) -> None:
        """Take note of where the elements lie."""
        self.shape, self._layout, self._address = layout.shape, layout, elementwise.address(layout)
        self.form = layout.shape if layout.flags.c_contiguous else (layout.shape, layout.strides)

    # Where it is

    @property
    def is_pending(self) -> bool:
        """Whether the values are still to be computed."""
        return self._node is not None

    @property
    def layout(self) -> Host:
        """Where the elements lie; the values are there, or will be before whatever is launched next."""
        if self._node is not None:
            self.settle()
        return self.layout_of()

    def layout_of(self) -> Host:
        """Where the elements lie, which nothing is pending of any more, or which are being computed."""
        layout = self._layout
        if layout is None:
            layout = self._layout = layout_at(self._address, self.shape, self.dtype)
        return layout

    @property
    def address(self) -> int:
        """Where the first element lies."""
        if self._node is not None:
            self.settle()
        return self._address

    def settle(self) -> "DeviceArray":
        """Compute what is pending, and return this array."""
        if self._node is not None:
            with machine().gate:
                node = self._node
                if node is not None:
                    self._block = block = take(self.nbytes)
                    self._address, self._layout = block.address, None
                    elementwise.run(node, self)
                    self._node = None
                    _pending.pop(id(self), None)
        return self

    def node(self) -> Node:
        """Return the expression of the elements: the pending one, or a leaf."""
        return self._node or Node("leaf", self.dtype, payload=self.settle())

    def operand(self, shape: tuple[int, ...]) -> Node:
        """Return the expression as a part of one of another shape; what would be computed often is computed first."""
        node = self._node
        if node is not None and (node.size > LONGEST or self.shape != shape):
            self.settle()
            node = None
        return Node("leaf", self.dtype, payload=self.settle()) if node is None else node

    # What NumPy's arrays have too

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next along each dimension."""
        return self.layout.strides

    @property
    def flags(self) -> Any:
        """Whether the elements follow each other, the memory is its own, and may be written."""
        owned = self.owns_memory and self.base is None
        return SimpleNamespace(c_contiguous=self.is_in_rows, contiguous=self.is_in_rows, owndata=owned, writeable=True)

    @property
    def owns_memory(self) -> bool:
        """Whether the memory is of labnet's pool, and not of another library."""
        return type(self._block) is Block

    @property
    def is_in_rows(self) -> bool:
        """Whether the elements follow each other in memory."""
        return self.form is self.shape or self.form == self.shape

    @property
    def T(self) -> "DeviceArray":  # noqa: N802
        """View with the dimensions in opposite order."""
        return self.view_of(self.layout.T)

    @property
    def mT(self) -> "DeviceArray":  # noqa: N802
        """View with the last two dimensions swapped."""
        return self.view_of(self.layout.mT)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def reshape(self, *shape: Any, copy: bool | None = None) -> "DeviceArray":
        """Return the elements in another shape: a view where that is possible."""
        wanted = shape[0] if len(shape) == 1 else shape
        if self._node is not None and isinstance(wanted, tuple) and wanted == self.shape:
            return self
        if not copy:
            try:
                return self.view_of(np.reshape(self.layout, wanted, copy=False))
            except ValueError:
                if copy is False:
                    raise
        target = resolved(wanted, self.size)
        fresh = self.copy()
        return fresh.view_of(fresh.layout.reshape(target, copy=False)) if target != self.shape else fresh

    def in_rows(self) -> "DeviceArray":
        """Return the elements one after the other in memory: this array, where they are."""
        return self.settle() if self.is_in_rows else self.copy()

    def ravel(self) -> "DeviceArray":
        """Return the elements in one dimension."""
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> "DeviceArray":
        """Return a view with the dimensions in another order."""
        return self.view_of(self.layout.transpose(*axes))

    def astype(self, dtype: Any, *, copy: bool = True) -> "DeviceArray":
        """Return the elements in another dtype."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype and not copy:
            return self
        if dtype == self.dtype:
            return self.copy()
        return DeviceArray.pending(expressions.cast(self.operand(self.shape), dtype), self.shape)

    def copy(self) -> "DeviceArray":
        """Return the elements in memory of their own, one after the other."""
        fresh = DeviceArray.empty(self.shape, self.dtype)
        if self.is_in_rows:
            if self.size:
                machine().copy(fresh.address, self.address, self.nbytes)
        else:
            elementwise.run(self.node(), fresh)
        return fresh

    def moved(self, views: "list[DeviceArray]") -> "list[DeviceArray]":
        """Return a copy of this array and of views of its memory, which share the memory of the copy."""
        layout = self.layout
        ends = [0, 0]
        for length, stride in zip(layout.shape, layout.strides, strict=True):
            ends[stride > 0] += (length - 1) * stride
        first = self.address + ends[0]
        count = (ends[1] - ends[0]) // self.itemsize + 1 if self.size else 0
        fresh = DeviceArray.empty((count,), self.dtype)
        if count:
            machine().copy(fresh.address, first, fresh.nbytes)
        found = []
        for array in (self, *views):
            at = fresh.address + (array.address - first if array.size else 0)
            found.append(fresh.view_of(layout_at(at, array.shape, array.dtype, array.strides)))
        return found

    def sum(self, axis: Any = None, **named: Any) -> Any:
        """Return the sum of the elements."""
        return np.sum(self, axis=axis, **named)

    def fill(self, value: Any) -> None:
        """Set every element."""
        self[...] = value

    def host(self) -> Host:
        """Return a copy in the memory of the host; it waits until the values are there."""
        source = self.in_rows()
        values = np.empty(self.shape, self.dtype)
        if values.size:
            machine().download(values, source.address)
        return values

    def wait(self) -> None:
        """Wait until the values are there."""
        self.settle()
        machine().synchronize()

    def item(self) -> Any:
        """Return the only element as a Python number."""
        return self.host().item()

    def tolist(self) -> Any:
        """Return the elements as nested lists."""
        return self.host().tolist()

    def __bool__(self) -> bool:
        return bool(self.host())

    def __float__(self) -> float:
        return float(self.host())

    def __int__(self) -> int:
        return int(self.host())

    def __index__(self) -> int:
        return self.host().__index__()

    def __repr__(self) -> str:
        return f"DeviceArray({self.host()!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Host:
        raise DeviceError("a tensor on 'cuda' cannot become a NumPy array by itself: use .to('cpu') first")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        gpu = machine()
        if gpu.simulated:
            raise AttributeError("__cuda_array_interface__: the simulator has no memory that others can reach")
        layout = self.layout
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.size else 0, False),
            "version": 3,
            "strides": None if layout.flags.c_contiguous else layout.strides,
            "stream": gpu.stream.value,
        }

    # Elements

    def __getitem__(self, key: Any) -> "DeviceArray":
        found: DeviceArray = PROTOCOLS["read"](self, key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        PROTOCOLS["write"](self, key, value)

    # Protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        return PROTOCOLS["ufunc"](ufunc, method, inputs, named)

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        return PROTOCOLS["function"](function, args, named)


def resolved(shape: Any, size: int) -> tuple[int, ...]:
    """Return a shape with the length -1 worked out, or complain as NumPy does."""
    found: tuple[int, ...] = np.broadcast_to(np.empty((), np.bool_), (size,)).reshape(shape, copy=None).shape
    return found
