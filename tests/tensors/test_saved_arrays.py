"""What a graph keeps: only the arrays that gradient rules read, each until its node has been passed in a backward."""

import itertools
import weakref

import numpy as np
import pytest

import labnet as ln
from labnet import autograd
from labnet.autograd import kept_nbytes
from labnet.ops.core import dispatch
from labnet.ops.core.registry import REGISTRY
from tests.tensors.test_registry import draw, flattened, gradients_of, invoke

OPS = [op for op in REGISTRY.values() if op.differentiable and not op.is_composed]
WIDTH = 200  # of matrices that are large enough for graphs to drop them


def gradients(op, sample, arrays, flags, *, twice, change=lambda node: None):
    """Return the gradients of a sample, or second derivatives, as arrays; `change` gets the node of the op."""
    tensors = [ln.asarray(a, requires_grad=flag) for a, flag in zip(arrays, flags, strict=True)]
    out = flattened(invoke(op, tensors, sample.static))
    if not out.requires_grad:
        return []
    change(out.node.parents[0])
    leaves = [x for x in tensors if x.requires_grad]
    weights = np.random.default_rng(3).standard_normal(out.shape).astype(out.dtype)
    found = ln.grad(((out * out if twice else out) * weights).sum(), leaves, create_graph=twice)
    if twice:
        total = ln.concat([(each * each).sum() for each in found], axis=None).sum()
        found = ln.grad(total, leaves) if total.requires_grad else []
    return [each.numpy() for each in found]


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def wanted(op, sample):
    """Every choice of inputs that require gradients, if there are few."""
    flags = gradients_of(op, sample)
    choices = itertools.product(*[(False, True) if flag else (False,) for flag in flags])
    return [choice for choice in choices if any(choice)]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_gradients_are_the_same_as_with_everything_kept(op, monkeypatch):
    kinds = (("float32", False, False), ("float32", False, True), ("float16", False, False), ("float64", True, False))
    for sample, (dtype, twice, zero) in itertools.product(op.samples, kinds):
        arrays = values(op, sample, dtype, zero=zero)
        for flags in wanted(op, sample):
            found = []
            for least in (-1, 1 << 40):
                monkeypatch.setattr(dispatch, "_LARGE", least)
                with np.errstate(all="ignore"):
                    found.append(gradients(op, sample, arrays, flags, twice=twice))
            assert same(*found), (sample, dtype, zero, flags)


def without(name, node):
    """Drop an array that a node keeps."""
    array = node.out if name == "out" else node.arrays[list(node.op.parameters).index(name)]
    stand_in = dispatch.stand_in(array.shape, array.dtype)
    if name == "out":
        node.out = stand_in
    else:
        node.arrays = tuple([stand_in if each is array else each for each in node.arrays])


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_array_that_is_said_to_be_read_is_read(op):
    """So that no graph keeps more than it needs."""
    assert len(op.reads) == len(op.vjps)
    for position, names in enumerate(op.reads):
        for name in names.split():
            cases = itertools.product(op.samples, (False, True), (False, True))
            assert any(reads(op, sample, position, name, *how) for sample, *how in cases), (position, name)


def values(op, sample, dtype, *, zero):
    """Draw arrays, of which the first element may be 0, where rules may have another case."""
    arrays = draw(op, sample, dtype)
    for array in arrays:
        array.flat[: zero and array.size > 1] = 0
    return arrays


def reads(op, sample, position, name, twice, zero):
    """Return whether the gradient of an input changes, or fails, without an array."""
    arrays = values(op, sample, "float64", zero=zero)
    flags = [i == position for i in range(len(arrays))]
    with np.errstate(all="ignore"):
        expected = gradients(op, sample, arrays, flags, twice=twice)
        try:
            found = gradients(op, sample, arrays, flags, twice=twice, change=lambda node: without(name, node))
        except (ValueError, TypeError, IndexError):
            return True
    return not same(expected, found)


def matrix(*, requires_grad=True, seed=0):
    return ln.asarray(
        np.random.default_rng(seed).standard_normal((WIDTH, WIDTH), np.float32), requires_grad=requires_grad
    )


NBYTES = 4 * WIDTH * WIDTH


@pytest.mark.parametrize(
    ("compute", "kept"),
    [
        (lambda x, w: (x + 1.0).mT.reshape((-1,)).sum(), 0),
        (lambda x, w: ln.exp(x + 1.0).sum(), 1),
        (lambda x, w: ((x - w) * 2.0).mean(), 0),
        (lambda x, w: ln.nn.relu((x + 1.0) @ (w + 1.0)).sum(), 3),
        (lambda x, w: ln.nn.relu(ln.nn.linear(x, w)).sum(), 1),
        (lambda x, w: ((x + 1.0) @ w.detach()).sum(), 1),
        (lambda x, w: ln.concat([x * 2.0, -w])[3:, 2:].sum(), 0),
    ],
)
def test_a_graph_keeps_what_its_rules_read(compute, kept):
    leaves = matrix(), matrix(seed=1)
    root = compute(*leaves)
    assert kept_nbytes(root.node) // NBYTES == kept


def test_what_several_nodes_keep_counts_once():
    x = matrix()
    y = x + 1.0
    root = (y @ y + ln.sin(y) * y.mT).sum()
    assert kept_nbytes(root.node) // NBYTES == 2  # y and its sine


def test_a_backward_lets_go_of_each_node_when_it_has_passed():
    alive = []

    def rule(g, out, x):
        alive.extend(reference() is not None for reference in later)
        return g

    identity = ln.custom_vjp(lambda x: x * 1, rule)
    x = matrix()
    y = ln.exp(identity(x))
    later = [weakref.ref(y.array)]
    loss = ln.tanh(y)
    later.append(weakref.ref(loss.array))
    loss = loss.sum()
    del y
    assert [reference() is not None for reference in later] == [True, True]
    loss.backward()
    assert alive == [False, False]
    x.grad = None
    with pytest.raises(ln.errors.GradientError, match="freed"):
        loss.backward()


def test_a_retained_graph_keeps_its_arrays():
    x = matrix()
    loss = ln.exp(x * 2.0).sum()
    first = loss.backward(retain_graph=True)[x].numpy()
    np.testing.assert_array_equal(loss.backward()[x].numpy(), first)


def test_writing_to_a_tensor_changes_no_gradient():
    """A graph that keeps an array keeps its values; one that dropped it does not mind."""
    w, x = matrix(seed=1), matrix(requires_grad=False)
    y, z = x * w, x + w
    expected = 3 * x.numpy().copy() + 1
    x += 1.0
    x[...] = 0.0
    np.testing.assert_array_equal((y * 3.0 + z).sum().backward()[w].numpy(), expected)


def test_rules_of_users_may_read_everything():
    seen = []

    def rule(g, out, x, y):
        seen.extend(np.asarray(each).copy() for each in (out, x, y))
        return g, g

    x, y = matrix(), matrix(seed=1)
    ln.custom_vjp(lambda x, y: x + y, rule)(x, y).sum().backward()
    for each, expected in zip(seen, (x.numpy() + y.numpy(), x.numpy(), y.numpy()), strict=True):
        np.testing.assert_array_equal(each, expected)


def test_a_gradient_that_cannot_be_added_leaves_the_total(monkeypatch):
    def fail(*gradients, **options):
        raise MemoryError("no memory")

    x = ln.ones(4096, requires_grad=True)
    x.sum().backward()
    monkeypatch.setattr(autograd, "add", fail)
    with pytest.raises(MemoryError):
        x.sum().backward()
    assert x.grad.sum().item() == 4096


def test_gradients_accumulate_in_place_where_nothing_else_refers_to_them():
    x = matrix()
    (x * 2.0).sum().backward()
    memory = x.node.grad.ctypes.data
    (x * 3.0).sum().backward()
    assert x.node.grad.ctypes.data == memory
    first = (x * 4.0).sum().backward()
    held = x.grad
    np.testing.assert_array_equal(held.numpy(), np.full((WIDTH, WIDTH), 9, np.float32))
    (x * 5.0).sum().backward()
    assert (held.tolist()[0][0], first[x].tolist()[0][0], x.grad.tolist()[0][0]) == (9.0, 4.0, 14.0)


def test_a_gradient_that_several_tensors_share_is_not_added_to():
    x, w = matrix(), matrix(seed=1)
    y = x + w  # both get the same array
    gradients = (y * 2.0 + x * 3.0 + x).sum().backward()
    assert (gradients[x].tolist()[0][0], gradients[w].tolist()[0][0]) == (6.0, 2.0)
    seed = ln.ones((WIDTH, WIDTH))
    gradients = (x + (x + x)).backward(seed)
    assert (gradients[x].tolist()[0][0], seed.tolist()[0][0]) == (3.0, 1.0)


def test_a_function_that_is_computed_again_frees_its_graph_as_it_goes():
    x = matrix()
    refs, alive = [], []

    def rule(g, out, x):
        alive.extend(reference() is not None for reference in refs[1:])
        return g

    identity = ln.custom_vjp(lambda x: x * 1, rule)

    @ln.checkpoint
    def function(x):
        y = ln.exp(identity(x))
        refs.append(weakref.ref(y.array))
        return ln.tanh(y)

    function(x).sum().backward()
    assert (len(refs), refs[0](), alive) == (2, None, [False])
