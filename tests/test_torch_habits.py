"""What a user of torch types first: it works, or one sentence says what to write instead."""

import pytest

import labnet as ln


def linear():
    return ln.nn.Linear(2, 1)


REFUSED = {
    "step": (lambda: ln.optim.Adam().step(), r"Adam\(model.parameters\(\), lr=0.001\)"),
    "zero_grad": (lambda: ln.optim.Adam().zero_grad(), r"opt\(loss.backward\(\)\)"),
    "unknown attribute": (lambda: setattr(ln.optim.SGD(lr=1.0), "learning_rate", 3), "it has lr, momentum"),
    "save in torch's order": (lambda: ln.io.save(linear().state_dict(), "model.pt"), r"ln.io.save\(path, tensors\)"),
    "class in Sequential": (lambda: ln.nn.Sequential(ln.nn.ReLU), r"layer 0 is the class ReLU; write ReLU\(\)"),
    "class appended": (lambda: ln.nn.Sequential().append(ln.nn.ReLU), r"write ReLU\(\)"),
    "list in Sequential": (lambda: ln.nn.Sequential([ln.nn.ReLU()]), r"write Sequential\(\*layers\)"),
    "unknown optimizer": (lambda: ln.network.serve_model(linear(), "adamm", port=0), "adagrad, adam, adamw"),
    "class of a model": (lambda: ln.network.serve_model(ln.nn.Linear, port=0), r"did you mean Linear\(\)"),
    "class of an optimizer": (lambda: ln.network.serve_model(linear(), ln.optim.Adam, port=0), r"Adam\(\)"),
}


@pytest.mark.parametrize("habit", REFUSED)
def test_a_habit_that_is_refused_is_told_what_to_write(habit):
    call, words = REFUSED[habit]
    with pytest.raises(Exception, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_habits_that_work():
    model = linear()
    opt = ln.optim.Adam(model.parameters(), lr=0.1)
    criterion = ln.nn.CrossEntropyLoss()
    opt.zero_grad()
    before = model.bias.numpy().copy()
    logits = ln.nn.functional.tanh(ln.concat([model(ln.ones(2, 2)), ln.zeros(2, 1)], axis=1) + ln.tensor([0.5]))
    criterion(logits, ln.tensor([0, 0])).backward()
    opt.step()
    assert (model.bias.numpy() != before).any()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", ln.optim.Adam), ("AdamW", ln.optim.AdamW), ("sgd", ln.optim.SGD), ("RMSprop", ln.optim.RMSprop)],
)
def test_a_server_takes_the_name_of_an_optimizer(name, kind):
    with ln.network.serve_model(linear(), name, port=0) as server:
        assert type(server.optimizer) is kind
        remote = ln.network.remote_model(server.url, blocking=True)
        remote(ln.ones((3, 2))).sum().backward()
        assert server.statistics()["server"]["version"] == 1
