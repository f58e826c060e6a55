"""The declaration of an op: its implementation, its gradient rules and its test arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labnet.kernels.scalar_expression import Tree
from labnet.ops.core.axes import Kind
from labnet.tensor import Tensor

#: The array of a tensor argument in the body of an op, and array-likes that a caller may pass.
Array = Any
#: The vector-Jacobian product for one input: ``rule(g, out, *inputs, **static)``.
Rule = Callable[..., Tensor]


@dataclass(frozen=True)
class Sample:
    """Test arguments of an op: shapes of the inputs, and static arguments."""

    shapes: tuple[tuple[int, ...], ...]
    static: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Op:
    """A declared op.

    Attributes
    ----------
    name : str
        Name in the array API standard, or else in torch.
    forward : callable
        Implementation on arrays; for a composed op, the function itself.
    vjps : tuple of Rule or None
        One vector-Jacobian rule per input; empty if the op has no gradient or is composed.
    dtypes : tuple of str
        dtypes of inputs in tests; gradients are tested on the floating ones.
    domain : (float, float)
        Range of random test values.
    samples : tuple of Sample
        Shapes and static arguments for tests.
    gradients : tuple of bool
        For each input, whether it has a gradient.
    variadic : bool
        Whether the first argument is a sequence of tensors; one rule with a `position` serves all.
    view : bool
        Whether the output shares memory with the first input where NumPy's does.
    flops : callable or None
        Floating-point operations of one call, from ``(out, *inputs, **static)``; None for one per element.
    wide : bool
        Whether it computes in float32 for float16 arrays.
    is_composed : bool
        Whether it is written in other ops.
    tree : Tree or None
        The parsed scalar expression, once it was needed.
    parameters : dict of str to Any
        Names of all arguments, with their defaults.
    axes : dict of str to Kind
        Arguments that name dimensions.
    scalar : str or None
        What an elementwise op computes from one element of each input: an expression in the names of its arguments.
    ufunc : callable or None
        The function of NumPy that implements it, or for which it stands.
    is_primitive : bool
        Whether compiled code and GPU kernels have one operation for it. Other ops with a scalar expression are composed
        of the operations in it.
    is_custom : bool
        Whether a user has declared it, outside of the registry.
    is_joint : bool
        Whether one rule returns the gradients of all inputs.
    jvps : tuple of Rule or None
        One rule per input for the change of the output.
    is_public : bool
        Whether the top level exports it, unless its family is that of `labnet.nn`.
    is_method : bool
        Whether it is a method of `Tensor`.
    numbers : tuple of str
        Numeric arguments that are converted to Python numbers; NumPy scalars would decide the dtype of the result.
    function : callable
        The op on tensors.
    torch_form : callable or None
        The function for a call with ``dim=``, if torch gives the name another meaning, and for positional arguments.
    reads : tuple of str, or None
        For each rule, the names of the arguments whose elements it reads, ``out`` for the output. Graphs keep only the
        shape and dtype of others. None if the rules may read everything.
    kernels : tuple
        The cell of its function that holds its kernel, its plain kernel, and its counting one; for late declarations.
    """

    name: str
    forward: Callable[..., Array]
    vjps: tuple[Rule | None, ...]
    dtypes: tuple[str, ...]
    domain: tuple[float, float]
    samples: Sequence[Any]
    gradients: tuple[bool, ...]
    variadic: bool = False
    view: bool = False
    flops: Callable[..., int] | None = None
    is_composed: bool = False
    wide: bool = False
    scalar: str | None = None
    ufunc: Any = None
    is_primitive: bool = False
    is_custom: bool = False
    is_joint: bool = False
    jvps: tuple[Rule | None, ...] = ()
    is_public: bool = True
    is_method: bool = False
    tree: Tree | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Kind] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    torch_form: Callable[..., Any] | None = None
    reads: tuple[str, ...] | None = None
    _unread: dict[tuple[bool, ...], tuple[int, ...]] = field(default_factory=dict)
    function: Callable[..., Any] = field(init=False)
    kernels: tuple[Any, Any, Any] = field(init=False)

    @property
    def differentiable(self) -> bool:
        """Whether any input has a gradient."""
        return any(self.gradients)

    def unread(self, wanted: tuple[bool, ...]) -> tuple[int, ...]:
        """Return the positions of the inputs, and -1 for the output, whose elements no rule reads.

        Parameters
        ----------
        wanted : tuple of bool
            For each input, whether its gradient is wanted.
        """
        found = self._unread.get(wanted)
        if found is None:
            first, *others = self.parameters
            names = (first, *([first] if self.variadic else others) * len(wanted))[: len(wanted)]
            rules = (self.reads or ()) * (len(wanted) if self.variadic else 1)
            read = {name for one, each in zip(wanted, rules, strict=True) if one for name in each.split()}
            inputs = [position for position, name in enumerate(names) if name not in read]
            found = self._unread[wanted] = (*inputs, *(() if "out" in read else (-1,)))
        return found

    def count_flops(self, out: Any, *inputs: Any, **static: Any) -> int:
        """Return the floating-point operations of one call, by the op's rule or one per element."""
        if self.flops is not None:
            return int(self.flops(out, *inputs, **static))
        return 0 if self.view else max(np.size(array) for array in (out, *inputs))


def no_flops(*_: Any, **__: Any) -> int:
    """Return 0, for ops that only move values."""
    return 0
