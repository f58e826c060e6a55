"""Functions that leave labnet's graph: the first backward says so, and no weight changes."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GradientError, RemoteGradientError
from tests.helpers.libraries import torch_or_skip
from tests.helpers.network.client_calls import blocking, run


class Half(ln.nn.Module):
    """A model whose first layer is cut off by NumPy."""

    def __init__(self):
        super().__init__()
        self.first = ln.nn.Linear(3, 4)
        self.last = ln.nn.Linear(4, 2)

    def between(self, h):
        return ln.asarray(np.tanh(h.numpy()))

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class Async(Half):
    async def forward(self, x):
        return self.last(self.between(self.first(x)))


class Listed(Half):
    def between(self, h):
        return ln.asarray(h.tolist())


def in_torch(x):
    return torch_or_skip().sin(torch_or_skip().tensor(x.numpy()))


PLAIN = "returned a plain array, so no gradient can come back; use ln.sin instead of np.sin"
READ = "read its input as a plain array"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda x: np.sin(np.asarray(x)), PLAIN),
        (lambda x: {"y": np.sin(x.numpy())}, PLAIN),
        (in_torch, "returned a torch tensor, so no gradient"),
        (lambda x: ln.asarray(np.sin(x.numpy())), READ),
        (lambda x: ln.asarray(x.tolist()) * 2, READ),
        (Half(), READ),
        (Listed(), READ),
        (Async(), READ),
    ],
    ids=["array", "dict", "torch", "wrapped", "list", "module", "module-list", "async"],
)
def test_a_model_that_leaves_the_graph_says_so_at_the_first_backward(model, told):
    optimizer = ln.optim.SGD(lr=0.5)
    with ln.network.serve_model(model, optimizer, port=0) as server:
        before = {name: value.numpy() for name, value in getattr(model, "state_dict", dict)().items()}
        x = ln.asarray(np.ones((2, 3), "float32"), requires_grad=True)
        y = blocking(server)(x)
        y = y["y"] if isinstance(y, dict) else y
        with pytest.raises(RemoteGradientError, match=told) as raised:
            y.sum().backward()
        assert isinstance(raised.value, GradientError)
        assert "bring-your-own-model.md" in str(raised.value)
        assert server.statistics()["server"]["version"] == 0
    after = {name: value.numpy() for name, value in getattr(model, "state_dict", dict)().items()}
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_parameter_that_is_cut_off_is_an_error_also_where_the_input_is_data():
    with ln.network.serve_model(Half(), ln.optim.SGD(lr=0.5), port=0) as server:
        y = blocking(server)(np.ones((2, 3), "float32"))
        with pytest.raises(RemoteGradientError, match="read a parameter as a plain array"):
            y.sum().backward()


def test_an_input_by_name_is_named():
    with ln.network.serve_model(lambda x, y: x * ln.asarray(y.numpy()), port=0) as server:
        x, y = ln.ones(2, requires_grad=True), ln.ones(2, requires_grad=True)
        with pytest.raises(RemoteGradientError, match="read input 'y' as a plain array"):
            blocking(server)(x=x, y=y).sum().backward()


class Gated(ln.nn.Module):
    """A model that uses one of its two layers, and looks at numbers on the way."""

    def __init__(self):
        super().__init__()
        self.used = ln.nn.Linear(3, 2)
        self.unused = ln.nn.Linear(3, 2)
        self.seen = []

    def forward(self, x):
        y = self.used(x)
        self.seen.append(float(y.numpy().mean()))
        return y


def test_a_layer_without_use_and_numbers_for_a_log_are_no_errors():
    model = Gated()
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.5), port=0) as server:
        x = ln.asarray(np.ones((2, 3), "float32"), requires_grad=True)
        gradients = blocking(server)(x).sum().backward()
        assert gradients[x].shape == (2, 3)
    assert len(model.seen) == 1


def test_functions_of_numpy_that_take_tensors_keep_their_gradient():
    with ln.network.serve_model(lambda x: np.sin(x) * 2, port=0) as server:
        x = ln.asarray([0.0], requires_grad=True)
        assert blocking(server)(x).sum().backward()[x].tolist() == [2.0]


def test_predictions_of_any_library_are_answered():
    with ln.network.serve_model(in_torch, port=0) as server, ln.no_grad():
        assert blocking(server)([0.0]).tolist() == [0.0]


def test_a_model_that_only_computes_is_no_error():
    async def step(server):
        model = ln.network.remote_model(server.url)
        await (await model(ln.ones(3))).sum().backward()

    with ln.network.serve_model(lambda x: np.sin(x.numpy()), port=0) as server:
        run(step(server))
