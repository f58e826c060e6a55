"""Copies and pickles of modules and optimizers: whatever was trained before, they train apart and alike."""

import copy
import pickle

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.torch_comparison import normal

COPY = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
OPTIMIZERS = {
    "SGD": lambda **only: ln.optim.SGD(lr=0.05, **only),
    "momentum": lambda **only: ln.optim.SGD(lr=0.05, momentum=0.9, **only),
    "Adam": lambda **only: ln.optim.Adam(lr=0.01, **only),
    "AdamW": lambda **only: ln.optim.AdamW(lr=0.01, weight_decay=0.1, **only),
}
copies = pytest.mark.parametrize("duplicate", COPY.values(), ids=COPY)
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)

X = ln.asarray(normal(8, 3, seed=1))


class Tied(ln.nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first = ln.nn.Linear(3, 3)
        self.second = ln.nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(ln.nn.relu(self.first(x)))


def network():
    return ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 1))


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer((model(X) * model(X)).mean().backward())
    return {name: value.numpy() for name, value in model.state_dict().items()}


def twins(build, make, *, restricted, steps=3):
    """Return two equal pairs of module and optimizer, trained alike."""
    pairs = []
    for _ in range(2):
        ln.manual_seed(5)
        model = build()
        pairs.append((model, make(parameters=list(model.parameters())[:2]) if restricted else make()))
        train(*pairs[-1], steps)
    return pairs


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@copies
@optimizers
@pytest.mark.parametrize("restricted", [False, True], ids=["all parameters", "some parameters"])
@pytest.mark.parametrize("build", [network, Tied], ids=["network", "tied"])
def test_a_copy_of_module_and_optimizer_trains_as_an_untouched_twin(duplicate, make, restricted, build):
    original, twin = twins(build, make, restricted=restricted)
    before = {name: value.numpy() for name, value in original[0].state_dict().items()}
    copied = duplicate(original)
    assert_same(train(*copied, 20), train(*twin, 20))
    assert_same({name: value.numpy() for name, value in original[0].state_dict().items()}, before)
    assert any((before[name] != value.numpy()).any() for name, value in copied[0].state_dict().items())
    assert_same(train(*original, 20), {name: value.numpy() for name, value in twin[0].state_dict().items()})


@copies
def test_the_optimizer_may_come_before_its_module(duplicate):
    (model, optimizer), twin = twins(network, OPTIMIZERS["Adam"], restricted=True)
    copied, other = duplicate([optimizer, {"model": model}])
    assert_same(train(other["model"], copied, 20), train(*twin, 20))


@copies
@optimizers
def test_a_module_that_holds_its_optimizer_is_copied_with_it(duplicate, make):
    (model, optimizer), twin = twins(network, make, restricted=True)
    model.optimizer = optimizer
    copied = duplicate(model)
    assert copied.optimizer is not optimizer
    assert_same(train(copied, copied.optimizer, 20), train(*twin, 20))


@optimizers
@pytest.mark.parametrize("restricted", [False, True], ids=["all parameters", "some parameters"])
def test_an_optimizer_copied_alone_goes_on_with_the_same_module(make, restricted):
    (model, optimizer), twin = twins(network, make, restricted=restricted)
    expected = train(*twin, 20)
    for duplicate in (copy.deepcopy, copy.copy):
        before = model.state_dict()
        assert_same(train(model, duplicate(optimizer), 20), expected)
        model.load_state_dict(before)


def test_training_the_original_after_copying_leaves_the_copys_state():
    original, twin = twins(network, OPTIMIZERS["Adam"], restricted=False)
    copied = copy.deepcopy(original)
    train(*original, 5)
    assert_same(train(*copied, 20), train(*twin, 20))


@copies
def test_an_optimizer_is_copied_alone(duplicate):
    model, optimizer = network(), ln.optim.Adam(lr=0.25, betas=(0.5, 0.75), eps=1e-3)
    train(model, optimizer, 2)
    optimizer.lr = 0.5
    copied = duplicate(optimizer)
    assert (copied.lr, copied.betas, copied.eps) == (0.5, (0.5, 0.75), 1e-3)
    copied.lr = 1.0
    assert optimizer.lr == 0.5
    other = network()
    before = other.state_dict()["0.weight"].tolist()
    train(other, copied, 1)
    assert other.state_dict()["0.weight"].tolist() != before


@copies
def test_the_copys_state_has_the_names_of_the_copied_module(duplicate):
    model, optimizer = network(), ln.optim.Adam()
    train(model, optimizer, 2)
    copied, other = duplicate((model, optimizer))
    expected = {name: value.tolist() for name, value in optimizer.state_dict(model.named_parameters()).items()}
    found = other.state_dict(copied.named_parameters())
    assert {name: value.tolist() for name, value in found.items()} == expected


@copies
def test_tied_parameters_stay_tied(duplicate):
    copied = duplicate(Tied())
    assert copied.first.weight is copied.second.weight
    assert len(list(copied.parameters())) == 3


@copies
def test_a_copy_of_a_module_with_a_checkpoint_leaves_the_file_to_the_original(duplicate, tmp_path):
    model, optimizer = network(), ln.optim.SGD()
    path = tmp_path / "model.safetensors"
    model.checkpoint(path, every_seconds=0, optimizer=optimizer)
    train(model, optimizer, 1)
    saved = path.read_bytes()
    copied, other = duplicate((model, optimizer))
    train(copied, other, 3)
    assert path.read_bytes() == saved
    train(model, optimizer, 1)
    assert path.read_bytes() != saved


@copies
@pytest.mark.parametrize(
    "build",
    [
        network,
        Tied,
        lambda: ln.nn.Sequential(ln.nn.TransformerEncoderLayer(4, 2, 8), ln.nn.GELU(), ln.nn.LayerNorm(4)),
        lambda: ln.nn.Sequential(ln.nn.Conv2d(1, 2, 3), ln.nn.MaxPool2d(2), ln.nn.Flatten()),
        lambda: ln.nn.LSTM(2, 3, num_layers=2, bidirectional=True),
        lambda: ln.nn.PositionalEncoding(4),
    ],
)
def test_a_copied_module_is_of_its_own(duplicate, build):
    model = build().eval()
    copied = duplicate(model)
    assert copied.training is False
    assert repr(copied) == repr(model)
    assert_same(
        {name: value.numpy() for name, value in copied.state_dict().items()},
        {name: value.numpy() for name, value in model.state_dict().items()},
    )
    shared = {id(tensor) for tensor in model.saved_tensors().values()}
    assert not shared & {id(tensor) for tensor in copied.saved_tensors().values()}


@copies
def test_what_a_forward_left_behind_does_not_keep_a_module_from_being_copied(duplicate):
    class Remembers(ln.nn.Module):
        def forward(self, x):
            self.last = x * x
            return self.last

    globals()["Remembers"] = Remembers
    Remembers.__qualname__ = "Remembers"
    model = Remembers()
    model(ln.ones(2, requires_grad=True))
    copied = duplicate(model)
    assert copied.last.tolist() == [1, 1]
    assert not copied.last.requires_grad
    assert model.last.requires_grad


def test_a_shallow_copy_of_a_module_has_attributes_of_its_own():
    model = ln.nn.Linear(2, 1)
    copied = copy.copy(model)
    del copied.bias
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]
    assert copied.weight is model.weight


@pytest.mark.parametrize("compiled", [False, True])
def test_a_copy_is_trained_by_a_compiled_step_too(compiled):
    pairs = twins(network, OPTIMIZERS["Adam"], restricted=False)
    model, optimizer = copy.deepcopy(pairs[0])

    def step(x):
        optimizer((model(x) * model(x)).mean().backward())

    run = ln.jit(step) if compiled else step
    for _ in range(5):
        run(X)
    expected = train(*pairs[1], 5)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6)


@copies
def test_gradients_that_have_added_up_are_copied_by_deepcopy(duplicate):
    weight = ln.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    copied = duplicate(weight)
    assert copied.requires_grad
    assert copied.is_leaf
    assert (copied.grad is None) == (duplicate is not copy.deepcopy)
    weight.grad = None
    assert copied.grad is None or copied.grad.tolist() == [3, 3]


def test_a_copied_optimizer_knows_no_other_attributes():
    with pytest.raises(AttributeError, match="'Adam' object has no attribute 'wrong'"):
        copy.deepcopy(ln.optim.Adam()).wrong  # noqa: B018
