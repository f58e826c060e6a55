"""What belongs to a module: parameters, buffers, and what is neither."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import labnet as ln
from labnet import nn


class Remembers(nn.Module):
    """Keeps what it computed last."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen = ln.zeros(())
        self.last = None

    def forward(self, x):
        self.seen = self.seen + 1
        self.last = self.layer(x)
        return self.last


STATE = {"layer.weight", "layer.bias", "seen"}


@pytest.mark.parametrize("recording", [True, False], ids=["recorded", "no_grad"])
def test_an_activation_that_forward_assigns_is_no_state(recording):
    model = Remembers()
    for _ in range(2):
        if recording:
            model(ln.ones((4, 3)))
        else:
            with ln.no_grad():
                model(ln.ones((4, 3)))
    assert model.last.shape == (4, 2)
    assert set(model.state_dict()) == STATE
    assert [name for name, _ in model.named_parameters()] == ["layer.weight", "layer.bias"]
    assert [name for name, _ in model.named_buffers()] == ["seen"]
    fresh = Remembers()
    fresh.load_state_dict(model.state_dict())
    assert fresh.seen.item() == 2
    model.load_state_dict(Remembers().state_dict())
    assert model.seen.item() == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_activation_does_not_become_state_by_copying(duplicate):
    model = Remembers()
    model(ln.ones((4, 3)))
    copied = duplicate(model)
    assert set(copied.state_dict()) == STATE
    copied(ln.ones((1, 3)))
    assert set(copied.state_dict()) == STATE
    assert copied.last.shape == (1, 2)


class Keeps(nn.Module):
    """Keeps what it was given and what it computed, whoever calls which of its methods."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, *, scale=None):
        self.given, self.scale = x, scale
        self.code = self.layer(x)
        return self.code


@pytest.mark.parametrize("call", [lambda model, *x, **k: model(*x, **k), lambda model, *x, **k: model.forward(*x, **k)])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_an_input_that_forward_keeps_is_no_state(call, requires_grad):
    model = Keeps()
    x, scale = ln.ones((1, 2), requires_grad=requires_grad), ln.ones(1, requires_grad=requires_grad)
    with warnings.catch_warnings(), ln.no_grad():
        warnings.simplefilter("error")
        call(model, x, scale=scale)
    call(model, x, scale=scale)
    assert model.given is x
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    assert [name for name, _ in model.named_parameters()] == ["layer.weight", "layer.bias"]


def test_what_a_forward_makes_is_a_parameter_or_a_module_with_buffers():
    class Late(nn.Module):
        def forward(self, x):
            if not hasattr(self, "scale"):
                self.scale = ln.ones(x.shape[-1], requires_grad=True)
                self.inner = Masked()
            return self.inner(x * self.scale)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.setup()

        def setup(self):
            self.mask = ln.ones(2)

        def forward(self, x):
            return x * self.mask

    model = Late()
    model(ln.ones((1, 2)))
    assert list(model.state_dict()) == ["scale", "inner.mask"]


def test_a_plain_tensor_from_outside_is_a_buffer_also_after_a_call():
    model = nn.Linear(2, 2)
    model(ln.ones((1, 2)))

    def attach(model):
        model.mask = ln.ones(2)

    attach(model)
    assert list(model.state_dict()) == ["weight", "bias", "mask"]


def test_a_module_that_is_called_while_it_is_made_keeps_no_activation():
    class Warm(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            with ln.no_grad():
                self(ln.ones((1, 2)))
            self.mask = ln.ones(2)

        def forward(self, x):
            self.last = self.layer(x)
            return self.last

    assert list(Warm().state_dict()) == ["layer.weight", "layer.bias", "mask"]


def test_an_activation_survives_a_file_of_another_instance(tmp_path):
    model = Remembers()
    model(ln.ones((4, 3)))
    ln.io.save(tmp_path / "file", model.state_dict())
    other = Remembers()
    other(ln.ones((1, 3)))
    other.load_state_dict(ln.io.load(tmp_path / "file"))
    assert other.seen.item() == 1


def test_a_checkpoint_holds_no_activation(tmp_path):
    model = Remembers()
    model.checkpoint(tmp_path / "file", every_seconds=0)
    ln.optim.SGD()(model(ln.ones((4, 3))).sum().backward())
    assert set(ln.io.load(tmp_path / "file")) == STATE


def test_an_activation_of_an_inner_module_assigned_by_the_outer_one_is_no_state():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x):
            y = self.inner(x)
            self.inner.seen = y
            self.seen = y
            return y

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Outer()
        model(ln.ones((1, 2)))
    assert set(model.state_dict()) == {"inner.weight", "inner.bias"}


def test_a_registered_buffer_is_saved_moved_and_not_trained():
    module = nn.Module()
    module.register_buffer("mean", ln.zeros(2))
    module.register_buffer("count", ln.asarray(0))
    module.register_buffer("scratch", ln.ones(3), persistent=False)
    module.register_buffer("later", None)
    assert [name for name, _ in module.named_buffers()] == ["mean", "count", "scratch"]
    assert [buffer.shape for buffer in module.buffers()] == [(2,), (), (3,)]
    assert list(module.state_dict()) == ["mean", "count"]
    assert not list(module.parameters())
    module.to("float64")
    assert (module.mean.dtype, module.count.dtype, module.scratch.dtype) == ("float64", "int64", "float64")
    module.later = ln.ones(1)
    assert list(module.state_dict()) == ["mean", "count", "later"]
    module.later = None
    assert list(module.state_dict()) == ["mean", "count"]
    del module.scratch
    module.register_buffer("scratch", ln.ones(1))
    assert list(module.state_dict()) == ["mean", "count", "scratch"]


def test_a_registered_buffer_takes_what_forward_assigns():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = ln.ones(2, requires_grad=True)
            self.register_buffer("state", ln.zeros(2))

        def forward(self, x):
            self.state = self.state * 0.5 + (x * self.scale).mean(axis=0)
            return self.state

    model = Average()
    model(ln.ones((3, 2)))
    assert model.state.requires_grad
    assert model(ln.ones((3, 2))).sum().backward()[model.scale].tolist() == [1.5, 1.5]
    assert model.state_dict()["state"].tolist() == [1.5, 1.5]
    model.load_state_dict({"scale": ln.ones(2), "state": ln.zeros(2)})
    assert model.state.tolist() == [0, 0]
    assert model(ln.ones((3, 2))).tolist() == [1, 1]
    model.to("float64")
    assert model.state.dtype == "float64"


def test_a_buffer_that_two_modules_share_is_listed_once_and_saved_under_both_names():
    one, other = nn.Module(), nn.Module()
    table = ln.ones(2)
    one.register_buffer("table", table)
    other.register_buffer("table", table)
    both = nn.ModuleList([one, other])
    assert [name for name, _ in both.named_buffers()] == ["0.table"]
    assert list(both.state_dict()) == ["0.table", "1.table"]


@pytest.mark.parametrize(
    ("name", "tensor", "error", "words"),
    [
        ("", ln.ones(1), KeyError, "without a dot"),
        ("a.b", ln.ones(1), KeyError, "'a.b'"),
        (3, ln.ones(1), KeyError, "got 3"),
        ("forward", ln.ones(1), KeyError, "'forward' already"),
        ("weight", ln.ones(1), KeyError, "'weight' already"),
        ("new", np.ones(1), TypeError, "ndarray"),
        ("new", 1.0, TypeError, "float"),
    ],
)
def test_a_buffer_that_cannot_be_is_refused(name, tensor, error, words):
    layer = nn.Linear(1, 1)
    with pytest.raises(error, match=words):
        layer.register_buffer(name, tensor)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_a_buffer_before_init_is_refused():
    class Early(nn.Module):
        def __init__(self):
            self.register_buffer("x", ln.ones(1))

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Early()


def test_a_plain_tensor_from_before_the_first_call_is_a_buffer():
    model = nn.Linear(2, 2)
    model.mask = ln.ones(2)
    assert list(model.state_dict()) == ["weight", "bias", "mask"]
    model.weight = model.weight.detach()
    assert [name for name, _ in model.named_parameters()] == ["bias"]
    model(ln.ones((1, 2)))
    assert list(model.state_dict()) == ["bias", "mask", "weight"]
    model.bias = model.bias.detach()
    assert set(model.state_dict()) == {"bias", "mask", "weight"}


class Computed(nn.Module):
    """Starts with a weight that is no leaf."""

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        self.w = ln.randn((2, 2), requires_grad=True) * 0.02


def test_a_computed_weight_is_named_where_it_is_assigned():
    with pytest.warns(UserWarning, match=r"Computed\.w of shape \(2, 2\) .* ln\.asarray") as caught:
        model = Computed()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not list(model.parameters())
    assert not model.state_dict()
    model.w = ln.asarray((ln.randn((2, 2)) * 0.02).detach(), requires_grad=True)
    assert [name for name, _ in model.named_parameters()] == ["w"]


def test_replacing_a_parameter_by_what_was_computed_from_it_is_named():
    layer = nn.Linear(2, 2)
    layer(ln.ones((1, 2)))
    with pytest.warns(UserWarning, match=r"Linear\.weight of shape \(2, 2\)"):
        layer.weight = layer.weight * 0.5
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_in_a_cell_a_computed_weight_is_named_before_the_first_call_and_an_activation_after_it_is_not():
    names = {"nn": nn, "ln": ln}
    with pytest.warns(UserWarning, match=r"Linear\.w of shape \(2,\)"):
        exec("m = nn.Linear(2, 2)\nm.w = ln.ones(2, requires_grad=True) * 2", names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("m.last = m(ln.ones((1, 2)))\nm.last = m.last * 2", names)
    assert list(names["m"].state_dict()) == ["weight", "bias"]


def test_methods_of_a_module_keep_activations_without_a_warning():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def encode(self, x):
            self.code = self.layer(x)
            return self.code

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Encoder()
        model.encode(ln.ones((1, 2)))
        model.forward = model.encode
        model(ln.ones((1, 2)))
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
