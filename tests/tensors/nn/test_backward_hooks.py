"""Hooks that see and replace the gradients of a module, beside torch's."""

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GradientError
from tests.helpers.tensors.torch_comparison import normal, torch_or_skip


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("requires_grad", [False, True])
def test_hooks_see_and_replace_the_gradients_of_inputs_and_outputs(requires_grad):
    torch, found = torch_or_skip(), []
    for module, layers in ((ln, nn), (torch, torch.nn)):
        model = layers.Sequential(layers.Linear(3, 4), layers.Tanh(), layers.Linear(4, 2))
        state = {name: module.tensor(normal(*p.shape, seed=1)) for name, p in model.named_parameters()}
        model.load_state_dict(state)
        seen = []
        handle = model[0].register_full_backward_hook(
            lambda m, inputs, outputs, seen=seen: seen.append((inputs, outputs))
        )
        model[1].register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 2,))
        model[2].register_full_backward_pre_hook(lambda m, outputs: (outputs[0] * 3,))
        x = module.tensor(normal(2, 3), requires_grad=requires_grad)
        (model(x) ** 2).sum().backward()
        gradients = [p.grad for p in (*model.parameters(), *([x] if requires_grad else []))]
        handle.remove()
        ((model(x)) ** 2).sum()
        (of_input,), (of_output,) = seen[0]
        found.append([of_output, *gradients, *([of_input] if requires_grad else [])])
        assert len(seen) == 1
        assert (of_input is not None) == requires_grad
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


def test_modules_of_several_inputs_and_outputs_have_hooks():
    class Both(nn.Module):
        def forward(self, x, y):
            return x * y, x + y

    seen = []
    model = Both()
    model.register_full_backward_hook(lambda m, inputs, outputs: seen.append((inputs, outputs)))
    x, y = (ln.tensor([value], requires_grad=True) for value in (2.0, 3.0))
    product, total = model(x, y)
    (product * 5 + total).sum().backward()
    assert [part.item() for part in seen[0][0]] == [16.0, 11.0]
    assert [part.item() for part in seen[0][1]] == [5.0, 1.0]
    assert (x.grad.item(), y.grad.item()) == (16.0, 11.0)
    model.register_full_backward_hook(lambda m, inputs, outputs: inputs)
    with pytest.raises(GradientError, match="one input only"):
        model(x, y)[0].sum().backward()


def test_hooks_of_gradients_are_compiled_too():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[1].register_full_backward_hook(lambda m, inputs, outputs: (inputs[0] * 10,))
    x = ln.ones((3, 2))

    def step(x):
        return ln.grad((model(x) ** 2).sum(), list(model.parameters()))

    for eager, compiled in zip(step(x), ln.jit(step)(x), strict=True):
        close(compiled, eager)
