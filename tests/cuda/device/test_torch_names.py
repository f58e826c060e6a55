"""Lines that a torch user types give on a GPU what they give on the CPU: values, gradients, writes."""

import pytest

import labnet as ln
from tests.helpers.cuda.device_arrays import assert_same
from tests.helpers.tensors.torch_lines import SEVERAL, VALUES, VARIABLES, WRITES, evaluate, listed, used

LINES = (
    *("x.gather(0, i)", "x.scatter_add(0, i, y)", "x.scatter(1, i, 7.0)", "x.index_add(0, k, y[:2])", "x.diagonal()"),
    *("x.masked_fill(m, 0.0)", "x.norm(dim=1)", "T.einsum('bij,bjk->bik', b, c)", "x.unfold(1, 2, 1)", "T.cdist(x, y)"),
    *("x.scatter_reduce(0, i, y, 'mean')", "x.logsumexp(dim=1)", "x.repeat_interleave(2, dim=0)", "v.diag()"),
    *SEVERAL,
)


def names_on(device):
    given = {
        name: ln.tensor(array.astype("float32") if array.dtype.kind == "f" else array, device=device)
        for name, array in VALUES.items()
    }
    for name in VARIABLES:
        given[name].requires_grad = True
    return {**given, "T": ln}


@pytest.mark.parametrize("line", LINES)
def test_values_and_gradients_are_those_of_the_cpu(line):
    found = []
    for device in ("cpu", "cuda"):
        given = names_on(device)
        outputs = listed(evaluate(line, given))
        total = sum((out * out).sum() for out in outputs if out.requires_grad)
        found.append([*outputs, *ln.grad(total, [given[name] for name in used(line)])])
    for expected, got in zip(*found, strict=True):
        assert got.device == "cuda"
        assert_same(got, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("line", [line for line in WRITES if line[:3] not in ("x.p", "x.t")])
def test_writes_leave_what_those_of_the_cpu_leave(line):
    found = []
    for device in ("cpu", "cuda"):
        with ln.no_grad():
            given = names_on(device)
            evaluate(line, given)
        found.append(given["x"])
    assert found[1].device == "cuda"
    assert_same(found[1], found[0].numpy(), rtol=1e-4, atol=1e-4)


def test_conversions_keep_the_device():
    x = ln.ones((2, 3), device="cuda")
    assert x.long().device == x.new_zeros(2).device == x.cuda().device == "cuda"
    assert x.cpu().device == "cpu"
    assert x.is_cuda
    assert ln.cuda.is_available()
    assert ln.multinomial(x, 2).device == "cuda"
