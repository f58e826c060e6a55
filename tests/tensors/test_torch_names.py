"""Lines that a torch user types give torch's numbers, eager and compiled: values, gradients, writes."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError, GradientError, ShapeError
from labnet.ops.core.names import ALIASES, AXES, DIFFERENCES, FORMS, IN_PLACE, KEYWORDS, METHODS
from labnet.ops.core.registry import REGISTRY
from labnet.ops.operators import methods
from tests.helpers.tensors.torch_lines import (
    EAGER,
    EXACT,
    SEVERAL,
    SMOOTH,
    VALUES,
    VARIABLES,
    WRITES,
    evaluate,
    listed,
    names_of,
    used,
)

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")


def compare(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        theirs = other.detach().numpy()
        assert one.shape == theirs.shape
        np.testing.assert_allclose(one.numpy().astype("float64"), theirs.astype("float64"), rtol=1e-5, atol=1e-6)


def gradients(module, line):
    """The outputs of a line, and the gradients of a weighted sum of the floating ones."""
    given = names_of(module, variables=VARIABLES)
    outputs = listed(evaluate(line, given))
    floating = [out for out in outputs if out.requires_grad]
    total = sum((out * (out + 2)).sum() for out in floating)
    leaves = [given[name] for name in used(line)]
    if module is ln:
        return outputs, ln.grad(total, leaves)
    return outputs, torch.autograd.grad(total, leaves, materialize_grads=True)


@pytest.mark.parametrize("line", [*SMOOTH, *SEVERAL])
def test_values_and_gradients_are_torchs(line):
    (ours, slopes), (theirs, expected) = gradients(ln, line), gradients(torch, line)
    compare(ours, theirs)
    compare(slopes, expected)


@pytest.mark.parametrize("line", EXACT)
def test_results_without_a_gradient_are_torchs(line):
    compare([evaluate(line, names_of(ln))], [evaluate(line, names_of(torch))])


@pytest.mark.parametrize("line", EAGER)
def test_results_that_are_read_are_torchs(line):
    ours, theirs = evaluate(line, names_of(ln)), evaluate(line, names_of(torch))
    if isinstance(theirs, torch.Tensor) or (isinstance(theirs, list) and isinstance(theirs[0], torch.Tensor)):
        compare(listed(ours), listed(theirs))
    else:
        assert ours == (tuple(theirs) if isinstance(theirs, torch.Size) else theirs)


@pytest.mark.parametrize("line", WRITES)
def test_writes_leave_what_torchs_leave(line):
    ours, theirs = names_of(ln), names_of(torch)
    evaluate(line, ours)
    evaluate(line, theirs)
    compare([ours["x"]], [theirs["x"]])


@pytest.mark.parametrize("line", [line for line in WRITES if "data" not in line])
def test_gradients_pass_through_writes(line):
    slopes = []
    for module in (ln, torch):
        given = names_of(module, variables=("y",))
        start = module.tensor(VALUES["x"], requires_grad=True)
        given["x"] = start * 1
        evaluate(line, given)
        (given["x"] ** 2).sum().backward()
        slopes.append(start.grad)
    compare([ln.asarray(slopes[0])], [slopes[1]])


@pytest.mark.parametrize(
    ("width", "mode", "theirs"),
    [
        (((0, 0), (1, 2)), "reflect", "reflect"),
        (((0, 0), (1, 2)), "replicate", "replicate"),
        (((0, 0), (2, 1)), "circular", "circular"),
        (((0, 0), (-1, 2)), "constant", "constant"),
        (((0, 0), (-1, -2)), "constant", "constant"),
    ],
)
def test_padding_is_torchs_in_every_mode(width, mode, theirs):
    for module in (ln, torch):
        x = module.tensor(VALUES["x"], requires_grad=True)
        out = ln.pad(x, width, mode) if module is ln else torch.nn.functional.pad(x, width[1], mode=theirs)
        (out**2).sum().backward()
        if module is ln:
            found = out, x.grad
    compare([found[0], found[1]], [out, x.grad])


def test_padding_that_is_not_possible_is_refused():
    with pytest.raises(ShapeError, match=r"reflect cannot add \(3, 0\) to a dimension of length 3"):
        ln.pad(ln.ones(3), (3, 0), mode="reflect")
    with pytest.raises(ShapeError, match="cut more off"):
        ln.pad(ln.ones(3), (-2, -2))
    with pytest.raises(ValueError, match="mode must be"):
        ln.pad(ln.ones(3), 1, mode="mirror")


# The table


def test_keywords_are_no_arguments_of_ops():
    """Renaming would take them away."""
    parameters = {name: op.function.__wrapped__.__code__ for name, op in REGISTRY.items() if op.axes or op.is_composed}
    clashes = {
        (name, keyword)
        for name, code in parameters.items()
        for keyword in KEYWORDS.keys() & set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    }
    assert not clashes
    assert set(AXES) <= REGISTRY.keys()


def test_every_name_of_the_table_is_there():
    attached = methods()
    assert set(METHODS) <= REGISTRY.keys()
    assert set(ALIASES.values()) <= REGISTRY.keys()
    assert not ALIASES.keys() & REGISTRY.keys()
    assert {f"{name}_" for name in IN_PLACE} <= attached.keys()
    assert all(getattr(ln, name) for name in (*ALIASES, *FORMS))
    assert all(hasattr(ln.Tensor, name) for name in attached)
    assert len({torch_form for torch_form, _, _ in DIFFERENCES}) == len(DIFFERENCES)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x.repeat(2, 3), TypeError, r"x\.tile\(\(2, 3\)\)"),
        (lambda x: x.sort().values, AttributeError, r"x\.sort\(dim=-1\)"),
        (lambda x: x.max(1), TypeError, "axis=1 for the values alone, dim=1 for values and positions"),
        (lambda x: x.sort(0, descending=True), TypeError, "dim=0"),
        (lambda x: x.std(1, keepdim=True), TypeError, "axis=1 for a division by n, dim=1 for by n - 1"),
        (lambda x: x.min(dim=(0, 1)), DTypeError, r"one integer, got \(0, 1\)"),
        (lambda x: x.median(dim=0, axis=1), TypeError, "both 'dim' and 'axis'"),
        (lambda x: x.max(dim=0, other=1), TypeError, "'other'"),
        (lambda x: x.kthvalue(9), ValueError, "from 1 to 4"),
        (lambda x: x.sum(dim=0, axis=1), TypeError, "both 'dim' and 'axis'"),
        (lambda x: x.size(5), ln.errors.AxisError, "dimension 5"),
        (lambda x: x.gather(0, [0, 1]), ShapeError, "as many dimensions"),
        (lambda x: x.split([1, 1]), ShapeError, r"parts of \[1, 1\]"),
        (lambda x: x.topk(9), ShapeError, "from 0 to 4"),
        (lambda x: x.add_(1), GradientError, "no_grad"),
        (lambda x: x.scatter_reduce(0, [[0]], x, "prod"), ValueError, "reduce must be"),
    ],
)
def test_a_line_with_another_meaning_says_what_to_write(call, error, words):
    with pytest.raises(error, match=words):
        call(ln.tensor(VALUES["x"], requires_grad=True))


# State


def test_size_is_a_number_and_a_method():
    x = ln.ones((2, 3))
    assert (x.size, x.size(), x.size(1)) == (6, (2, 3), 3)
    assert (x / x.size).dtype == (x.numpy() / x.size).dtype == ln.float32
    assert ln.jit(lambda a: a.sum() / a.size + a.size(0))(x).item() == 3.0


def test_tensor_copies_and_is_a_function_beside_its_module():
    from labnet.tensor import Tensor

    values = np.ones(2)
    x = ln.tensor(values, dtype=ln.float32)
    values[0] = 5
    assert isinstance(x, Tensor)
    assert x.tolist() == [1, 1]
    assert ln.tensor(ln.ones(1, requires_grad=True)).requires_grad is False


def test_to_takes_devices_dtypes_both_and_tensors():
    x = ln.ones(2)
    assert x.to("cpu") is x
    assert x.to(dtype=ln.float64).dtype == x.to("cpu", ln.float64).dtype == x.to(x.double()).dtype == ln.float64
    assert x.to(ln.device("cpu"), non_blocking=True) is x


def test_gradients_of_computed_tensors_are_retained():
    x = ln.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    loss = (y * y).sum()
    y.retain_grad()
    assert y.grad is None
    loss.backward(retain_graph=True)
    loss.backward()
    assert y.grad.tolist() == [12.0, 24.0]
    with pytest.raises(GradientError, match="retain_grad"):
        ln.ones(1).retain_grad()


def test_hooks_see_and_replace_gradients_until_they_are_removed():
    x = ln.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    hooks = [x.register_hook(seen.append), x.register_hook(lambda gradient: gradient * 10)]
    assert (x * x).sum().backward()[x].tolist() == [20.0, 40.0]
    for hook in hooks:
        hook.remove()
    assert (x * x).sum().backward()[x].tolist() == [2.0, 4.0]
    assert [g.tolist() for g in seen] == [[2.0, 4.0]]
    y = x * 2
    y.register_hook(lambda gradient: gradient.clamp(max=0.5))
    assert y.sum().backward()[x].tolist() == [1.0, 1.0]


def test_hooks_are_part_of_compiled_steps():
    def step(x):
        y = x * 2
        y.register_hook(lambda gradient: gradient * 5)
        return ln.grad(y.sum(), x)

    x = ln.ones(2, requires_grad=True)
    assert ln.jit(step)(x).tolist() == step(x).tolist() == [10.0, 10.0]


def test_data_is_written_without_being_recorded():
    weight = ln.ones(3, requires_grad=True)
    weight.data += 1
    weight.data.mul_(2)
    weight.data[0] = 0.0
    assert weight.tolist() == [0.0, 4.0, 4.0]
    assert weight.is_leaf
    weight.data = ln.zeros(3)
    assert weight.tolist() == [0.0, 0.0, 0.0]
    assert not weight.data.requires_grad
    assert (weight.data + 1).tolist() == [1.0, 1.0, 1.0]


def test_two_operators_of_numbers():
    x = ln.tensor([7.0, -7.0])
    quotient, rest = divmod(x, 2)
    assert (quotient.tolist(), rest.tolist()) == ([3.0, -4.0], [1.0, 1.0])
    assert [part.tolist() for part in divmod(7, ln.tensor([2]))] == [[3], [1]]
    assert round(ln.tensor([1.26, 2.5]), 1).tolist() == pytest.approx([1.3, 2.5])
    assert round(ln.tensor([1.4])).tolist() == [1.0]


def test_not_a_number_is_skipped():
    x = ln.tensor([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    assert ln.nansum(x, dim=1).tolist() == [4.0, 0.0]
    assert ln.nanmax(x, dim=1).tolist()[0] == 3.0
    assert np.isnan(ln.nanmin(x, dim=1).tolist()[1])
    assert (ln.nanargmax(x[0]).item(), ln.nanargmin(x[0]).item(), ln.nanmean(x).item()) == (2, 0, 2.0)
    values, positions = x.cummax(1)
    assert np.isnan(values.numpy()[0, 1:]).all()
    assert positions[0].tolist() == torch.cummax(torch.tensor([1.0, np.nan, 3.0]), 0).indices.tolist()


def test_many_prefixes_have_no_overflow():
    x = np.linspace(-800, 800, 1000)
    expected = torch.logcumsumexp(torch.tensor(x), 0)
    np.testing.assert_allclose(ln.logcumsumexp(ln.tensor(x), 0).numpy(), expected.numpy(), rtol=1e-12)
    with np.errstate(divide="ignore"):
        assert ln.logsumexp(ln.tensor([-np.inf, -np.inf])).item() == -np.inf
