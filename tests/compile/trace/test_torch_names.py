"""Lines that a torch user types compile, and give the eager values and gradients."""

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.torch_lines import (
    EXACT,
    SEVERAL,
    SMOOTH,
    VALUES,
    VARIABLES,
    evaluate,
    listed,
    names_of,
    used,
)

pytestmark = pytest.mark.usefixtures("plain_steps")


def test_compiled_values_and_gradients_are_the_eager_ones():
    # these write several values at positions that are only known when it runs, and are refused
    refused = ("'am", "scatter(0", "index_copy(", "masked_scatter(")
    lines = [line for line in (*SMOOTH, *SEVERAL) if not any(part in line for part in refused)]
    arrays = {name: ln.asarray(array) for name, array in VALUES.items()}
    plain = [name for name in arrays if name not in VARIABLES]

    def run(*tensors):
        given = dict(zip(VARIABLES, tensors, strict=True), T=ln, **{name: arrays[name] for name in plain})
        found = []
        for line in lines:
            outputs = listed(evaluate(line, given))
            total = sum((out * (out + 2)).sum() for out in outputs if out.requires_grad)
            found.append((outputs, ln.grad(total, [given[name] for name in used(line)])))
        return found

    leaves = [ln.tensor(VALUES[name], requires_grad=True) for name in VARIABLES]
    for line, (got, slopes), (outputs, expected) in zip(lines, ln.jit(run)(*leaves), run(*leaves), strict=True):
        for one, other in zip((*got, *slopes), (*outputs, *expected), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6, atol=1e-9, err_msg=line)


def test_results_without_a_gradient_compile():
    given = names_of(ln)
    tensors = [name for name in given if name != "T"]
    lines = [line for line in EXACT if "histc(" not in line]  # which reads the range of the numbers, and is refused

    def run(*values):
        here = dict(zip(tensors, values, strict=True), T=ln)
        return [evaluate(line, here) for line in lines]

    found, expected = (function(*(given[name] for name in tensors)) for function in (ln.jit(run), run))
    for line, got, wanted in zip(lines, found, expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted.numpy(), err_msg=line)
