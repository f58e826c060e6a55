"""Stand-ins for tensors while a function is traced, and the nodes of their graph."""

import linecache
import sys
import types
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from labnet import autograd
from labnet.compile.ir.values import Builder, DType, Shape, Value
from labnet.compile.native.frames import pause_for
from labnet.compile.trace.origins import instance_dict
from labnet.device import check_device
from labnet.errors import GradientError, ShapeError, TraceError
from labnet.ops.core import dispatch
from labnet.ops.core.declaration import Op
from labnet.ops.core.half_precision import HALF, widened_rule
from labnet.ops.methods import UNRECORDED, Data
from labnet.tensor import Tensor, size_of

_HOME = str(Path(__file__).parents[2])
#: Ways out, by what was called.
WAYS_OUT = {
    "__bool__": "a decision on traced values: use ln.where, or decide outside of the compiled function",
    "__float__": "a conversion to a Python number: return the tensor, and convert it outside",
    "__int__": "a conversion to a Python number: return the tensor, and convert it outside",
    "__index__": "a traced value as an index, or as a dimension: use ln.take, or a plain number",
    "item": "item(): return the tensor, and call item() outside; to use a number as it is now, read it before",
    "copy": "making a tensor of another one: use it as it is, or detach() or astype()",
    "tolist": "tolist(): return the tensor, and call tolist() outside",
    "numpy": "numpy(): it needs the elements of a tensor, which are not there yet: return it, and convert it outside",
    "__repr__": "printing a traced tensor: return it, and print it outside",
    "__format__": "formatting a traced tensor: return it, and format it outside",
}


def user_line() -> str:
    """Return the current line of user code, as ``file:line (source)``."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HOME):
        frame = frame.f_back
    name, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, number).strip()
    return f"{name}:{number}" + (f" ({text})" if text else "")


def refuse(what: str, line: str | None = None) -> NoReturn:
    """Raise `TraceError` for a line of user code: by default the current one."""
    line = user_line() if line is None else line
    error = TraceError(f"jit: cannot compile {what}" + (f"; at {line}" if line else ""))
    if isinstance(tracer := dispatch.current_tracer(), Refusing):
        tracer.refusal = tracer.refusal or error  # which the function may catch
    raise error


@runtime_checkable
class Refusing(Protocol):
    """A tracer that records its first refusal."""

    refusal: TraceError | None


class Tracer(Refusing, Protocol):
    """The operations of a trace that stand-ins, their nodes and optimizer states need."""

    device: str
    builder: Builder

    def stand_in(self, value: Value, node: autograd.Node | None = None) -> "Traced":
        """Return a tensor that stands for a value."""

    def lift(self, x: Any, dtype: DType | None = None) -> Any:
        """Return a stand-in for an operand."""

    def source(self, holder: Any, array: Any, key: int) -> tuple[Value, Value]:
        """Return the current value of a held array, and its value at the start of the run."""

    def backward(self, root: "Traced", grad: Any, *, retain_graph: bool) -> autograd.Gradients:
        """Record the gradients of the leaves of `root`."""


class Traced(Tensor):
    """A tensor without elements that stands for a value of a program."""

    __slots__ = ("tracer", "value")
    tracer: Tracer
    value: Value

    @property
    def array(self) -> Any:  # type: ignore[override]
        """Refuse access to the elements, which do not exist while tracing."""
        caller = sys._getframe(1).f_code.co_name
        refuse(WAYS_OUT.get(caller, f"{caller}(): it needs the elements of a tensor that is only traced"))

    @property
    def shape(self) -> Shape:
        """Lengths of the dimensions."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.value.shape)

    @property
    def size(self) -> int:
        """Number of elements; called, the lengths of the dimensions."""
        return size_of(self.value.shape)

    @property
    def dtype(self) -> DType:
        """Data type of the elements."""
        return self.value.dtype

    @property
    def requires_grad(self) -> bool:
        """Whether a backward through this tensor leads to a gradient."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise GradientError("requires_grad can be set on leaf tensors only: this one was computed; use detach()")
        if value and self.dtype.kind != "f":
            raise GradientError(f"only floating-point tensors can require gradients: this one is {self.dtype}")
        if value != self.requires_grad:
            self.node = autograd.Leaf(self) if value else None

    @property
    def device(self) -> str:
        """Device that the traced computation happens on."""
        return self.tracer.device

    def to_device(self, device: str, /, *, stream: None = None) -> Tensor:
        """Return the same tensor, since a compiled function stays on one device."""
        if check_device(device) != self.device:
            refuse(f"moving a tensor from {self.device!r} to {device!r}: do that outside of the compiled function")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes taken by the elements."""
        return self.value.nbytes

    def detach(self) -> Tensor:
        """Return the same values without their history."""
        return self.tracer.stand_in(self.value)

    def __copy__(self) -> Tensor:
        return self.detach()

    def backward_start(self, grad: Any, *, create_graph: bool = False) -> tuple[autograd.Node, Tensor, autograd.Run]:
        """Check the start of a backward; return its node, its first gradient and the run."""
        if self.node is None:
            raise GradientError("backward: nothing here requires gradients; set requires_grad=True on what is trained")
        if grad is None and self.size != 1:
            raise GradientError(f"backward: a tensor of shape {self.shape} needs grad=, a tensor of the same shape")
        tracer = self.tracer
        splat = tracer.builder.splat(1, self.shape, self.dtype)
        seed: Traced = tracer.stand_in(splat) if grad is None else tracer.lift(grad, self.dtype)
        if seed.shape != self.shape:
            raise ShapeError(f"backward: grad has shape {seed.shape}, the tensor has shape {self.shape}")
        return self.node, seed, autograd.Run(create_graph=create_graph)

    def backward(self, grad: Any = None, *, retain_graph: bool = False) -> autograd.Gradients:
        """Compute the gradients of all leaves; see `Tensor.backward`."""
        return self.tracer.backward(self, grad, retain_graph=retain_graph)


class TracedData(Data, Traced):
    """A stand-in for ``x.data``, whose writes are not recorded."""

    __slots__ = ()


UNRECORDED[Traced] = TracedData


def has_traced(found: Any, depth: int = 4) -> bool:
    """Return whether a list, tuple or dict contains stand-ins at any depth."""
    if isinstance(found, Traced) or not depth:
        return isinstance(found, Traced)
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else ()
    return any(has_traced(part, depth - 1) for part in parts)


def hides_traced(found: Any, depth: int = 3) -> bool:
    """Return whether a leaf of `flatten` contains stand-ins, or may yield them."""
    if isinstance(found, Traced) or not depth:
        return False
    if isinstance(found, types.GeneratorType | map | filter | zip):
        return True
    parts = (
        [*instance_dict(found).values()] if not isinstance(found, type | types.FunctionType | types.ModuleType) else []
    )
    if isinstance(found, types.FunctionType):
        parts += [cell.cell_contents for cell in found.__closure__ or () if cell != types.CellType()]
    if isinstance(found, dict):
        parts += found.values()
    elif isinstance(found, list | tuple | set | frozenset | deque):
        parts += found
    return any(isinstance(part, Traced) or hides_traced(part, depth - 1) for part in parts)


class TracedNode(autograd.Node):
    """A recorded op, with its operands."""

    __slots__ = ("op", "operands", "out", "static")

    def __init__(
        self, parents: Sequence[autograd.Node | None], op: Op, operands: Sequence[Any], out: Traced, static: Any
    ):
        super().__init__(parents)
        self.op = op
        self.operands = operands
        self.out = out
        self.static = static

    def vjp(self, gradient: Any, run: autograd.Run) -> list[Any]:
        """Apply the rules of the op, one per parent that needs a gradient."""
        tracer, dtype = self.out.tracer, self.out.dtype
        inputs = [tracer.lift(x, dtype) for x in self.operands]
        rules: Sequence[Any] = self.op.vjps
        if self.op.variadic:
            rules = [lambda *a, i=i, **s: self.op.vjps[0](*a, position=i, **s) for i in range(len(inputs))]  # type: ignore[misc]
        if self.op.is_joint:
            rules = dispatch.separate_rules(self.op.vjps[0], len(inputs))
        if dtype == HALF and not self.op.view:
            rules = [None if rule is None else widened_rule(rule, i) for i, rule in enumerate(rules)]
        gradients: list[Any] = []
        for rule, parent in zip(rules, self.parents or (), strict=True):
            if parent is None or rule is None:
                gradients.append(None)
                continue
            with pause_for(rule):
                if run.create_graph:
                    gradients.append(rule(gradient, self.out, *inputs, **self.static))
                else:
                    with autograd.no_grad():
                        gradients.append(rule(gradient, self.out.detach(), *inputs, **self.static))
        return gradients
