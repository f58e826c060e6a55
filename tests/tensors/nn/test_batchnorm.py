"""Batch normalisation: torch's values, gradients, running statistics and state, over several steps."""

import copy

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import DTypeError, ShapeError
from tests.helpers.tensors.torch_comparison import assert_modules_agree, normal, same_weights, to_torch, torch_or_skip

OPTIONS = {
    "as it is": {},
    "momentum": {"momentum": 0.7, "eps": 1e-2},
    "mean over all batches": {"momentum": None},
    "without parameters": {"affine": False},
    "without statistics": {"track_running_stats": False},
    "without both": {"affine": False, "track_running_stats": False},
    "momentum 0": {"momentum": 0.0},
}
INPUTS = {
    "1d": ("BatchNorm1d", (6, 3)),
    "1d of sequences": ("BatchNorm1d", (4, 3, 5)),
    "2d": ("BatchNorm2d", (2, 3, 4, 5)),
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
inputs = pytest.mark.parametrize(("name", "shape"), INPUTS.values(), ids=INPUTS)


def pair(name, options):
    torch = torch_or_skip()
    ours, theirs = getattr(nn, name)(3, **options), getattr(torch.nn, name)(3, **options)
    if options.get("affine", True):
        ours.weight.assign(normal(3, seed=1))
        ours.bias.assign(normal(3, seed=2))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    same_weights(ours, theirs)
    return ours, theirs


def assert_same_state(ours, theirs):
    for key, value in theirs.state_dict().items():
        found = ours.state_dict()[key]
        assert (found.shape, str(found.dtype)) == (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        np.testing.assert_allclose(found.numpy(), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)


@inputs
@options
def test_steps_of_training_and_evaluation_are_torchs(name, shape, options):
    torch = torch_or_skip()
    ours, theirs = pair(name, options)
    optimizer, peer = ln.optim.SGD(lr=0.1), None
    if list(theirs.parameters()):
        peer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step in range(5):
        x = normal(*shape, seed=step) * 3 + 1
        weights = normal(*shape, seed=step + 100)
        y, other = ours(ln.asarray(x)), theirs(to_torch(x))
        np.testing.assert_allclose(y.numpy(), other.detach().numpy(), rtol=1e-4, atol=1e-5)
        if peer is not None:
            peer.zero_grad()
            (other * to_torch(weights)).sum().backward()
            peer.step()
            optimizer((y * weights).sum().backward())
        assert_same_state(ours, theirs)
    x = normal(*shape, seed=50)
    np.testing.assert_allclose(
        ours.eval()(ln.asarray(x)).numpy(), theirs.eval()(to_torch(x)).detach().numpy(), rtol=1e-4, atol=1e-5
    )
    assert_same_state(ours, theirs)


@inputs
@options
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_inputs_and_parameters_are_torchs(name, shape, options, training):
    ours, theirs = pair(name, options)
    ours.train(training), theirs.train(training)
    assert_modules_agree(ours, theirs, normal(*shape, seed=7) * 2 - 1, rtol=1e-4, atol=1e-5)


@options
def test_state_goes_to_torch_and_back(options, tmp_path):
    torch_or_skip()
    ours, theirs = pair("BatchNorm2d", options)
    ours(ln.asarray(normal(2, 3, 4, 4)))
    ln.io.save(tmp_path / "file", ours.state_dict())
    loaded = ln.io.load(tmp_path / "file")
    theirs.load_state_dict({key: to_torch(value.numpy()) for key, value in loaded.items()})
    assert_same_state(ours, theirs)
    theirs(to_torch(normal(2, 3, 4, 4, seed=3)))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    assert_same_state(ours, theirs)


def test_statistics_are_buffers_and_no_parameters():
    layer = nn.BatchNorm1d(2)
    layer(ln.asarray(normal(4, 2), requires_grad=True))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in layer.named_buffers()] == ["running_mean", "running_var", "num_batches_tracked"]
    assert not any(buffer.requires_grad for buffer in layer.buffers())
    assert layer.num_batches_tracked.item() == 1


def test_a_copy_has_statistics_of_its_own():
    layer = nn.BatchNorm1d(2)
    layer(ln.asarray(normal(4, 2)))
    twin = copy.deepcopy(layer)
    before = layer.running_mean.tolist()
    twin(ln.asarray(normal(4, 2, seed=1)))
    assert layer.running_mean.tolist() == before
    assert (layer.num_batches_tracked.item(), twin.num_batches_tracked.item()) == (1, 2)


def test_evaluation_and_statistics_without_gradients_leave_the_state_alone():
    layer = nn.BatchNorm2d(3)
    before = {key: value.tolist() for key, value in layer.state_dict().items()}
    layer.eval()(ln.asarray(normal(2, 3, 4, 4)))
    assert {key: value.tolist() for key, value in layer.state_dict().items()} == before
    with ln.no_grad():
        layer.train()(ln.asarray(normal(2, 3, 4, 4)))
    assert layer.num_batches_tracked.item() == 1
    layer.reset_running_stats()
    assert {key: value.tolist() for key, value in layer.state_dict().items()} == before


def test_a_graph_keeps_what_it_saw_while_statistics_move_on():
    layer, x = nn.BatchNorm1d(2), ln.asarray(normal(4, 2), requires_grad=True)
    layer.eval()
    y = layer(x)
    layer.train()(ln.asarray(normal(4, 2, seed=1)) * 10)
    expected = np.broadcast_to(1 / np.sqrt(np.ones(2, "float32") + 1e-5), (4, 2))
    np.testing.assert_allclose(y.sum().backward()[x].numpy(), expected, rtol=1e-6)


def test_in_float64_and_on_its_way_back():
    layer = nn.BatchNorm1d(2).to("float64")
    assert layer(ln.asarray(normal(4, 2, dtype="float64"))).dtype == "float64"
    assert layer.running_var.dtype == "float64"
    assert layer.num_batches_tracked.dtype == "int64"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.BatchNorm1d(3)(ln.ones((4, 2))), ShapeError, r"\(N, 3\) or \(N, 3, L\), got \(4, 2\)"),
        (lambda: nn.BatchNorm1d(3)(ln.ones(3)), ShapeError, r"got \(3,\)"),
        (lambda: nn.BatchNorm1d(3)(ln.ones((1, 3, 2, 2))), ShapeError, r"got \(1, 3, 2, 2\)"),
        (lambda: nn.BatchNorm2d(3)(ln.ones((4, 3))), ShapeError, r"\(N, 3, H, W\), got \(4, 3\)"),
        (lambda: nn.BatchNorm1d(3)(ln.ones((1, 3))), ShapeError, r"more than one value .* \(1, 3\)"),
        (
            lambda: nn.BatchNorm1d(3, track_running_stats=False).eval()(ln.ones((1, 3))),
            ShapeError,
            "more than one value",
        ),
        (lambda: nn.BatchNorm1d(3)(ln.ones((0, 3))), ShapeError, r"more than one value .* \(0, 3\)"),
        (lambda: nn.BatchNorm1d(3)(ln.ones((4, 3), dtype="float64")), DTypeError, "float32.*float64"),
        (lambda: nn.BatchNorm1d(3, affine=False)(ln.ones((4, 3), dtype="int64")), DTypeError, "float32.*int64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_single_sample_is_fine_in_evaluation():
    assert nn.BatchNorm1d(3).eval()(ln.ones((1, 3))).shape == (1, 3)


def test_repr_says_what_is_unusual():
    assert repr(nn.BatchNorm2d(3)) == "BatchNorm2d(3)"
    assert repr(nn.BatchNorm2d(3, momentum=None, affine=False)) == "BatchNorm2d(3, momentum=None, affine=False)"


def test_a_served_model_with_statistics_trains_and_keeps_them():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    server = ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0)
    try:
        remote = ln.network.remote_model(server.url, blocking=True)
        for step in range(3):
            remote(ln.asarray(normal(8, 3, seed=step))).sum().backward()
        assert model[1].num_batches_tracked.item() == 3
    finally:
        server.stop()
