"""Random programs: what compiled functions compute, and leave behind, is what eager ones do, call by call.

Most go through every pass, and Python runs the text that is generated; Numba compiles a sample, many in one function.
`make fuzz` takes as many as one likes, and makes those smaller that fail.
"""

import contextlib
import io
import itertools

import numpy as np
import pytest

import labnet as ln
from labnet.compile.ir.fusion import Group
from tests.compile.fuzz.drawing import draw
from tests.compile.fuzz.judge import conditions, judged, judged_together
from tests.compile.fuzz.reduction import reduced
from tests.helpers.compile import interpreter

#: Programs that Python runs, in tests of so many, and programs that Numba compiles, in functions of so many.
PLAIN, EACH = 800, 100
COMPILED, TOGETHER = 24, 8


def drawn(start, count, mode):
    return [draw(f"suite/{number}", mode=mode) for number in range(start, start + count)]


@pytest.mark.parametrize("start", range(0, PLAIN, EACH))
def test_random_programs_do_the_same_where_python_runs_them(start):
    for case in drawn(start, EACH, "plain"):
        verdict = judged(case)
        assert not verdict.is_fault, f"{verdict.text}\n{case.runnable()}"


@pytest.mark.parametrize("start", range(0, COMPILED, TOGETHER))
def test_random_programs_do_the_same_compiled(start):
    cases = drawn(start, TOGETHER, "real")
    for case, verdict in zip(cases, judged_together(cases), strict=True):
        assert not verdict.is_fault, f"{verdict.text}\n{case.runnable()}"


# What draws and judges them


def faulty(monkeypatch):
    """Have values join loops that read them in another order."""
    monkeypatch.setattr(Group, "reads_in_step", lambda group, value: True)


def test_a_fault_is_found_within_some_programs_and_made_small(monkeypatch):
    faulty(monkeypatch)
    verdicts = ((case, judged(case)) for case in drawn(0, 100, "plain"))
    case, verdict = next((case, verdict) for case, verdict in verdicts if verdict.is_fault)
    small, found = reduced(case, verdict, mode="plain")
    assert found.kind == verdict.kind
    assert "in the loops that compute it, at other elements" in found.text
    assert len(small.graph) <= 2
    assert len(small.calls) == 1


def test_memory_that_nothing_writes_shows_as_no_number(monkeypatch):
    monkeypatch.setattr(interpreter, "load", lambda source: lambda *given: 0)
    with conditions("plain"):
        compiled = ln.jit(lambda x: ln.exp(x) @ x)
        found = compiled(ln.ones((3, 3)))
    assert np.isnan(found.numpy()).all()
    assert (compiled._last.step.program.arena == 255).all()


def test_a_program_prints_what_eager_and_compiled_calls_leave():
    case = draw("printed", mode="plain")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(case.runnable(), {"__name__": "printed"})
    lines = [line for line in printed.getvalue().splitlines() if line.startswith(("eager", "compiled"))]
    assert len(lines) == 2 * len(case.calls)


def test_the_same_seed_draws_the_same_program():
    one, other = draw(3), draw(3)
    assert one.source() == other.source()
    assert one.calls == other.calls


def test_programs_differ_in_what_they_do():
    cases = [draw(number) for number in range(60)]
    kinds = set(itertools.chain.from_iterable(case.kinds() for case in cases))
    assert kinds >= {"reuse", "products", "guards", "updates", "writes"}
