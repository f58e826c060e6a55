"""Arrays in the memory of a GPU: their layout, their memory and their pending expression.

The layout is a NumPy array that is never read, since its address is one on the GPU. So shapes, strides, views and
slices are NumPy's own. Elementwise results are pending until their values are needed, so that a whole expression
becomes one kernel.
"""

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.accelerator import AcceleratorArray
from labnet.kernels.array_operators import Operators
from labnet.kernels.cuda.codegen import elementwise, expressions
from labnet.kernels.cuda.codegen.expressions import Node
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype
from labnet.kernels.cuda.driver.pool import Block, allocate

Host = np.ndarray[Any, Any]

#: Maximum number of operations of one kernel; longer expressions are computed in parts.
LONGEST = 48
#: The functions behind NumPy's protocols: "ufunc", "function", and "read" and "write" at an index.
#: `labnet.kernels.cuda` fills the table, since they import this module.
PROTOCOLS: dict[str, Callable[..., Any]] = {}


class _Interface:
    """The array interface of an address, a shape and strides."""

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
    """Return the layout of elements at an address; it must not be read."""
    return np.asarray(_Interface(address, shape, strides, dtype))


#: Pending arrays of all threads, by identity, since arrays compare by element.
_pending: "dict[int, weakref.ref[DeviceArray]]" = {}


def pending_arrays() -> "list[DeviceArray]":
    """Return the pending arrays."""
    return [array for reference in list(_pending.values()) if (array := reference()) is not None]


class DeviceArray(Operators, AcceleratorArray):
    """An array on the GPU.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    base : DeviceArray or None
        The array whose memory this view shares.
    form : tuple
        Shape and strides, as a key; the shape alone if the array is C-contiguous.
    expression : Node or None
        The pending expression; None once the array is computed.
    block : Block or None
        The memory; None while the array is pending.
    allocated_address : int
        Address of the first element, without computing a pending expression: only for arrays that have memory.
    """

    __slots__ = ("__weakref__", "_layout", "allocated_address", "base", "block", "dtype", "expression", "form", "shape")
    __hash__ = object.__hash__
    shape: tuple[int, ...]
    dtype: Dtype
    base: "DeviceArray | None"
    form: tuple[Any, ...]
    allocated_address: int
    block: Block | None
    _layout: Host | None
    expression: Node | None

    # Construction

    @classmethod
    def empty(cls, shape: Any, dtype: Dtype) -> "DeviceArray":
        """Return an array with uninitialized elements."""
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
        self.dtype, self.base, self.expression, self._layout = dtype, None, None, None
        self.block = block = allocate(size)
        self.allocated_address = block.address
        return self

    @classmethod
    def pending(cls, node: Node, shape: tuple[int, ...]) -> "DeviceArray":
        """Return an array that is computed when its values are needed."""
        self = cls.__new__(cls)
        self.shape = self.form = shape
        self.dtype, self.base, self.expression = node.dtype, None, node
        self._layout = self.block = None
        me = id(self)
        _pending[me] = weakref.ref(self, lambda _: _pending.pop(me, None) and None)
        return self

    @classmethod
    def upload(cls, values: Host) -> "DeviceArray":
        """Return a copy of an array of the host."""
        values = np.ascontiguousarray(values).reshape(values.shape)
        self = cls.empty(values.shape, values.dtype)
        if values.size:
            current_gpu().upload(self.address, values)
        return self

    @classmethod
    def filled(cls, shape: Any, value: Any, dtype: Dtype) -> "DeviceArray":
        """Return an array of one value."""
        self = cls.empty(shape, dtype)
        if not value and not np.signbit(value) and self.size:
            current_gpu().clear(self.address, self.nbytes)
        else:
            elementwise.run(Node("constant", dtype, payload=value), self)
        return self

    def view_of(self, layout: Host) -> "DeviceArray":
        """Return a view of this array's memory with another layout."""
        self.materialize()
        view = type(self).__new__(type(self))
        view.dtype, view.expression, view.block = layout.dtype, None, self.block
        view.set_layout(layout)
        view.base = self if self.base is None else self.base
        return view

    def set_layout(self, layout: Host) -> None:
        """Set the layout of the elements."""
        self.shape, self._layout, self.allocated_address = layout.shape, layout, elementwise.address(layout)
        self.form = layout.shape if layout.flags.c_contiguous else (layout.shape, layout.strides)

    # Layout

    @property
    def is_pending(self) -> bool:
        """Whether the values are still to be computed."""
        return self.expression is not None

    @property
    def layout(self) -> Host:
        """Layout of the elements, whose computation has been launched."""
        if self.expression is not None:
            self.materialize()
        return self.allocated_layout()

    def allocated_layout(self) -> Host:
        """Return the layout of an array that has memory, also while its pending expression is launched."""
        layout = self._layout
        if layout is None:
            layout = self._layout = layout_at(self.allocated_address, self.shape, self.dtype)
        return layout

    @property
    def address(self) -> int:
        """Address of the first element."""
        if self.expression is not None:
            self.materialize()
        return self.allocated_address

    def materialize(self) -> "DeviceArray":
        """Compute the pending expression, if any, and return this array."""
        if self.expression is not None:
            with current_gpu().stream_lock:
                node = self.expression
                if node is not None:
                    self.block = block = allocate(self.nbytes)
                    self.allocated_address, self._layout = block.address, None
                    elementwise.run(node, self)
                    self.expression = None
                    _pending.pop(id(self), None)
        return self

    def node(self) -> Node:
        """Return the pending expression, or a leaf."""
        return self.expression or Node("leaf", self.dtype, payload=self.materialize())

    def operand(self, shape: tuple[int, ...]) -> Node:
        """Return the expression as an operand of one of another shape; compute it first if it would be repeated."""
        node = self.expression
        if node is not None and (node.size > LONGEST or self.shape != shape):
            self.materialize()
            node = None
        return Node("leaf", self.dtype, payload=self.materialize()) if node is None else node

    # Attributes and methods of NumPy's arrays

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
        """Whether the array is C-contiguous, owns its memory, and may be written."""
        owned = self.owns_memory and self.base is None
        return SimpleNamespace(
            c_contiguous=self.is_contiguous, contiguous=self.is_contiguous, owndata=owned, writeable=True
        )

    @property
    def owns_memory(self) -> bool:
        """Whether the memory is from labnet's pool, not from another library."""
        return type(self.block) is Block

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are C-contiguous."""
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
        """Return the elements in another shape, as a view if that is possible."""
        wanted = shape[0] if len(shape) == 1 else shape
        if self.expression is not None and isinstance(wanted, tuple) and wanted == self.shape:
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

    def contiguous(self) -> "DeviceArray":
        """Return the elements C-contiguous in memory: this array if it is contiguous, else a copy."""
        return self.materialize() if self.is_contiguous else self.copy()

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
        """Return a C-contiguous copy."""
        fresh = DeviceArray.empty(self.shape, self.dtype)
        if self.is_contiguous:
            if self.size:
                current_gpu().copy(fresh.address, self.address, self.nbytes)
        else:
            elementwise.run(self.node(), fresh)
        return fresh

    def moved(self, views: "list[DeviceArray]") -> "list[DeviceArray]":
        """Return copies of this array and of views of its memory, which share memory as the originals do."""
        layout = self.layout
        ends = [0, 0]
        for length, stride in zip(layout.shape, layout.strides, strict=True):
            ends[stride > 0] += (length - 1) * stride
        first = self.address + ends[0]
        count = (ends[1] - ends[0]) // self.itemsize + 1 if self.size else 0
        fresh = DeviceArray.empty((count,), self.dtype)
        if count:
            current_gpu().copy(fresh.address, first, fresh.nbytes)
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
        """Wait for the values, and return a copy in the memory of the host."""
        source = self.contiguous()
        values = np.empty(self.shape, self.dtype)
        if values.size:
            current_gpu().download(values, source.address)
        return values

    def wait(self) -> None:
        """Wait for the values."""
        self.materialize()
        current_gpu().synchronize()

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
        gpu = current_gpu()
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
    """Return a shape with -1 replaced by its length, or raise the error of NumPy."""
    found: tuple[int, ...] = np.broadcast_to(np.empty((), np.bool_), (size,)).reshape(shape, copy=None).shape
    return found
