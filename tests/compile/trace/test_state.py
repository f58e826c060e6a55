"""What a function changes outside of itself: refused by name, with everything as it was before."""

import types

import numpy as np
import pytest

import labnet as ln
from labnet.errors import TraceError

COUNT = 0


class Running(ln.nn.Module):
    """A module that keeps a mean of what it has seen."""

    def __init__(self):
        super().__init__()
        self.weight = ln.ones(3, requires_grad=True)
        self.mean = ln.zeros(3)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        return (x - self.mean) * self.weight


class Counting(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * 2


class Schedule:
    """An object of the user's own."""

    def __init__(self):
        self.steps = 0
        self.last = None

    def __call__(self, x):
        self.steps += 1
        return x

    def keep(self, x):
        self.last = x * 2
        return x

    def begin(self, x):
        self.fresh = x * 2
        return x


@pytest.mark.parametrize(
    "compiled", [lambda model: ln.jit(lambda x: model(x)), lambda model: ln.jit(model, wait=False)]
)
def test_a_module_keeps_a_tensor_as_eagerly(compiled):
    model, twin = Running(), Running()
    function, kept, wanted = compiled(model), [], []
    for number in range(4):
        x = ln.ones((4, 3)) * number
        np.testing.assert_allclose(function(x).numpy(), twin(x).numpy(), rtol=1e-6)
        kept.append(model.mean)
        wanted.append(twin.mean)
    for a, b in zip(kept, wanted, strict=True):  # each is a tensor of its own
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert list(model.state_dict()) == list(twin.state_dict())
    model.mean = ln.ones(3)  # which somebody sets
    twin.mean = ln.ones(3)
    np.testing.assert_allclose(function(x).numpy(), twin(x).numpy(), rtol=1e-6)


def test_a_state_that_begins_with_nothing_is_kept_as_eagerly():
    class Recurrent(ln.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = None

        def forward(self, x):
            self.hidden = ln.tanh(x if self.hidden is None else x + 0.5 * self.hidden)
            return self.hidden * 2

    model, twin = Recurrent(), Recurrent()
    function = ln.jit(lambda x: model(x))
    for number in range(5):
        np.testing.assert_allclose(function(ln.ones(2) * number).numpy(), twin(ln.ones(2) * number).numpy(), rtol=1e-6)
    assert function.specialisations == 2
    np.testing.assert_allclose(model.hidden.numpy(), twin.hidden.numpy(), rtol=1e-6)


def test_a_module_that_keeps_what_has_a_history_is_refused_and_stays_as_it_was():
    class Keeping(Running):
        def forward(self, x):
            self.mean = x.mean(axis=0) * self.weight
            return x

    model = Keeping()
    with pytest.raises(TraceError, match=r"setting model\.mean to a tensor .*detach\(\).*test_state\.py:\d+"):
        ln.jit(lambda x: model(x))(ln.ones((4, 3)))
    assert model.state_dict()["mean"].tolist() == [0, 0, 0]


def test_a_module_that_counts_is_refused_by_the_name_of_the_count():
    model = Counting()
    with pytest.raises(TraceError, match=r"a change of model\.calls: it would happen once"):
        ln.jit(lambda x: model(x))(ln.ones(2))
    assert model.calls == 0


@pytest.mark.parametrize(
    ("method", "words"),
    [("__call__", r"schedule\.steps"), ("keep", r"schedule\.last|schedule"), ("begin", "schedule")],
)
def test_an_object_that_is_changed_is_refused(method, words):
    schedule = Schedule()
    with pytest.raises(TraceError, match=rf"a change of ({words}).*test_state\.py:\d+"):
        ln.jit(lambda x: getattr(schedule, method)(x))(ln.ones(2))
    assert vars(schedule) == {"steps": 0, "last": None}


def test_lists_and_dicts_that_tensors_are_kept_in_are_put_back():
    seen, averages, nested = [], {"weight": ln.ones(2)}, {"one": [ln.zeros(2)]}
    before = averages["weight"]

    def step(x):
        averages["weight"] = 0.9 * averages["weight"] + 0.1 * x
        nested["one"][0] = x + 1
        seen.append(x * 2)
        return x

    with pytest.raises(TraceError) as raised:
        ln.jit(step)(ln.ones(2))
    for name in ("averages", "seen", r"nested['one']"):
        assert name in str(raised.value)
    assert seen == []
    assert averages["weight"] is before
    assert nested["one"][0].tolist() == [0, 0]


def test_globals_and_closures_are_put_back():
    count = 0

    def step(x):
        global COUNT
        nonlocal count
        COUNT += 1
        count += 1
        return x

    with pytest.raises(TraceError) as raised:
        ln.jit(step)(ln.ones(2))
    assert "COUNT" in str(raised.value)
    assert "count" in str(raised.value)
    assert (COUNT, count) == (0, 0)


def test_what_is_changed_is_put_back_where_something_else_cannot_be_compiled():
    seen = []

    def step(x):
        seen.append(x * 2)
        return float(x.sum())

    with pytest.raises(TraceError, match="item"):
        ln.jit(step)(ln.ones(2))
    assert seen == []


def test_a_cache_of_what_is_no_stand_in_is_fine():
    masks = {}

    def step(x):
        if x.shape not in masks:
            masks[x.shape] = np.tri(*x.shape)
        return x * ln.asarray(masks[x.shape].astype("float32"))

    assert ln.jit(step)(ln.ones((2, 2))).tolist() == [[1, 0], [1, 1]]
    assert list(masks) == [(2, 2)]


def test_a_served_model_keeps_a_tensor_as_eagerly():
    model, twin = Running(), Running()
    with ln.network.serve_model(model, port=0, compile=True) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for number in range(4):
            x = ln.ones((4, 3)) * number
            np.testing.assert_allclose(remote(x).numpy(), twin(x).numpy(), rtol=1e-6)
            np.testing.assert_allclose(model.mean.numpy(), twin.mean.numpy(), rtol=1e-6)


class Trainer:
    """A training loop as a class, whose step is compiled."""

    def __init__(self, scale):
        self.weight = ln.ones(3, requires_grad=True)
        self.optimizer = ln.optim.SGD(lr=0.1)
        self.scale = scale

    def plain(self, x):
        loss = ((self.weight * x * self.scale) ** 2).sum()
        self.optimizer(loss.backward())
        return loss

    step = ln.jit(plain)


def test_a_method_can_be_compiled_and_each_object_is_its_own():
    first, second, eager = Trainer(1.0), Trainer(2.0), Trainer(2.0)
    x = ln.ones(3)
    for _ in range(3):
        first.step(x)
        assert second.step(x).item() == pytest.approx(eager.plain(x).item())
    np.testing.assert_allclose(second.weight.numpy(), eager.weight.numpy(), rtol=1e-6)
    assert first.weight.tolist() != second.weight.tolist()
    first.scale = second.scale = eager.scale = 3.0  # what an object holds is looked at before each call
    assert second.step(x).item() == pytest.approx(eager.plain(x).item())
    assert "def " in second.step.source


class Settings:
    def __init__(self):
        self.factor = 2.0


class Scaled(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.dropout = ln.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x) * self.scale


class Evaluator:
    """An object that has a module, and settings in another one."""

    def __init__(self):
        self.model, self.settings, self.others = Scaled(), Settings(), [Scaled()]

    def plain(self, x):
        return self.others[0](self.model(x)) * self.settings.factor

    run = ln.jit(plain)


@pytest.mark.parametrize("how", ["method", "closure"])
def test_modules_and_settings_of_an_object_are_looked_at_before_each_call(how):
    evaluator, x = Evaluator(), ln.ones(64)
    run = evaluator.run if how == "method" else ln.jit(lambda x: evaluator.plain(x))
    for module in (evaluator.model, evaluator.others[0]):
        module.eval()
    assert run(x).tolist() == [2.0] * 64
    evaluator.model.scale = 3.0
    assert run(x).tolist() == [6.0] * 64
    evaluator.settings.factor = 5.0
    assert run(x).tolist() == [15.0] * 64
    evaluator.others[0].scale = 2.0
    assert run(x).tolist() == [30.0] * 64
    evaluator.model.train()
    assert len(set(run(x).tolist())) == 2
    evaluator.model = Scaled().eval()
    assert run(x).tolist() == [10.0] * 64


def test_what_is_in_lists_and_dicts_is_looked_at_before_each_call():
    settings, factors, x = {"k": 2.0, "more": {"bias": 0.0}}, [1.0], ln.ones(2)
    step = ln.jit(lambda x: x * settings["k"] * factors[0] + settings["more"]["bias"])
    assert step(x).tolist() == [2.0, 2.0]
    settings["k"] = 3.0
    assert step(x).tolist() == [3.0, 3.0]
    factors[0] = 2.0
    assert step(x).tolist() == [6.0, 6.0]
    settings["more"]["bias"] = 1.0
    assert step(x).tolist() == [7.0, 7.0]
    settings["k"] = 6.0 / 2  # an equal number
    assert step(x).tolist() == [7.0, 7.0]
    assert step.specialisations == 4
    weights = [ln.ones(2), ln.ones(2) * 2]
    total = ln.jit(lambda x: sum((weight * x for weight in weights), ln.zeros(2)))
    assert total(x).tolist() == [3.0, 3.0]
    weights[0] = ln.ones(2) * 5
    assert total(x).tolist() == [7.0, 7.0]
    weights.append(ln.ones(2))
    assert total(x).tolist() == [8.0, 8.0]


def test_a_count_in_a_dict_is_refused_and_put_back():
    counts, steps = {"steps": 0}, [0]

    def step(x):
        counts["steps"] += 1
        steps[0] += 1
        return x

    with pytest.raises(TraceError, match=r"a change of (counts, steps|steps, counts)"):
        ln.jit(step)(ln.ones(2))
    assert (counts, steps) == ({"steps": 0}, [0])


def test_a_compiled_function_is_part_of_another():
    weight = ln.ones(2, requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.5)
    inner = ln.jit(lambda x: (weight * x).sum())

    def step(x):
        loss = inner(x) * 2
        optimizer(loss.backward())
        return loss

    assert inner(ln.ones(2)).item() == 2
    outer = ln.jit(step)
    assert [outer(ln.ones(2)).item() for _ in range(3)] == [4.0, 0.0, -4.0]


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_are_clipped_as_by_an_eager_step(max_norm):
    def trained(compile):
        ln.manual_seed(0)
        model, optimizer = ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.tanh, ln.nn.Linear(4, 2)), ln.optim.Adam(lr=0.01)

        def step(x, y):
            loss = ln.loss.mse(model(x), y)
            optimizer(ln.optim.clip_norm(loss.backward(), max_norm))
            return loss

        run = ln.jit(step) if compile else step
        rng = np.random.default_rng(0)
        for _ in range(5):
            run(*(ln.asarray(rng.standard_normal((8, n)).astype("float32") * 10) for n in (3, 2)))
        return [parameter.numpy() for parameter in model.parameters()]

    for compiled, eager in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_backward_are_no_result():
    weight = ln.ones(2, requires_grad=True)
    with pytest.raises(TraceError, match=r"returning what backward returns: .* ln\.grad\(y, x\)"):
        ln.jit(lambda x: (weight * x).sum().backward())(ln.ones(2))


class Rebinding(ln.nn.Module):
    """Sets its attributes in `forward` in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.a, self.b = how, ln.ones(2), ln.zeros(2)
        if how in ("two names", "name in a list"):
            self.b = self.a
        self.kept = [self.a]

    def forward(self, x):
        return getattr(self, self.how.replace(" ", "_"))(x)

    def two_names(self, x):
        self.a = self.a + x
        return self.a * 1 + self.b

    def name_in_a_list(self, x):
        self.a = self.a + x
        return self.a * 1 + self.kept[0]

    def previous_is_current(self, x):
        self.b = self.a
        self.a = x * 1
        return self.b + x

    def another_shape(self, x):
        total = self.a.sum() + x.sum()
        self.a = ln.ones(5) * x[0]
        return total

    def growing(self, x):
        self.a = ln.concat([self.a, x])
        return self.a.sum()

    def another_dtype(self, x):
        found = self.a * 2
        self.a = (self.a + x).astype("float64")
        return found


@pytest.mark.parametrize(
    "how",
    ["two names", "name in a list", "previous is current", "another shape", "growing", "another dtype"],
)
def test_tensors_that_a_module_sets_are_those_of_eager_code(how):
    model, twin = Rebinding(how), Rebinding(how)
    function = ln.jit(lambda x: model(x))
    for number in range(4):
        x = ln.ones(2) * (number + 1)
        found, expected = function(x), twin(x)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
        for name in ("a", "b"):
            np.testing.assert_allclose(getattr(model, name).numpy(), getattr(twin, name).numpy(), rtol=1e-6)


class Flags:
    def __init__(self):
        self.factor, self.is_ready, self.shapes = 2.0, False, set()

    def read_then_set(self, x):
        found = x * self.factor
        self.factor = 5.0
        return found

    def first_time(self, x):
        if not self.is_ready:
            self.is_ready = True
            return x * 100
        return x

    def shapes_seen(self, x):
        if x.shape not in self.shapes:
            self.shapes.add(x.shape)
            return x * 10
        return x


@pytest.mark.parametrize("method", ["read_then_set", "first_time", "shapes_seen"])
def test_what_is_set_once_is_set_as_eagerly(method):
    flags, twin = Flags(), Flags()
    function = ln.jit(lambda x: getattr(flags, method)(x))
    for number in range(6):
        if number == 3:
            for one in (flags, twin):
                one.factor, one.is_ready, one.shapes = 3.0, False, set()
        assert function(ln.ones(2)).tolist() == getattr(twin, method)(ln.ones(2)).tolist()
        assert vars(flags) == vars(twin)


def changed_argument(state, x):
    state["h"] = state["h"] + x
    return x


def count_in_a_class(x):
    type(SCHEDULE).count = getattr(type(SCHEDULE), "count", 0) + 1
    return x


def caught(x):
    try:
        return x * x.sum().item()
    except Exception:
        return x


SCHEDULE = Schedule()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: ln.jit(changed_argument)({"h": ln.zeros(2)}, ln.ones(2)),
            "a container among the arguments",
        ),
        (lambda: ln.jit(count_in_a_class)(ln.ones(2)), r"a change of Schedule\.count"),
        (lambda: ln.jit(caught)(ln.ones(2)), "item"),
        (lambda: ln.jit(lambda x: types.SimpleNamespace(a=x * 2))(ln.ones(2)), "returning a SimpleNamespace"),
        (lambda: ln.jit(lambda x: (y * 2 for y in (x, x)))(ln.ones(2)), "returning a generator"),
    ],
)
def test_what_would_be_lost_is_refused(call, words):
    with pytest.raises(TraceError, match=words):
        call()
    assert not hasattr(Schedule, "count")


def test_a_write_into_a_view_that_does_not_lie_in_rows_is_refused():
    base = ln.zeros((3, 2))
    view = base[:, 0]
    with pytest.raises(TraceError, match="a write into a view from outside"):
        ln.jit(lambda x: view.assign(view + x))(ln.ones(3))
    assert base.tolist() == [[0, 0]] * 3


def test_random_numbers_go_on_as_before_a_refusal():
    ln.manual_seed(0)
    expected = ln.rand(3).tolist()
    ln.manual_seed(0)
    with pytest.raises(TraceError):
        ln.jit(lambda x: x * ln.rand(3).sum().item())(ln.ones(3))
    assert ln.rand(3).tolist() == expected
