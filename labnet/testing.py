"""Checks of ops that users declare: `check` finds a wrong rule, with the place and both numbers."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.autograd import no_grad
from labnet.compile import jit
from labnet.device import CPU, CUDA
from labnet.errors import DeviceError, TraceError
from labnet.kernels.device_dispatch import moved
from labnet.ops import Op, Sample, grad
from labnet.ops.core.registry import compute_scalar
from labnet.ops.custom import op_of
from labnet.tensor import Tensor, wrap

#: Steps of differences in float64, and accepted errors of values, first and second gradients.
_STEPS = {1: 1e-6, 2: 1e-5}
_TOLERANCES = {0: 1e-5, 1: 1e-5, 2: 1e-4}
Values = np.ndarray[Any, Any]


def check(
    op: Callable[..., Any],
    samples: Sequence[Any] | None = None,
    *,
    domain: tuple[float, float] | None = None,
    order: int = 2,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check an op, such as one that `labnet.op` made: on the CPU, compiled, and on a GPU if there is one.

    Values and dtypes are compared with the scalar expression, gradients with differences, and compiled code and the GPU
    with the eager op.

    Parameters
    ----------
    op : callable
    samples : sequence, optional
        Arguments of calls: for each tensor its shape, for random elements, or its values.
    domain : (float, float), optional
        Range of random elements, by default from -2 to 2; those near zero are left out.
    order : int
        Highest order of gradients to compare with differences. Give 0 for a gradient that is not that of the values on
        purpose, and 1 for rules that cannot be differentiated.
    seed : int

    Returns
    -------
    tuple of str
        What was checked, and what was not.

    Raises
    ------
    AssertionError
        With the place and both numbers, at the first difference.

    Examples
    --------
    >>> import labnet as ln
    >>> wrong = ln.custom_vjp(ln.square, lambda g, out, x: 3 * g * x)
    >>> ln.testing.check(wrong, [([2.0],)])
    Traceback (most recent call last):
    AssertionError: square: first gradient of input 0 at (0,): the rule gives 6.0, differences give 4.0...
    """
    checks = _Checks(op_of(op), domain, np.random.default_rng(seed))
    cases = [checks.drawn(sample) for sample in (samples or checks.op.samples or checks.default_samples())]
    for case in cases:
        checks.values(case)
    found = ["values and dtypes"]
    if checks.op.differentiable:
        for number, word in zip(range(1, order + 1), ("first", "second"), strict=False):
            for case in cases:
                checks.slopes(number, word, case)
            found.append(f"{word} gradients")
    if any(rule is not None for rule in checks.op.jvps):
        for case in cases:
            checks.changes(case)
        found.append("jvp")
    return (*found, checks.compiled(cases[0]), checks.on_gpu(cases[0]))


class _Checks:
    """The checks of one op."""

    def __init__(self, op: Op, domain: tuple[float, float] | None, random: np.random.Generator):
        self.op, self._domain, self._random = op, domain or op.domain, random
        #: Whether other ops say what it computes.
        self._is_expressed = op.scalar is not None and not op.is_primitive

    def default_samples(self) -> list[Any]:
        """Return shapes: also broadcast ones for a scalar expression."""
        count = len(self.op.gradients)
        if self.op.scalar is None:
            return [((3, 4),) * count, ((4,),) * count]
        uneven = [tuple(((3, 1), (4,))[at % 2] for at in range(count))] if count > 1 else []
        return [((3, 4),) * count, *uneven, ((),) * count, ((0, 2),) * count]

    def drawn(self, sample: Any) -> tuple[list[Values], dict[str, Any]]:
        """Return the arrays of a sample, and its static arguments."""
        static = sample.static if isinstance(sample, Sample) else {}
        given = sample.shapes if isinstance(sample, Sample) else sample
        if len(given) != len(self.op.gradients):
            raise ValueError(f"{self.op.name}: a sample needs {len(self.op.gradients)} entries, got {given!r:.80}")
        return [self._array(one) for one in given], static

    def _array(self, given: Any) -> Values:
        if isinstance(given, Tensor):
            return np.array(moved(given.array, CPU), "float64")
        if not isinstance(given, tuple) or not all(isinstance(length, int) for length in given):
            return np.array(given, "float64")
        low, high = self._domain
        drawn = self._random.uniform(low, high, given)
        return np.asarray(drawn + np.where(drawn < 0, -0.05, 0.05) * (low < 0 < high))

    # Values

    def values(self, case: tuple[list[Values], dict[str, Any]]) -> None:
        """Compare values and dtypes with the scalar expression, or float32 with float64."""
        arrays, static = case
        with np.errstate(all="ignore"):
            expected = self._expected(arrays, static)
            for dtype in ("float32", "float64"):
                given = [a.astype(dtype) for a in arrays]
                kept = [a.copy() for a in given]
                out = self._call(given, static)
                if out.dtype.kind == "f" and out.dtype != dtype:
                    raise AssertionError(f"{self.op.name}: inputs of {dtype} give {out.dtype}")
                for position, (array, before) in enumerate(zip(given, kept, strict=True)):
                    if not np.array_equal(array, before, equal_nan=True):
                        raise AssertionError(f"{self.op.name}: it writes to its input {position}")
                other = "its scalar expression" if self._is_expressed else "the op in float64"
                self._compare(f"value in {dtype}", "the op", other, out, expected, 0)

    def _expected(self, arrays: list[Values], static: dict[str, Any]) -> Any:
        if not self._is_expressed:
            return self._call([a.copy() for a in arrays], static)
        return np.asarray(compute_scalar(self.op, arrays, static, lambda op: op.forward))

    def _call(self, arrays: Sequence[Any], static: dict[str, Any]) -> Any:
        with no_grad():
            return self.op.function(*[wrap(a) for a in arrays], **static).array

    def _compare(self, what: str, left: str, right: str, got: Any, expected: Any, order: int) -> None:
        """Raise for the first pair of elements that differs."""
        if np.shape(got) != np.shape(expected):
            shapes = f"{left} gives shape {np.shape(got)}, {right} shape {np.shape(expected)}"
            raise AssertionError(f"{self.op.name}: {what}: {shapes}")
        tolerance = _TOLERANCES[order]
        near = np.isclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, _greatest(expected)), equal_nan=True)
        if not np.all(near):
            place = tuple(int(i) for i in np.argwhere(~near)[0])
            numbers = f"{left} gives {float(got[place])!r}, {right} {_plural(right)} {float(expected[place])!r}"
            raise AssertionError(f"{self.op.name}: {what} at {place}: {numbers}")

    # Gradients

    def slopes(self, order: int, word: str, case: tuple[list[Values], dict[str, Any]]) -> None:
        """Compare gradients with central differences of values, or of first gradients."""
        arrays, static = case
        weights = self._random.uniform(0.5, 1.5, self._call(arrays, static).shape)
        probes = [self._random.uniform(0.5, 1.5, a.shape) for a in arrays]

        def total(given: list[Any]) -> Tensor:
            out = self.op.function(*given, **static)
            if order == 1:
                first: Tensor = (out * weights).sum()
                return first
            wanted = [x for x in given if x.requires_grad]
            found = grad((out * out * weights).sum(), wanted, create_graph=True)
            kept = [probe for probe, x in zip(probes, given, strict=True) if x.requires_grad]
            parts: list[Tensor] = [(part * probe).sum() for part, probe in zip(found, kept, strict=True)]
            return functools.reduce(operator.add, parts)

        tensors = self._leaves(arrays)
        leaves = [x for x in tensors if x.requires_grad]
        result = total(tensors)
        found = grad(result, leaves) if result.requires_grad else [Tensor(np.zeros(x.shape)) for x in leaves]
        got = dict(zip(map(id, leaves), found, strict=True))
        for position, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
            if not tensor.requires_grad:
                continue
            expected = np.zeros(array.shape)
            for place in np.ndindex(array.shape):
                step = _STEPS[order] * max(1.0, abs(float(array[place])))
                ends = []
                for change in (step, -step):
                    moved_arrays = [a.copy() for a in arrays]
                    moved_arrays[position][place] += change
                    ends.append(total(self._leaves(moved_arrays)).item())
                expected[place] = (ends[0] - ends[1]) / (2 * step)
            # undo the weights where one output belongs to one input, so that the numbers are those of the rule
            scale = weights if order == 1 and weights.shape == array.shape and len(arrays) == 1 else 1.0
            slope = np.asarray(got[id(tensor)].array)
            what = f"{word} gradient of input {position}"
            self._compare(what, "the rule", "differences", slope / scale, expected / scale, order)

    def _leaves(self, arrays: Sequence[Values], dtype: str = "float64", device: str = CPU) -> list[Tensor]:
        pairs = zip(arrays, self.op.gradients, strict=True)
        found = [(Tensor(moved(np.array(a, dtype, order="C"), device)), flag) for a, flag in pairs]
        for tensor, flag in found:
            tensor.requires_grad = flag
        return [tensor for tensor, _ in found]

    def changes(self, case: tuple[list[Values], dict[str, Any]]) -> None:
        """Compare the jvp rules with differences along random directions."""
        arrays, static = case
        out = self._call(arrays, static)
        for position, rule in enumerate(self.op.jvps):
            if rule is None:
                continue
            change = self._random.uniform(0.5, 1.5, arrays[position].shape)
            ends = [[*arrays[:position], arrays[position] + s * change, *arrays[position + 1 :]] for s in (1e-6, -1e-6)]
            expected = (self._call(ends[0], static) - self._call(ends[1], static)) / 2e-6
            found = rule(np.asarray(change), out, *arrays, **static)
            got = np.asarray(found.array if isinstance(found, Tensor) else found)
            self._compare(f"jvp of input {position}", "the rule", "differences", got, expected, 1)

    # Compiled, and on a GPU

    def _results(self, tensors: list[Tensor], static: dict[str, Any]) -> list[Tensor]:
        out = self.op.function(*tensors, **static)
        leaves = [x for x in tensors if x.requires_grad]
        if not leaves or not out.requires_grad:
            return [out]
        return [out.detach(), *grad((out * out).sum(), leaves)]

    def compiled(self, case: tuple[list[Values], dict[str, Any]]) -> str:
        """Compare compiled values and gradients with eager ones."""
        arrays, static = case

        def run(*tensors: Tensor) -> list[Tensor]:
            return self._results(list(tensors), static)

        for dtype in ("float32", "float64"):
            tensors = self._leaves(arrays, dtype)
            try:
                found = jit(run)(*tensors)
            except TraceError as error:
                if self.op.scalar is not None:
                    raise AssertionError(f"{self.op.name}: it is not compiled: {error}") from error
                return f"not compiled: {error}"
            self._compare_all("compiled", found, run(*tensors))
        return "compiled"

    def on_gpu(self, case: tuple[list[Values], dict[str, Any]]) -> str:
        """Compare values and gradients on a GPU with those on the CPU."""
        arrays, static = case
        try:
            tensors = self._leaves(arrays, "float32", CUDA)
        except (DeviceError, ImportError) as error:
            return f"not on a GPU: {error}"
        found = [x.to(CPU) for x in self._results(tensors, static)]
        self._compare_all("on the GPU", found, self._results(self._leaves(arrays, "float32"), static))
        return "on the GPU"

    def _compare_all(self, where: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        for position, (one, other) in enumerate(zip(found, expected, strict=True)):
            what = f"gradient {position - 1}" if position else "value"
            if one.dtype != other.dtype:
                raise AssertionError(
                    f"{self.op.name}: {what} {where} has dtype {one.dtype}, the eager op {other.dtype}"
                )
            self._compare(what, f"the op {where}", "the eager op", one.array, other.array, 0)


def _greatest(values: Any) -> float:
    """Return the greatest finite magnitude of an array; 0 if there is none."""
    finite = np.abs(values[np.isfinite(values)]) if np.size(values) else np.zeros(0)
    return float(finite.max(initial=0.0))


def _plural(word: str) -> str:
    return "give" if word == "differences" else "gives"
