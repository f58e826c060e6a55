"""Losses: values and gradients of torch, every form of labels, numbers where exponentials overflow."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError, ShapeError
from tests.helpers.tensors.torch_comparison import assert_functions_agree, normal, to_torch, torch_or_skip


def test_mse_and_mae_agree_with_torch():
    functional = torch_or_skip().nn.functional
    pair = normal(4, 3), normal(4, 3, seed=1)
    pair[0][0] = pair[1][0]
    assert_functions_agree(ln.loss.mse, functional.mse_loss, *pair)
    assert_functions_agree(ln.loss.mae, functional.l1_loss, *pair)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_are_those_of_torch(reduction):
    functional = torch_or_skip().nn.functional
    x, y, labels = normal(4, 3), normal(4, 3, seed=1), np.array([0, 2, 1, 1])
    chances = np.abs(y) / np.abs(y).sum(1, keepdims=True)
    for ours, theirs, target in (
        (ln.loss.mse, functional.mse_loss, y),
        (ln.loss.mae, functional.l1_loss, y),
        (ln.loss.binary_cross_entropy, functional.binary_cross_entropy_with_logits, np.abs(y) % 1),
        (ln.loss.cross_entropy, functional.cross_entropy, labels),
        (ln.loss.cross_entropy, functional.cross_entropy, chances),
    ):
        assert_functions_agree(
            lambda x, y, ours=ours: ours(x, y, reduction=reduction),
            lambda x, y, theirs=theirs: theirs(x, y, reduction=reduction),
            *(x, target),
        )
        compiled = ln.jit(lambda x, y, ours=ours: ours(x, y, reduction=reduction))
        expected = theirs(to_torch(x), to_torch(target), reduction=reduction)
        np.testing.assert_allclose(compiled(ln.asarray(x), ln.asarray(target)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [ln.loss.mse, ln.loss.mae, ln.loss.binary_cross_entropy, ln.loss.cross_entropy])
def test_another_reduction_is_refused(loss):
    with pytest.raises(ValueError, match=f"{loss.__name__}: reduction must be 'mean', 'sum' or 'none', got 'max'"):
        loss(ln.ones((2, 3)), ln.ones((2, 3)), reduction="max")


@pytest.mark.parametrize(("loss", "expected"), [(ln.loss.mse, 2.5), (ln.loss.mae, 1.5)])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_differences_of_integers_do_not_wrap_around(loss, expected, dtype):
    x, y = (ln.asarray(np.array(values, dtype)) for values in ([1, 5], [2, 3]))
    assert loss(x, y).item() == expected


LOGITS = [((5, 4), (5,)), ((4,), ()), ((2, 4, 3), (2, 3)), ((2, 4, 3, 2), (2, 3, 2))]


@pytest.mark.parametrize(("shape", "labels"), LOGITS)
def test_cross_entropy_agrees_with_torch_for_every_shape(shape, labels):
    functional = torch_or_skip().nn.functional
    numbers = np.asarray(np.random.default_rng(0).integers(0, 4, labels))
    assert_functions_agree(ln.loss.cross_entropy, functional.cross_entropy, normal(*shape) * 50, numbers)
    probabilities = np.abs(normal(*shape, seed=2))
    axis = min(1, len(shape) - 1)
    probabilities /= probabilities.sum(axis=axis, keepdims=True)
    assert_functions_agree(ln.loss.cross_entropy, functional.cross_entropy, normal(*shape), probabilities)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8"])
def test_one_hot_labels_equal_integer_labels(dtype):
    logits, labels = ln.asarray(normal(4, 3)), np.array([0, 2, 1, 1])
    expected = ln.loss.cross_entropy(logits, ln.asarray(labels)).item()
    one_hot = np.eye(3)[labels].astype(dtype)
    assert ln.loss.cross_entropy(logits, ln.asarray(one_hot)).item() == pytest.approx(expected, rel=1e-6)
    assert ln.loss.cross_entropy(logits, labels.tolist()).item() == expected


def test_binary_cross_entropy_agrees_with_torch():
    functional = torch_or_skip().nn.functional
    logits = np.concatenate([normal(20) * 5, np.float32([-200, 0, 200])])
    for labels in (np.abs(normal(23, seed=1)) % 1, np.ones(23, "float32"), np.zeros(23, "float32")):
        assert_functions_agree(
            ln.loss.binary_cross_entropy, functional.binary_cross_entropy_with_logits, logits, labels.astype("float32")
        )


@pytest.mark.parametrize("dtype", ["bool", "int64", "float32"])
def test_binary_labels_of_any_dtype(dtype):
    logits = ln.asarray([0.0, 3.0], requires_grad=True)
    loss = ln.loss.binary_cross_entropy(logits, ln.asarray(np.array([1, 0], dtype)))
    assert loss.item() == pytest.approx((math.log(2) + math.log1p(math.exp(3))) / 2)
    np.testing.assert_allclose(loss.backward()[logits].numpy(), [-0.25, 1 / (1 + math.exp(-3)) / 2], rtol=1e-6)


def test_small_losses_keep_their_digits_and_great_ones_their_size():
    logits = ln.asarray([20.0, -20.0, 1e4, -1e4])
    ones = ln.asarray([1.0, 0.0, 0.0, 1.0])
    values = ln.ops.binary_cross_entropy_with_logits(logits, ones).numpy()
    np.testing.assert_allclose(values, [math.exp(-20), math.exp(-20), 1e4, 1e4], rtol=1e-6)
    certain = ln.asarray([[1e4, 0.0, -1e4]], requires_grad=True)
    assert ln.loss.cross_entropy(certain, ln.asarray([2])).item() == 2e4
    assert ln.loss.cross_entropy(certain, ln.asarray([0])).backward()[certain].tolist() == [[0, 0, 0]]


def test_losses_can_be_differentiated_twice():
    logits = ln.asarray(normal(3, 4, dtype="float64"), requires_grad=True)
    direction = normal(3, 4, seed=1, dtype="float64")
    labels, yes = ln.asarray([0, 3, 1]), ln.asarray(np.abs(normal(3, 4, seed=2, dtype="float64")) % 1)
    for loss in (lambda z: ln.loss.cross_entropy(z, labels), lambda z: ln.loss.binary_cross_entropy(z, yes)):

        def slope(step, loss=loss):
            z = ln.asarray(logits.numpy() + step * direction, requires_grad=True)
            return (ln.grad(loss(z), z).numpy() * direction).sum()

        first = ln.grad(loss(logits), logits, create_graph=True)
        second = ln.grad((first * direction).sum(), logits).numpy()
        assert (second * direction).sum() == pytest.approx((slope(1e-6) - slope(-1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ln.loss.mae(ln.ones(3), ln.ones((3, 1))), ShapeError, r"\(3,\).*\(3, 1\)"),
        (lambda: ln.loss.binary_cross_entropy(ln.ones(3), ln.ones(2)), ShapeError, r"\(3,\).*\(2,\)"),
        (lambda: ln.loss.cross_entropy(ln.ones((2, 3, 4)), ln.asarray([0, 1])), ShapeError, r"\(2, 4\).*\(2,\)"),
        (lambda: ln.loss.cross_entropy(ln.ones(()), ln.asarray(0)), ShapeError, r"\(\)"),
        (lambda: ln.loss.cross_entropy(ln.ones((1, 3)), ln.asarray([-1])), IndexError, r"\[0, 3\).*-1"),
        (lambda: ln.loss.cross_entropy(ln.ones((1, 3)), ln.asarray([0.5])), DTypeError, "float32"),
    ],
)
def test_misuse_names_both_values(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_loss_of_torch_can_be_replaced_in_a_training_step():
    torch = torch_or_skip()
    x, labels, weight = normal(16, 5), np.random.default_rng(0).integers(0, 3, 16), normal(5, 3)
    ours, theirs = ln.asarray(weight, requires_grad=True), to_torch(weight).requires_grad_()
    optimizer = ln.optim.SGD(lr=0.5)
    for _ in range(20):
        optimizer(ln.loss.cross_entropy(ln.asarray(x) @ ours, ln.asarray(labels)).backward())
        theirs.grad = None
        torch.nn.functional.cross_entropy(to_torch(x) @ theirs, to_torch(labels)).backward()
        with torch.no_grad():
            theirs -= 0.5 * theirs.grad
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
