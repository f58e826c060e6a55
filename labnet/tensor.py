"""The tensor: an array with the node of its computation.

Contains state and conversions only. `labnet.ops` attaches arithmetic through `labnet._methods`.
"""

import functools
import inspect
import itertools
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from copy import deepcopy
from importlib import import_module
from typing import Any

import numpy as np

from labnet import autograd, memory
from labnet._methods import Methods
from labnet.device import CPU, check_device
from labnet.device import _process_default as _defaults
from labnet.errors import AxisError, DeviceError, DTypeError, GradientError, ShapeError
from labnet.kernels.device_dispatch import copied, device_of, finished, is_on_gpu, moved
from labnet.pictures import describe_array
from labnet.stats import losses
from labnet.stats.collecting import active

#: dtypes of the array API standard's real scope, by name.
DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
_SUPPORTED = frozenset(DTYPES.values())

DTypeLike = str | np.dtype[Any] | type


class Size(int):
    """A number of elements, NumPy's ``x.size``; called, the lengths of the dimensions, torch's ``x.size()``."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None) -> Any:
        """Return the shape, or the length of one dimension."""
        if dim is not None and not -len(self.shape) <= dim < len(self.shape):
            raise AxisError(f"size: dimension {dim} is out of bounds for shape {self.shape}")
        return self.shape if dim is None else self.shape[dim]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **static: Any) -> Any:
        """Take part in NumPy's arithmetic as a Python number, which leaves the dtype to the arrays."""
        return getattr(ufunc, method)(*(int(x) if isinstance(x, Size) else x for x in inputs), **static)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


def size_of(shape: tuple[int, ...]) -> Size:
    """Return the number of elements of a shape."""
    size = Size(math.prod(shape))
    size.shape = shape
    return size


#: Called with an event and a tensor before its elements are read as numbers, shared or written.
#: A tracer refuses the event or returns a replacement.
witness: ContextVar[Callable[..., Any] | None] = ContextVar("labnet_witness", default=None)
_witness = witness.get
#: Nodes of tensors whose values were read as numbers, where this is recorded.
exported: ContextVar[list[autograd.Node] | None] = ContextVar("labnet_exported", default=None)
_exported = exported.get


_hook_numbers = itertools.count()
_RETAINED = -1


def tell(what: str, tensor: Any) -> None:
    """Call the witness of this context, if there is one."""
    told = _witness()
    if told is not None:
        told(what, tensor)
    elif (nodes := _exported()) is not None and what in ("numpy", "tolist") and tensor.node is not None:
        nodes.append(tensor.node)


#: Dtypes by their names, by themselves and by Python's types: NumPy derives the name of a dtype anew each time.
_dtypes: dict[Any, np.dtype[Any]] = {**DTYPES, **{each: each for each in DTYPES.values()}, float: DTYPES["float32"]}


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype object for a name, a NumPy dtype or a Python type.

    Python's ``float`` means float32 and ``int`` means int64, as everywhere in labnet.

    Raises
    ------
    DTypeError
        If labnet has no such dtype.

    Examples
    --------
    >>> as_dtype("int8"), as_dtype(float)
    (dtype('int8'), dtype('float32'))
    """
    try:
        return _dtypes[dtype]
    except (KeyError, TypeError):  # it is new, or has no hash
        pass
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise DTypeError(f"dtype {dtype!r} is unknown: expected one of {', '.join(DTYPES)}") from error
    if found.name not in DTYPES:
        raise DTypeError(f"dtype {found.name!r} is not supported: expected one of {', '.join(DTYPES)}")
    return DTYPES[found.name]


class Tensor(Methods):
    """An n-dimensional array that can record its computation.

    Parameters
    ----------
    data : array-like
        Numbers, nested sequences, NumPy arrays, tensors. Python floats become float32; NumPy arrays keep
        their dtype and share their memory.
    dtype : dtype, optional
        One of bool, int8..int64, uint8..uint64, float16, float32, float64.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default where `data` is if that is a tensor, else the one of `set_device`.
    requires_grad : bool
        Collect a gradient for this tensor on `backward`; floating dtypes only.

    Raises
    ------
    ShapeError, DTypeError, DeviceError, GradientError

    Examples
    --------
    >>> import labnet as ln
    >>> ln.Tensor([[1, 2], [3, 4]], dtype="float32") @ ln.Tensor([1.0, 1.0])
    Tensor([3., 7.], dtype=float32)
    """

    __slots__ = ("__weakref__", "array", "family", "node")
    __array_priority__ = 1000
    #: State for the modules of labnet. Users read elements with `numpy`, since a write here reaches recorded graphs.
    array: np.ndarray[Any, Any]
    node: autograd.Node | None
    family: Any  #: tensors with shared memory: see `labnet.memory`

    def __init__(
        self,
        data: Any,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ):
        if isinstance(data, Tensor):
            tell("copy", data)
        array = as_array(data, dtype=dtype)
        if device is not None or _defaults[0] is not CPU:
            array = moved(array, _place_for(data, device))
        self.array = array
        self.node = None
        self.family = None
        if requires_grad:
            self.requires_grad = True
        tell("made", self)

    # Properties

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.array.ndim

    @property
    def size(self) -> int:
        """Number of elements; ``x.size()`` is the shape, and ``x.size(0)`` the length of a dimension, as in torch."""
        return size_of(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the elements."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def device(self) -> str:
        """Device that holds the elements: ``"cpu"`` or ``"cuda"``."""
        return device_of(self.array)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.array.nbytes

    def __len__(self) -> int:
        if not self.ndim:
            raise ShapeError("len() of a 0-d tensor: expected at least one dimension")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        is_recorded = self.node is not None and autograd.is_recording()
        if self.ndim < 2 or is_recorded or _witness() is not None or active() or is_on_gpu(self.array):
            return (self[index] for index in range(len(self)))
        return memory.rows(self, wrap)  # neither recorded nor counted

    __eq__: Any
    __hash__ = object.__hash__

    # Gradients

    @property
    def requires_grad(self) -> bool:
        """Whether a backward through this tensor leads to a gradient."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None and not isinstance(self.node, autograd.Leaf):
            raise GradientError("requires_grad can be set on leaf tensors only: this one was computed; use detach()")
        if value and self.array.dtype.kind != "f":
            raise GradientError(f"only floating-point tensors can require gradients: this one is {self.dtype}")
        if value != self.requires_grad:
            if value:
                memory.unlink(self)
            self.node = autograd.Leaf(self) if value else None

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was not computed from others that require gradients."""
        return self.node is None or isinstance(self.node, autograd.Leaf)

    @property
    def grad(self) -> "Tensor | None":
        """Sum of this leaf's gradients over all backward calls since it was cleared; see `retain_grad` for others."""
        told = _witness()
        if told is not None:
            seen: Tensor | None = told("grad", self)
            return seen
        leaf = self.node
        if not isinstance(leaf, autograd.Leaf):
            hooked = None if leaf is None else autograd.hooks.get(leaf)
            retained: Tensor | None = None if hooked is None else hooked.grad
            return retained
        if leaf.grad is not None and type(leaf.grad) is not Tensor:  # an array until it is read
            leaf.grad = as_gradient(leaf.grad)
        found: Tensor | None = leaf.grad
        return found

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        if value is not None and (not isinstance(value, Tensor) or value.shape != self.shape):
            raise ShapeError(f"grad: expected None or a tensor of shape {self.shape}, got {_describe(value)}")
        if isinstance(self.node, autograd.Leaf):
            told = _witness()
            if told is not None:
                told("grad is set", self, value)
            else:
                self.node.grad = value
        elif value is not None:
            raise GradientError("grad can be set on leaf tensors that require gradients only")

    def detach(self) -> "Tensor":
        """Return the same values without history; memory is shared until one tensor is written."""
        told = _witness()
        if told is not None:
            found: Tensor = told("detach", self)
            return found
        return wrap(self.array)

    def register_hook(self, function: Callable[["Tensor"], Any]) -> "Hook":
        """Call a function with the gradient of this tensor in each backward; its result, unless None, replaces it.

        Returns
        -------
        Hook
            Its `remove` ends that.

        Raises
        ------
        GradientError
            If the tensor does not require gradients.

        Examples
        --------
        >>> import labnet as ln
        >>> x = ln.asarray([1.0, 2.0], requires_grad=True)
        >>> hook = x.register_hook(lambda gradient: gradient * 10)
        >>> (x * x).sum().backward()[x]
        Tensor([20., 40.], dtype=float32)
        """
        if self.node is None:
            raise GradientError("register_hook: the tensor does not require gradients")
        known = autograd.hooks.setdefault(self.node, autograd.Hooks())

        def hook(gradient: Any) -> Any:
            found = function(gradient if isinstance(gradient, Tensor) else as_gradient(gradient))
            return found.array if isinstance(found, Tensor) and not isinstance(gradient, Tensor) else found

        number = next(_hook_numbers)
        known.functions[number] = hook
        return Hook(self.node, number)

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in ``.grad``; leaves keep theirs anyway.

        Examples
        --------
        >>> import labnet as ln
        >>> x = ln.asarray([1.0, 2.0], requires_grad=True)
        >>> y = x * 3
        >>> y.retain_grad()
        >>> _ = (y * y).sum().backward()
        >>> y.grad
        Tensor([ 6., 12.], dtype=float32)
        """
        if isinstance(self.node, autograd.Leaf):
            return
        if self.node is None:
            raise GradientError("retain_grad: the tensor does not require gradients")
        known = autograd.hooks.setdefault(self.node, autograd.Hooks())

        def keep(gradient: Any) -> None:
            kept = as_gradient(gradient)
            known.grad = kept if known.grad is None else known.grad + kept

        known.functions[_RETAINED] = keep

    def backward(self, grad: Any = None, *, retain_graph: bool = False) -> autograd.Gradients:
        """Compute the gradient of this tensor with respect to every leaf it depends on.

        Parameters
        ----------
        grad : array-like, optional
            Gradient of a scalar with respect to this tensor, of the same shape; 1 for a scalar tensor.
        retain_graph : bool
            Keep the graph for another backward.

        Returns
        -------
        Gradients
            Mapping {leaf tensor: gradient of this call}. If the graph crosses the network, it must be awaited: ``grads
            = await loss.backward()``. The gradients are also added to ``.grad`` of the leaves.

        Raises
        ------
        GradientError
            If nothing here requires gradients, the graph was freed, or `grad` is missing.
        ShapeError
            If `grad` has another shape than the tensor.

        Examples
        --------
        >>> import labnet as ln
        >>> x = ln.asarray([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()[x]
        Tensor([2., 4.], dtype=float32)
        """
        told = _witness()
        if told is not None:
            traced: autograd.Gradients = told("backward", self, grad, retain_graph)
            return traced
        return differentiate(self, grad, retain_graph=retain_graph, accumulate=True)

    def backward_start(self, grad: Any, *, create_graph: bool = False) -> tuple[autograd.Node, "Tensor", autograd.Run]:
        """Check the start of a backward; return its node, its first gradient and the run."""
        if self.node is None:
            raise GradientError(
                "backward: nothing here requires gradients; set requires_grad=True on what is to be trained, "
                "and compute outside no_grad()"
            )
        array = self.array
        if grad is not None:
            seed = grad if isinstance(grad, Tensor) else wrap(as_array(grad, dtype=self.dtype))
            if seed.array.shape != array.shape:
                raise ShapeError(f"backward: grad has shape {seed.shape}, the tensor has shape {self.shape}")
            return self.node, seed, autograd.Run(create_graph=create_graph)
        if array.size != 1:
            raise GradientError(
                f"backward: a tensor of shape {self.shape} needs grad=, a tensor of the same shape; "
                "only a scalar can do without, such as a loss"
            )
        seed = wrap(_one(array.dtype) if array.ndim == 0 and type(array) is np.ndarray else np.ones_like(array))
        if losses.watches:
            losses.note(float(array.item()))
        loss = array.item() if type(array) is np.ndarray else array
        return self.node, seed, autograd.Run(loss=loss, create_graph=create_graph)

    # Conversions

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return a read-only NumPy view of the elements, also if they require gradients.

        The view never changes: the next update of the tensor writes to other memory.
        """
        tell("numpy", self)
        if is_on_gpu(self.array):
            raise DeviceError("numpy: the tensor is on 'cuda': bring it to the host with .to('cpu') first")
        view = self.array.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"a tensor of dtype {array.dtype} cannot become {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        namespace = import_module("labnet")
        if api_version not in (None, "2021.12", "2022.12", "2023.12", namespace.__array_api_version__):
            raise ValueError(
                f"array API version {api_version!r} is not supported: expected {namespace.__array_api_version__}"
            )
        return namespace

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule: read-only if the consumer supports it, else a copy.

        On a GPU memory is always shared, as libraries expect. Elements with negative strides are copied, because torch
        aborts the process on these.
        """
        if is_on_gpu(self.array):
            return self._dlpack_on_gpu(stream, max_version, dl_device, copy)
        readable = max_version is not None and max_version[0] >= 1
        if copy is False and not readable:
            raise BufferError("a tensor is exported read-only: without a copy the consumer needs DLPack 1.0")
        array = self.numpy()
        if copy or not readable or _needs_copy(array, copy):
            array = array.copy()
        return array.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device)

    def _dlpack_on_gpu(self, stream: Any, max_version: Any, dl_device: Any, copy: bool | None) -> Any:
        from labnet.kernels.cuda.array.dlpack import CUDA as GPU
        from labnet.kernels.cuda.array.dlpack import capsule

        if dl_device is not None and tuple(map(int, dl_device)) != (GPU, 0):
            raise BufferError(f"__dlpack__: the tensor is on 'cuda', device {dl_device} was asked for: use .to('cpu')")
        tell("numpy", self)
        array: Any = self.array
        array = array.copy() if copy or _needs_copy(array, copy) else array.materialize()
        return capsule(array, stream=stream, max_version=max_version, read_only=not copy)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Description of the GPU memory for other libraries; not available on the CPU."""
        if not is_on_gpu(self.array):
            raise AttributeError("__cuda_array_interface__: the tensor is on 'cpu'")
        tell("numpy", self)
        array: Any = self.array
        if any(stride < 0 for stride in array.strides):  # torch aborts the process
            raise AttributeError(
                f"__cuda_array_interface__: expected elements that lie forwards, got strides {array.strides}: "
                "use from_dlpack, which copies"
            )
        found: dict[str, Any] = array.__cuda_array_interface__
        return found

    def __dlpack_device__(self) -> tuple[int, int]:
        if is_on_gpu(self.array):
            return (2, 0)
        return self.array.__dlpack_device__()

    def item(self) -> Any:
        """Return the only element as a Python number.

        Raises
        ------
        ShapeError
            If there is not exactly one element.
        """
        tell("item", self)
        if self.array.size != 1:
            raise ShapeError(f"item: expected exactly one element, got shape {self.shape}")
        return self.array.item()

    def tolist(self) -> Any:
        """Return the elements as nested Python lists."""
        tell("tolist", self)
        return self.array.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        tell("__index__", self)
        if self.array.ndim or self.array.dtype.kind not in "iu":
            raise DTypeError(f"an index must be a 0-d integer tensor, got {_describe(self)}")
        return int(self.array.item())

    def __bool__(self) -> bool:
        tell("__bool__", self)
        if self.array.size != 1:
            raise ShapeError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous: expected exactly one element"
            )
        return bool(self.array.item())

    def to(
        self,
        *targets: Any,
        device: str | None = None,
        dtype: DTypeLike | None = None,
        non_blocking: bool = False,
        copy: bool = False,
    ) -> "Tensor":
        """Return the tensor on another device, or in another dtype.

        Parameters
        ----------
        *targets : str, dtype or tensor
            ``"cpu"`` or ``"cuda"``, a dtype as for `astype`, both, or a tensor with the device and dtype. Gradients are
            converted back. A tensor that already has these is returned itself.
        device, dtype
            The same by name.
        non_blocking : bool
            Accepted for torch's sake.
        copy : bool
            Return a copy in any case.

        Raises
        ------
        DeviceError
            If there is no such device here.
        """
        for target in targets:
            if isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str) and target not in DTYPES:
                device = target
            elif target is not None:
                dtype = target
        moved = self if device is None else self.to_device(device)
        if copy or (dtype is not None and as_dtype(dtype) != self.dtype):
            return moved.astype(self.dtype if dtype is None else dtype)
        return moved

    def to_device(self, device: str, /, *, stream: None = None) -> "Tensor":
        """Return the tensor on another device; the array API standard's form of `to`."""
        if stream is not None:
            raise ValueError(f"to_device: labnet has one stream per GPU and none on the CPU, got stream={stream!r}")
        device = check_device(device)
        if device == self.device:
            return self
        tell("to_device", self)
        array = moved(self.array, device)
        recorded = self.node is not None and autograd.is_recording()
        return wrap(array, Moved(self.node, self.device) if recorded else None)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the tensor to a safetensors file, under the name ``tensor``; `labnet.io.load` reads it.

        Examples
        --------
        >>> import tempfile, labnet as ln
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ln.ones(2).save(folder + "/ones.safetensors")
        ...     ln.io.load(folder + "/ones.safetensors")["tensor"].tolist()
        [1.0, 1.0]
        """
        import_module("labnet.io").save(path, {"tensor": self}, metadata)

    def assign(self, value: Any) -> "Tensor":
        """Write new values into a leaf tensor, such as a parameter, without recording it; return the tensor.

        Recorded graphs and exported arrays keep the old values; unrecorded views see the new ones.

        Raises
        ------
        ShapeError, DTypeError
            If `value` has another shape, or its dtype cannot be cast to this tensor's.
        GradientError
            If the tensor was computed.
        """
        if not self.is_leaf:
            raise GradientError("assign: only leaf tensors can be written; this one was computed; use detach()")
        told = _witness()
        array: Any = value if told is not None and isinstance(value, Tensor) else as_array(value)
        if array.shape != self.shape:
            raise ShapeError(f"assign: value has shape {array.shape}, the tensor has shape {self.shape}")
        if not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise DTypeError(f"assign: value has dtype {array.dtype}, the tensor has dtype {self.dtype}")
        if told is not None:
            told("assign", self, array)
            return self
        memory.overwrite(self, moved(array, self.device).astype(self.dtype, copy=True))
        return self

    def __repr__(self) -> str:
        tell("__repr__", self)
        numbers = np.array2string(moved(self.array, CPU), separator=", ", prefix="Tensor(", threshold=200, precision=5)
        suffix = ", requires_grad=True" if self.requires_grad else ""
        place = "" if self.device == CPU else f", device={self.device!r}"
        return f"Tensor({numbers}, dtype={self.dtype}{place}{suffix})"

    def _repr_html_(self) -> str:
        return describe_array(
            moved(self.array, CPU), device=self.device, requires_grad=self.requires_grad, text=repr(self)
        )

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __copy__(self) -> "Tensor":
        return self.detach()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a leaf: its values and whether it requires gradients."""
        if not self.is_leaf:
            raise GradientError("only leaf tensors can be copied into another process; this one was computed: detach()")
        tell("copy", self)
        return _leaf, (copied(moved(self.array, CPU)), self.device, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tensor":
        tell("copy", self)
        twin = Tensor(copied(self.array), device=self.device, requires_grad=self.requires_grad and self.is_leaf)
        memo[id(self)] = twin
        if self.grad is not None:
            twin.grad = deepcopy(self.grad, memo)
        return twin


class Hook:
    """The registration of a function with `Tensor.register_hook`."""

    def __init__(self, node: autograd.Node, number: int):
        self._node = weakref.ref(node)
        self._number = number

    def remove(self) -> None:
        """Call the function no more."""
        node = self._node()
        known = None if node is None else autograd.hooks.get(node)
        if known is not None:
            known.functions.pop(self._number, None)
            if not known.functions:
                del autograd.hooks[node]  # type: ignore[arg-type]


class Moved(autograd.Node):
    """The node of a copy to another device; its gradient is copied back."""

    __slots__ = ("_origin",)

    def __init__(self, parent: autograd.Node | None, origin: str):
        super().__init__((parent,))
        self._origin = origin

    def vjp(self, gradient: Any, run: autograd.Run) -> list[Any]:
        """Copy the gradient to the original device."""
        if isinstance(gradient, Tensor):
            return [gradient.to_device(self._origin)]
        return [moved(finished(gradient), self._origin)]


def _needs_copy(array: Any, copy: bool | None) -> bool:
    """Return whether DLPack consumers need a copy of an array; refuse if no copy is allowed."""
    if all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides):
        return False
    if copy is False:
        raise BufferError(
            f"__dlpack__: strides {array.strides} need a copy: expected multiples of {array.itemsize}, >= 0"
        )
    return True


def _place_for(data: Any, device: str | None) -> str:
    """Return the device for new data: the named one, else that of the data, else the default."""
    if device is not None:
        return check_device(device)
    if isinstance(data, Tensor):
        return data.device
    return device_of(data) if is_on_gpu(data) else check_device(None)


def _shared(data: Any) -> Any:
    """Wrap another library's GPU array without a copy."""
    from labnet.kernels.cuda.array.interchange import from_interface

    return from_interface(data)


def _leaf(array: np.ndarray[Any, Any], device: str, requires_grad: bool) -> Tensor:
    return Tensor(array, device=device, requires_grad=requires_grad)


def wrap(array: np.ndarray[Any, Any], node: autograd.Node | None = None) -> Tensor:
    """Make a tensor of a valid array without checks."""
    tensor = Tensor.__new__(Tensor)
    tensor.array = array
    tensor.node = node
    tensor.family = None
    return tensor


# infinite derivatives are results, not errors of the caller
_sweep_leaves = np.errstate(all="ignore")(autograd.sweep_leaves)


@functools.cache
def _one(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return the initial gradient of a scalar backward: one shared, read-only array."""
    one = np.ones((), dtype)
    one.flags.writeable = False
    return one


def differentiate(
    root: Tensor, grad: Any = None, *, retain_graph: bool = False, accumulate: bool = False, loss: float | None = None
) -> autograd.Gradients:
    """Compute the gradients of all leaves; see `Tensor.backward`.

    Parameters
    ----------
    accumulate : bool
        Also add the gradients to ``.grad`` of the leaves.
    loss : float, optional
        Value of the loss, if the backward started in another process.
    """
    node, seed, run = root.backward_start(grad)
    if loss is not None:
        run = autograd.Run(loss=loss)

    def collect(found: dict[autograd.Node, Any]) -> list[tuple[Tensor, Any]]:
        items = []
        for leaf, gradient in found.items():
            if isinstance(leaf, autograd.Leaf) and (owner := leaf.owner()) is not None:
                if accumulate:
                    if leaf.grad is None:
                        leaf.grad = gradient
                    elif leaf.grad.nbytes < memory.LARGE:
                        leaf.grad = leaf.grad + gradient
                    else:
                        leaf.accumulate(gradient)
                items.append((owner, gradient))
        return items

    done = _sweep_leaves(node, seed.array, run=run, retain_graph=retain_graph)
    if done is not None:
        return autograd.Gradients(collect(done), wrap=as_gradient)
    sweep = autograd.Sweep(node, seed.array, run=run)
    if not sweep.awaits:
        with np.errstate(all="ignore"):
            return autograd.Gradients(collect(autograd.sweep_now(sweep, retain_graph=retain_graph)), wrap=as_gradient)

    async def later() -> list[tuple[Tensor, Any]]:
        with np.errstate(all="ignore"):
            return collect(await autograd.sweep_async(sweep, retain_graph=retain_graph))

    return autograd.Gradients(pending=later, wrap=as_gradient)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor.

    Examples
    --------
    >>> is_tensor([1.0])
    False
    """
    return isinstance(value, Tensor)


def as_gradient(value: Any) -> Tensor:
    """Return a gradient as a new tensor, because vjps may share one array among several leaves."""
    return wrap(value.array if isinstance(value, Tensor) else finished(value))


def as_array(data: Any, *, dtype: DTypeLike | None = None) -> np.ndarray[Any, Any]:
    """Convert an array-like to a NumPy array, without a copy if possible.

    Raises
    ------
    ShapeError
        If nested sequences are ragged.
    DTypeError
        If the elements are not numbers or bools that labnet supports.
    """
    if type(data) is np.ndarray and data.dtype in _SUPPORTED and (dtype is None or data.dtype is as_dtype(dtype)):
        return data
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        own: np.ndarray[Any, Any] = data.array
        return own if wanted is None else finished(own.astype(wanted, copy=False))
    if is_on_gpu(data):
        there: np.ndarray[Any, Any] = data if wanted is None else finished(data.astype(wanted, copy=False))
        return there
    if hasattr(data, "__cuda_array_interface__"):
        return as_array(_shared(data), dtype=dtype)
    if inspect.isawaitable(data):
        _close(data)
        raise DTypeError(
            "asarray: this is not a tensor yet: it has to be awaited; write `await model(x)`, "
            "or use remote_model(..., blocking=True)"
        )
    try:
        if isinstance(data, list | tuple) and any(isinstance(item, Tensor) for item in data):
            arrays = [item if type(item) in (bool, int, float) else as_array(item) for item in data]
            dtype_of_all = np.result_type(*arrays)  # Python numbers adapt to it
            data = np.stack([np.asarray(item, dtype_of_all) for item in arrays])
        array = np.asarray(data)
    except ValueError as error:
        raise ShapeError(f"asarray: rows of different lengths cannot form a tensor: {error}") from None
    if wanted is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        wanted = DTYPES["float32"]
    if wanted is None:
        if array.dtype.name not in DTYPES:
            raise DTypeError(
                f"asarray: cannot make a tensor of {_describe(data)} (NumPy dtype {array.dtype}): "
                f"expected one of {', '.join(DTYPES)}"
            )
        wanted = DTYPES[array.dtype.name]
    if not np.can_cast(array.dtype, wanted, "unsafe") or array.dtype.kind not in "biuf":
        raise DTypeError(f"asarray: cannot make a tensor of {_describe(data)} with dtype {wanted}")
    return array.astype(wanted, copy=False)


def on_host(data: Any) -> np.ndarray[Any, Any]:
    """Return the NumPy array of an array-like on any device: a view that must not be written, or a copy."""
    if isinstance(data, Tensor) and data.device == CPU:
        return data.numpy()
    found: np.ndarray[Any, Any] = moved(as_array(data), CPU)
    return found


def _close(awaitable: Any) -> None:
    """Close a coroutine that is not awaited, because an error reports it."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r:.60}"
