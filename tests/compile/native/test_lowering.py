"""Functions are lowered in one walk, or by Numba's passes where they hold more; both compute what Python computes."""

import math
import textwrap

import numpy as np
import pytest

import labnet as ln
from labnet.compile.native import numba_compiler
from labnet.compile.native.callee import Callee
from labnet.compile.specialisation import specialise
from labnet.kernels.machine_code import loader

SOURCE = """
from labnet.compile.intrinsics.pointers import *
from labnet.compile.intrinsics.prelude import *


@function('float64', 'float64')
def f0(p0, p1):
{body}


@step(0, 2, [], {{'p0': ('call', 0, 'float64'), 'p1': ('call', 1, 'float64')}}, 1)
def step(arena, p0, p1):
    status = f0(p0, p1)
    if status:
        return status
    return 0
"""
WALKED = {
    "a range downward": "for i in range(7, -1, -2):\n    p1[i] = p0[i] * 2.0\nreturn 0",
    "a range from a number that was computed": "n = 2 + 3\nfor i in range(n - 4, n):\n    p1[i] += p0[i] - 1\nreturn 0",
    "loops of one name": "for i in range(3):\n    p1[i] = p0[i]\nfor i in range(3, 5):\n    p1[i] = -p0[i]\nreturn 0",
    "an empty range": "total = 1.5\nfor i in range(3, 3):\n    total = total + p0[i]\np1[0] = total\nreturn 0",
    "a name that changes": "total = 0.0\nfor i in range(8):\n    total = total + p0[i]\np1[0] = total\nreturn 0",
    "conditions": """
        for i in range(8):
            x = p0[i]
            if x > 4.0 and x != 6.0 or not x:
                p1[i] = math.sqrt(x)
            else:
                if x < 2.0:
                    p1[i] = 1 / (x + 1)
        return 0""",
    "a choice of what is computed": "for i in range(8):\n    p1[i] = p0[i] if p0[i] < 3 else p0[7 - i] / 2\nreturn 0",
    "a choice between numbers": "for i in range(8):\n    p1[i] = 1 if p0[i] < 3.0 else 0.25\nreturn 0",
    "an early return": "for i in range(8):\n    if p0[i] > 4.0:\n        return 17\n    p1[i] = p0[i]\nreturn 0",
    "a return on both sides": "if p0[1] > 0.0:\n    p1[0] = 3.0\n    return 18\nelse:\n    return 19",
    "tuples": "a, b = p0[1], p0[2]\na, b = b, a\np1[0], p1[1] = a, b\nreturn 0",
    "numbers that Python folds": "p1[0] = 2 ** -1\np1[1] = 7 * (1 << 40)\nreturn 0",
    "whole numbers": "n = 5\nm = n\nm <<= 2\nm ^= 3\np1[0] = m - (n | 8)\nreturn 0",
}
WITH_PASSES = {
    "a loop in one of the same name": """
        for i in range(3):
            for i in range(5, 7):
                p1[i] = 1.0
            p1[i] = 2.0
        return 0""",
    "numbers of more than 64 bits": "p1[0] = p0[1] + (1 << 63)\nreturn 0",
    "while": "n = 0\nwhile n < 5:\n    p1[n] = p0[n]\n    n += 1\nreturn 0",
    "a name of two types": "x = 1\np1[0] = x\nx = x * 0.5\np1[1] = x\nreturn 0",
    "a loop variable that changes": "for i in range(4):\n    i = i + 1\n    p1[i] = p0[i]\nreturn 0",
    "a loop variable after its loop": "for i in range(4):\n    p1[i] = p0[i]\np1[7] = i\nreturn 0",
    "comparisons in a row": "for i in range(8):\n    if 1.0 < p0[i] < 4.0:\n        p1[i] = p0[i]\nreturn 0",
    "a step that is no constant": "n = 2\nfor i in range(0, 8, n):\n    p1[i] = p0[i]\nreturn 0",
    "more operators": "n = 7\np1[0] = n // 2\np1[1] = n % 4\nreturn 0",
}


def interpreted(body):
    scope = {"math": math}
    exec(f"def f0(p0, p1):\n{body}", scope)
    return scope["f0"]


@pytest.mark.parametrize(
    ("body", "passes"),
    [(body, 0) for body in WALKED.values()] + [(body, 1) for body in WITH_PASSES.values()],
    ids=[*WALKED, *WITH_PASSES],
)
def test_a_function_computes_what_python_computes(body, passes, monkeypatch, tmp_path):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))
    with_passes, used = numba_compiler._compiled, []
    monkeypatch.setattr(numba_compiler, "_compiled", lambda *given: used.append(1) or with_passes(*given))
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    function = loader.load(numba_compiler.translate(SOURCE.format(body=body), "<a function of a test>"))
    x, found, expected = np.arange(8.0), np.zeros(8), np.zeros(8)
    held = np.zeros((0, 2), np.int64), np.zeros(64, np.uint8)
    assert function(held, x, found) == interpreted(body)(x, expected)
    assert found.tolist() == expected.tolist()
    assert len(used) == passes


def test_a_training_step_is_lowered_without_passes(monkeypatch, tmp_path):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))
    layer, lstm, optimizer = ln.nn.TransformerEncoderLayer(16, 2, 32), ln.nn.LSTM(16, 16), ln.optim.Adam()

    def train(x):
        loss = ln.loss.mse(lstm(layer(x))[0], x)
        optimizer(loss.backward())
        return loss

    def refuse(*_):
        raise AssertionError("Numba's passes are needed")

    monkeypatch.setattr(numba_compiler, "_compiled", refuse)
    monkeypatch.setattr(Callee, "_compiled", refuse)
    source = specialise(train, [ln.ones((4, 8, 16))], {}).step.source
    assert numba_compiler.translate(source, "<a step of a test>").objects
