"""Runs a program eagerly and compiled, and decides whether both did the same.

Integers, truth values and shapes have to be equal. Floats may differ by rounding, as far as the magnitude of their
array explains it, or what a run with nearby inputs and one in double precision show: cancellation, and a decision
that falls the other way.
"""

import contextlib
import re
import traceback
from dataclasses import dataclass
from functools import partial

import numpy as np

import labnet as ln
from labnet.compile.backends import cpu_executable, cpu_program, cpu_step
from labnet.compile.differentiable import Differentiable
from labnet.errors import TraceError
from tests.compile.fuzz.case import HEAD, quietly
from tests.helpers.compile import interpreter
from tests.helpers.compile.hazards import verified

#: Rounding that the magnitude of an array explains, by bytes of an element.
_ROUNDING = {2: 2e-3, 4: 2e-5, 8: 1e-11}
#: What adds up products, in an order of its own.
_ADDING = r" @ |ln\.(matmul|linear|vecdot|tensordot)\("
#: How much more rounding there is by mode: long sums of machine code, and other functions on a GPU.
_SLACK = {"real": 8, "cuda": 10}
#: How much further than nearby inputs go results may be apart.
_SENSITIVE = 30
#: What may be refused wherever it is.
_REFUSED = "has no kernel|in float16"
_NUDGES = {2: 1e-3, 4: 3e-7, 8: 1e-14}


@dataclass(frozen=True)
class Verdict:
    """What came of a program.

    Attributes
    ----------
    kind : str
        ``right``, ``wrong``, ``refused`` (a `TraceError` that surroundings or writes excuse), ``broken`` (another
        error), or ``loose``: right only as far as inputs nearby give the same.
    text : str
        What is wrong.
    """

    kind: str
    text: str = ""

    @property
    def is_fault(self):
        return self.kind in ("wrong", "broken")


RIGHT = Verdict("right")


class _Garbage:
    """NumPy, but for memory that is full of ones where nobody has written: NaN, -1, and the greatest numbers."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype=float, *others, **named):
        found = np.empty(shape, dtype, *others, **named)
        found.reshape(-1).view(np.uint8)[...] = 255 if found.dtype.kind != "b" else 0
        return found


@contextlib.contextmanager
def conditions(mode):
    """Have unwritten memory show, and verify programs; Python runs the text in modes ``plain`` and ``served``."""
    load = cpu_program.cache.load
    modules = (cpu_program, cpu_executable, cpu_step)
    for module in modules:
        module.np = _Garbage()
    try:
        if mode in ("plain", "served"):
            cpu_program.cache.load = interpreter.load
        with contextlib.nullcontext() if mode == "cuda" else verified():
            yield
    finally:
        for module in modules:
            module.np = np
        cpu_program.cache.load = load


def scope_of(case, *, nudge=None, wide=False, device=None):
    """Return the names that a program defines; with inputs nearby, in double precision, or on a device."""
    scope = {"__name__": "case"}
    source = case.source()
    exec(_compiled(HEAD), scope)
    drawn = scope["draw"]
    if nudge is not None:
        scope["draw"] = lambda seed, *others: _nudged(drawn(seed, *others), seed + nudge)
    if wide:
        scope["draw"] = lambda seed, shape, dtype, *others: _widened(drawn(seed, shape, dtype, *others))
        source = _wide(source)
    if device is not None:
        scope["tensor"] = partial(_on_device, scope, device)
        scope["places"] = partial(ln.asarray, device=device)
    ln.manual_seed(0)
    exec(_compiled(source), scope)
    return scope


_texts = {HEAD: compile(HEAD, "<head>", "exec")}


def _compiled(text):
    return _texts.get(text) or compile(text, "<case>", "exec")


def _wide(text):
    return text.replace("float32", "float64")


def _widened(array):
    return array.astype("float64") if array.dtype == np.float32 else array


def _nudged(array, seed):
    if array.dtype.kind != "f":
        return array
    step = _NUDGES[array.dtype.itemsize]
    factors = 1 + step * np.random.default_rng(seed).choice([-1.0, 1.0], array.shape)
    with np.errstate(all="ignore"):
        return (array * factors).astype(array.dtype)


def _on_device(scope, device, seed, shape, dtype, grad=False, special=False):
    return ln.asarray(scope["draw"](seed, shape, dtype, special), requires_grad=grad, device=device)


def outcomes(case, make, *, serves=False, **variant):
    """Yield what each call leaves: results and state as arrays, or the error that it raised.

    `make` compiles the step, or only its `forward`, which is differentiated from outside then as served models are.
    """
    scope = scope_of(case, **variant)
    if serves and case.steps:
        step, scope["forward"] = scope["step"], make(scope["forward"])
    else:
        step = make(scope["step"])
    for call in case.calls:
        yield _outcome(case, call, scope, step, wide=variant.get("wide", False))


def _outcome(case, call, scope, step, *, wide):
    text = _wide if wide else str
    try:
        for line in call.changes:
            exec(_compiled(text(line.text)), scope)
        arguments = eval(text(f"[{''.join(a + ', ' for a in call.arguments)}]"), scope)
        results = arrays(step(*arguments))
        return results + [x for name in case.state for x in arrays(eval(name, scope))]
    except Exception as error:
        return error


def arrays(found):
    """Return the arrays and numbers in what a call hands out, in order; and the kinds of what holds them."""
    if isinstance(found, ln.Tensor):
        return [np.array(found.detach().to("cpu").numpy())]
    if isinstance(found, dict):
        return [type(found).__name__, *found, *(x for value in found.values() for x in arrays(value))]
    if isinstance(found, list | tuple):
        return [type(found).__name__, *(x for value in found for x in arrays(value))]
    return [np.array(found) if isinstance(found, np.ndarray) else found]


@quietly
def judged(case, mode="plain"):
    """Return the verdict on a program that is compiled alone."""
    variant = {"cuda": {"device": "cuda"}, "served": {"serves": True}}.get(mode, {})
    with conditions(mode):
        expected = list(outcomes(case, lambda step: step))
        for position, found in enumerate(outcomes(case, Differentiable if mode == "served" else ln.jit, **variant)):
            verdict = compared(case, position, found, expected, slack=_SLACK.get(mode, 1))
            if verdict.kind != "right":
                return verdict
    return RIGHT


@quietly
def judged_together(cases):
    """Return the verdicts on programs that are compiled as one function, whose calls bring the same shapes."""
    scopes = [scope_of(case) for case in cases]
    expected = [list(outcomes(case, lambda step: step)) for case in cases]
    steps = [scope["step"] for scope in scopes]
    verdicts = {}
    with conditions("real"):
        together = ln.jit(lambda *given: [step(*one) for step, one in zip(steps, given, strict=True)])
        for position in range(min(len(case.calls) for case in cases)):
            given = []
            for case, scope in zip(cases, scopes, strict=True):
                for line in case.calls[position].changes:
                    exec(_compiled(line.text), scope)
                given.append(tuple(eval(text, scope) for text in case.calls[position].arguments))
            try:
                results = together(*given)
            except Exception as error:
                verdict = _failed(error)
                return [verdicts.get(i, verdict) for i in range(len(cases))]
            for i, (case, scope, found) in enumerate(zip(cases, scopes, results, strict=True)):
                left = arrays(found) + [x for name in case.state for x in arrays(eval(name, scope))]
                if (
                    i not in verdicts
                    and (verdict := compared(case, position, left, expected[i], slack=_SLACK["real"])).kind != "right"
                ):
                    verdicts[i] = verdict
    return [verdicts.get(i, RIGHT) for i in range(len(cases))]


def _failed(error):
    if isinstance(error, TraceError):
        return Verdict("refused", re.sub(r"; at .*|\bv?\d+\b", "", str(error)))
    lines = traceback.format_exception_only(error)
    places = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    return Verdict("broken", f"{lines[-1].strip()[:600]} [{' '.join(places[-3:])}]")


def compared(case, position, found, expected, *, slack=1):
    """Return the verdict on what one call left."""
    right = expected[position]
    if isinstance(right, Exception):  # drawing leaves out such calls; a reduction may bring them back
        return Verdict("wrong", f"call {position}: eager raises {right!r}") if _is_silent(found) else RIGHT
    if isinstance(found, Exception):
        verdict = _failed(found)
        may_refuse = {"guards", "writes"} & {*case.kinds()} or re.search(_REFUSED, verdict.text)
        return Verdict("broken", verdict.text) if verdict.kind == "refused" and not may_refuse else verdict
    if len(found) != len(right):
        return Verdict("wrong", f"call {position}: {len(found)} results instead of {len(right)}")
    verdict = RIGHT
    for number, (one, other) in enumerate(zip(found, right, strict=True)):
        where = f"call {position}, result {number}"
        one_by_one = _differs(one, other, slack)
        if one_by_one is None:
            continue
        if isinstance(one_by_one, str):
            return Verdict("wrong", f"{where}: {one_by_one}")
        if not (_overflows(case, one, other) or _explained(case, position, number, one, other, slack)):
            return Verdict("wrong", f"{where}:\n{one}\ninstead of\n{other}")
        verdict = Verdict("loose", where)
    return verdict


def _overflows(case, found, right):
    """Return whether results differ only where products of the greatest floats overflow in one order of adding up."""
    if (
        right.dtype.kind != "f"
        or not re.search(r"special=True", case.runnable())
        or not re.search(_ADDING, case.runnable())
    ):
        return False
    with np.errstate(all="ignore"):
        near = [np.abs(x) < np.finfo(right.dtype).max / 100 for x in (found, right)]
        return not np.any(near[0] & near[1] & ~np.isclose(found, right, rtol=1e-3, atol=1e-6))


def _is_silent(found):
    return not isinstance(found, Exception)


def _differs(found, right, slack):
    """Return None for the same, a text for what nothing excuses, and True for floats further apart than rounding."""
    if not isinstance(right, np.ndarray) or not isinstance(found, np.ndarray):
        same = type(found) is type(right) and (found == right or found != found)
        return None if same else f"{found!r} instead of {right!r}"
    if (found.shape, found.dtype) != (right.shape, right.dtype):
        return f"{found.dtype}{found.shape} instead of {right.dtype}{right.shape}"
    if right.dtype.kind != "f":
        return None if np.array_equal(found, right) else True
    return None if _close(found, right, _bound(right, slack)) else True


def _bound(right, slack):
    finite = np.abs(right[np.isfinite(right)])
    return _ROUNDING[right.dtype.itemsize] * slack * max(1.0, float(finite.max(initial=0.0)))


def _close(found, right, bound):
    with np.errstate(all="ignore"):
        same = (found == right) | (np.isnan(found) & np.isnan(right)) | (np.abs(found - right) <= bound)
    return bool(np.all(same))


def _explained(case, position, number, found, right, slack):
    """Return whether inputs nearby, or double precision, move a result as far as compiled code does."""
    spread = np.zeros(right.shape)
    for variant in ({"nudge": 1}, {"nudge": 2}, {"nudge": 3}, {"nudge": 4}, {"wide": True}):
        other = list(outcomes(case, lambda step: step, **variant))[position]
        if not isinstance(other, Exception) and len(other) > number and np.shape(other[number]) == right.shape:
            spread = np.maximum(spread, _distance(other[number], right))
    if right.dtype.kind != "f":
        return bool(np.all((found == right) | (spread.max(initial=0) > 0)))
    finite = spread[np.isfinite(spread)].max(initial=0.0)
    return _close(np.where(np.isinf(spread), right, found), right, _SENSITIVE * finite + _bound(right, slack))


def _distance(one, other):
    """Return how far elements are apart; infinitely far where only one is a number."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    with np.errstate(all="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        return np.where(same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf))
