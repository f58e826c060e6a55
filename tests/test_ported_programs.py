"""Programs in torch's form: with torch's imports in place of labnet's, the losses on the same weights are the same.

They are the same compiled, and with the model in a server.
"""

import sys
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.torch_comparison import same_weights, torch_or_skip

EXAMPLES = Path(__file__).parent.parent / "examples"


class Program(NamedTuple):
    """A program, what makes its models, and the share of the first loss that remains after some steps."""

    name: str
    models: tuple[str, ...]
    steps: int
    remains: float = 0.8


PROGRAMS = [
    Program("small_gpt", ("GPT",), 40),
    Program("digits_convnet", ("Net",), 22),
    Program("moons_mlp", ("MLP",), 40),
    Program("character_models", ("Bigram",), 20, remains=0.95),
    Program("character_models", ("perceptron",), 20),
    Program("character_models", ("wavenet",), 20),
    Program("variational_autoencoder", ("Autoencoder",), 30),
    Program("variational_autoencoder", ("VAE",), 30),
    Program("adversarial_networks", ("generator", "discriminator"), 40, remains=1.0),
    Program("sine_gru", ("Forecast",), 20),
    Program("deep_q_learning", ("network", "network"), 30),
    Program("physics_informed", ("network",), 30),
    Program("residual_network", ("ResNet",), 12),
    Program("word2vec", ("SkipGram",), 40),
    Program("graph_convolution", ("GCN",), 30),
]
SERVED = [program for program in PROGRAMS if program.name in (EXAMPLES / "over_the_network.py").read_text()]


def program(name, package):
    """Return a program that imports torch's names from a package."""
    source = (EXAMPLES / f"{name}.py").read_text()
    if package == "torch":
        source = source.replace("from labnet.ops import grad", "from torch.autograd import grad")
    module = types.ModuleType(f"{name}_with_{package}")
    source = source.replace("from labnet", f"from {package}")
    exec(compile(source, str(EXAMPLES / f"{name}.py"), "exec"), vars(module))
    if name == "sine_gru":
        module.LENGTH = 6  # its loop over time is compiled step by step
    return module


def models(module, names):
    ln.manual_seed(0)
    return [getattr(module, name)() for name in names]


def trained(module, models, steps, **named):
    """Return the losses of the first steps."""
    if hasattr(module, "batches"):
        return np.array(module.train(*models, module.batches()[:steps], **named))
    images, labels = module.digits()
    return np.array(module.train(*models, images, labels, epochs=1, **named))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: "-".join((case.name, *case.models)))
def test_a_program_has_torchs_losses_when_its_imports_are_changed(case, compiled):
    torch_or_skip()
    ours, theirs = program(case.name, "labnet"), program(case.name, "torch")
    nets, peers = models(ours, case.models), models(theirs, case.models)
    for net, peer in zip(nets, peers, strict=True):
        same_weights(net, peer)
    expected = trained(theirs, peers, case.steps)
    found = trained(ours, nets, case.steps, **({"compiled": ln.jit} if compiled else {}))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found[-1] < case.remains * found[0]).any()


@pytest.fixture
def over_the_network(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield program("over_the_network", "labnet")
    for name in ("processes", *(case.name for case in PROGRAMS)):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("case", SERVED, ids=lambda case: "-".join((case.name, *case.models)))
def test_a_served_model_is_trained_as_a_local_one(case, over_the_network):
    ours = program(case.name, "labnet")
    (local,), (served,) = models(ours, case.models), models(ours, case.models)
    data = ours.batches()[: case.steps]
    with ln.network.serve_model(served, ours.optimizer_of(served), port=0) as server:
        found = over_the_network.train(ours, server.url, data)
    np.testing.assert_allclose(found, ours.train(local, data), rtol=1e-5, atol=1e-6)
    assert_same_states(served, local)


def assert_same_states(served, local):
    for name, value in local.state_dict().items():
        np.testing.assert_allclose(served.state_dict()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_served_generator_is_trained_by_a_discriminator_at_home():
    ours = program("adversarial_networks", "labnet")
    data = ours.batches()[:20]
    generator, discriminator = models(ours, ("generator", "discriminator"))
    expected = ours.train(generator, discriminator, data)
    served, judge = models(ours, ("generator", "discriminator"))
    optimizer, found = ours.optimizer_of(judge, 2e-3), []
    with ln.network.serve_model(served, ours.optimizer_of(served, 1e-3), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for real, noise in data:
            fake = remote(noise)
            loss = ours.loss_of_discriminator(judge, ln.asarray(real), fake.detach())
            optimizer(loss.backward())
            deceived = ours.loss_of_generator(judge, fake)
            deceived.backward()
            optimizer.zero_grad()
            found.append([loss.item(), deceived.item()])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_same_states(served, generator)


def test_a_served_network_learns_by_q_learning_with_a_target_at_home():
    ours = program("deep_q_learning", "labnet")
    (online, target), (served, old) = models(ours, ("network",) * 2), models(ours, ("network",) * 2)
    data = ours.batches()[:20]
    expected = ours.train(online, target, data)
    found = []
    with ln.network.serve_model(served, ours.optimizer_of(served), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        old.load_state_dict(remote.state_dict())
        for batch in data:
            loss = ours.loss_of(remote, old, *map(ln.asarray, batch))
            loss.backward()
            found.append(loss.item())
            ours.follow(old.parameters(), remote.state_dict().values())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert_same_states(old, target)


def test_the_same_images_are_recognised():
    torch_or_skip()
    ours, theirs = program("digits_convnet", "labnet"), program("digits_convnet", "torch")
    net, peer = ours.Net(), theirs.Net()
    images, labels = ours.digits()
    ours.train(net, images, labels, epochs=1)
    same_weights(net, peer)
    assert ours.accuracy(net, images, labels) == theirs.accuracy(peer, images, labels)
