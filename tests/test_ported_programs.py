"""Programs in torch's form: with torch's imports in place of labnet's, the losses on the same weights are the same."""

import types
from pathlib import Path

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.torch_comparison import same_weights, torch_or_skip

EXAMPLES = Path(__file__).parent.parent / "examples"


def program(name, package):
    source = (EXAMPLES / f"{name}.py").read_text().replace("from labnet", f"from {package}")
    module = types.ModuleType(f"{name}_with_{package}")
    exec(compile(source, str(EXAMPLES / f"{name}.py"), "exec"), vars(module))
    return module


def small_gpt(module, model, **named):
    return module.train(model, module.batches()[:40], **named)


def digits_convnet(module, model, **named):
    images, labels = module.digits()
    return module.train(model, images, labels, epochs=1, **named)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("name", "model", "run"), [("small_gpt", "GPT", small_gpt), ("digits_convnet", "Net", digits_convnet)]
)
def test_a_program_has_torchs_losses_when_its_imports_are_changed(name, model, run, compiled):
    torch_or_skip()
    ours, theirs = program(name, "labnet"), program(name, "torch")
    ln.manual_seed(0)
    net, peer = getattr(ours, model)(), getattr(theirs, model)()
    same_weights(net, peer)
    expected = run(theirs, peer)
    found = run(ours, net, compiled=ln.jit) if compiled else run(ours, net)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found[-1] < 0.8 * found[0]


def test_the_same_images_are_recognised():
    torch_or_skip()
    ours, theirs = program("digits_convnet", "labnet"), program("digits_convnet", "torch")
    net, peer = ours.Net(), theirs.Net()
    images, labels = ours.digits()
    ours.train(net, images, labels, epochs=1)
    same_weights(net, peer)
    assert ours.accuracy(net, images, labels) == theirs.accuracy(peer, images, labels)
