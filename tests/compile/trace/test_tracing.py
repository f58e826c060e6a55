"""What is guarded, what makes a function be traced again, and what cannot be traced."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import TraceError

SCALE = 2.0


def test_other_shapes_and_dtypes_are_traced_again():
    function = ln.jit(lambda x: x * 2)
    for x in (ln.ones(3), ln.ones((2, 2)), ln.ones(3, dtype="float64"), ln.ones(3)):
        assert function(x).dtype == x.dtype
    assert function.specialisations == 3


def test_the_number_of_versions_is_bounded():
    function = ln.jit(lambda x, n: x * n)
    for n in range(18):
        assert function(ln.ones(1), n).tolist() == [float(n)]
    assert function.specialisations == 16


def test_a_closure_variable_is_guarded():
    factor = 2.0
    function = ln.jit(lambda x: x * factor)
    assert function(ln.ones(1)).tolist() == [2.0]
    factor = 3.0
    assert function(ln.ones(1)).tolist() == [3.0]


def test_a_global_is_guarded(monkeypatch):
    function = ln.jit(lambda x: x * SCALE)
    assert function(ln.ones(1)).tolist() == [2.0]
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert function(ln.ones(1)).tolist() == [5.0]
    assert "SCALE = 5.0" in function.explain()


class Scaled(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = 2.0

    def forward(self, x):
        return x * self.factor if self.training else x


def test_attributes_and_the_training_mode_of_modules_are_guarded():
    model = Scaled()
    function = ln.jit(lambda x: model(x))
    assert function(ln.ones(1)).tolist() == [2.0]
    model.factor = 4.0
    assert function(ln.ones(1)).tolist() == [4.0]
    model.eval()
    assert function(ln.ones(1)).tolist() == [1.0]
    model.train()
    assert function(ln.ones(1)).tolist() == [4.0]


def test_attributes_of_plain_objects_are_guarded():
    class Settings:
        factor = 1.0

    settings = Settings()
    settings.factor = 2.0
    function = ln.jit(lambda x: x * settings.factor)
    assert function(ln.ones(1)).tolist() == [2.0]
    settings.factor = 3.0
    assert function(ln.ones(1)).tolist() == [3.0]


def test_a_module_itself_can_be_compiled():
    model = ln.nn.Linear(3, 2)
    x = ln.ones((4, 3))
    np.testing.assert_allclose(ln.jit(model)(x).numpy(), model(x).numpy(), rtol=1e-6)


def test_a_captured_tensor_is_read_anew_and_an_array_is_a_constant():
    tensor, array = ln.ones(2), np.ones((2,), "float32") * np.array([1, 2], "float32")
    function = ln.jit(lambda x: x * tensor + array)
    function(ln.ones(2))
    tensor.assign([5.0, 5.0])
    assert function(ln.ones(2)).tolist() == [6.0, 7.0]
    assert "constant: float32 of shape (2,)" in function.explain()


PARAMETER, FLAG = ln.asarray([1.0, 2.0], requires_grad=True), ln.asarray(1)
REFUSED = {
    "decision": (lambda x: x if x.sum() > 0 else -x, "ln.where"),
    "float": (lambda x: float(x.sum()), "convert it outside"),
    "item": (lambda x: x.sum().item(), "item"),
    "format": (lambda x: f"{x}", "outside"),
    "numpy": (lambda x: np.asarray(x), "elements"),
    "no rule": (lambda x: ln.nonzero(x), "convert it outside"),
    "item of a parameter": (lambda x: x * PARAMETER[0].item(), "read it before"),
    "number of a parameter": (lambda x: x * float(PARAMETER.sum()), "convert it outside|item"),
    "decision on a parameter": (lambda x: x if PARAMETER[0] > 0 else -x, "ln.where"),
    "decision on a flag": (lambda x: x if FLAG else -x, "ln.where"),
    "list of a parameter": (lambda x: x * PARAMETER.tolist()[0], "tolist"),
    "array of a parameter": (lambda x: x * np.asarray(PARAMETER), "outside"),
    "text of a parameter": (lambda x: print(PARAMETER), "outside"),
    "index by a parameter": (lambda x: [1, 2][FLAG], "plain number"),
    "grad": (lambda x: (PARAMETER * x).grad, r"use ln\.grad\(y, x\)"),
    "copy": (lambda x: ln.Tensor(PARAMETER) * x, "detach"),
    "mask": (lambda x: x[x > 0], "ln.where"),
    "item by loop": (lambda x: [int(v) for v in x.reshape((-1,))], "TraceError|compile"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_names_the_line_and_the_way_out(name):
    function, way_out = REFUSED[name]
    with pytest.raises(TraceError, match=way_out) as caught:
        ln.jit(function)(ln.ones((2, 2)))
    assert "test_tracing.py:" in str(caught.value)


def test_refused_conversions_work_eagerly():
    for name in ("item of a parameter", "decision on a parameter", "array of a parameter", "list of a parameter"):
        assert REFUSED[name][0](ln.ones(2)).shape == (2,)


def test_what_is_detached_in_a_step_follows_the_parameter():
    weight, optimizer = ln.asarray([4.0], requires_grad=True), ln.optim.SGD(lr=0.5)

    def train():
        kept = weight.detach()
        optimizer((weight * kept).sum().backward())
        return kept * 1

    step = ln.jit(train)
    assert [step().item() for _ in range(3)] == [4.0, 2.0, 1.0]


def test_no_grad_inside_a_function_holds_there():
    def run(x):
        with ln.no_grad():
            target = PARAMETER * x
        return ln.grad(((PARAMETER * x - target * 0.5) ** 2).sum(), PARAMETER)

    x = ln.asarray([3.0, 4.0])
    assert ln.jit(run)(x).tolist() == run(x).tolist() == [9.0, 32.0]


def test_results_carry_no_history():
    assert not ln.jit(lambda x: PARAMETER * x)(ln.ones(2)).requires_grad


def test_a_backward_below_no_grad_is_refused_as_eagerly():
    def run():
        with ln.no_grad():
            loss = (PARAMETER * PARAMETER).sum()
        return loss.backward()

    for function in (run, ln.jit(run)):
        with pytest.raises(ln.errors.GradientError, match="requires gradients"):
            function()


def test_errors_of_shape_are_those_of_eager_code():
    with pytest.raises(ln.errors.ShapeError, match="matmul"):
        ln.jit(lambda x: x @ x)(ln.ones((2, 3)))


def test_after_an_error_eager_code_runs_as_before():
    with pytest.raises(TraceError):
        ln.jit(lambda x: float(x))(ln.ones(1))
    assert (ln.ones(2) + 1).tolist() == [2.0, 2.0]


def test_source_and_explanation_show_what_happens():
    function = ln.jit(lambda x: (ln.exp(x) * 2).sum())
    with pytest.raises(RuntimeError, match="call the function first"):
        function.source  # noqa: B018
    function(ln.ones((2, 3)))
    assert "for i0 in range(6):" in function.source
    assert "exp, multiply, sum over [2, 3]" in function.explain()
