"""The same computation in labnet and in torch: one output, and every gradient, compared."""

import numpy as np
import pytest

import labnet as ln

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def torch_or_skip():
    return pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")


def to_torch(array):
    return torch_or_skip().from_numpy(np.array(array))


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def same_weights(ours, theirs):
    """Load labnet's weights into the torch module; names and shapes have to be the same."""
    theirs.load_state_dict({name: to_torch(value.numpy()) for name, value in ours.state_dict().items()})


def assert_functions_agree(ours, theirs, *arrays, **tolerance):
    """Compare outputs, and gradients of a random projection of the output, for floating inputs."""
    floating = [a.dtype.kind == "f" for a in arrays]
    x = [ln.asarray(a, requires_grad=f) for a, f in zip(arrays, floating, strict=True)]
    y = [to_torch(a).requires_grad_(f) for a, f in zip(arrays, floating, strict=True)]
    assert_outputs_agree(ours(*x), theirs(*y), x, y, **tolerance)


def assert_modules_agree(ours, theirs, *arrays, **tolerance):
    """Compare two modules with the same weights: output, and gradients of inputs and parameters."""
    same_weights(ours, theirs)
    x = [ln.asarray(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = [to_torch(a).requires_grad_(a.dtype.kind == "f") for a in arrays]
    pairs = [(p, dict(theirs.named_parameters())[name]) for name, p in ours.named_parameters()]
    assert_outputs_agree(ours(*x), theirs(*y), [*x, *(p for p, _ in pairs)], [*y, *(p for _, p in pairs)], **tolerance)


def flat(outputs):
    if isinstance(outputs, tuple):
        return [leaf for output in outputs for leaf in flat(output)]
    return [] if outputs is None else [outputs]


def assert_outputs_agree(ours, theirs, x, y, **tolerance):
    ours, theirs, tolerance = flat(ours), flat(theirs), {**TOLERANCE, **tolerance}
    assert len(ours) == len(theirs)
    total, peer_total = 0, 0
    for out, peer in zip(ours, theirs, strict=True):
        assert out.shape == tuple(peer.shape)
        np.testing.assert_allclose(out.numpy(), peer.detach().numpy(), **tolerance)
        weights = normal(*out.shape, seed=9, dtype=out.dtype)
        total = total + (out * weights).sum()
        peer_total = peer_total + (peer * to_torch(weights)).sum()
    if not total.requires_grad:
        return
    gradients = total.backward()
    peer_total.backward()
    for position, (tensor, peer) in enumerate(zip(x, y, strict=True)):
        if tensor.requires_grad and peer.grad is not None:
            np.testing.assert_allclose(
                gradients[tensor].numpy(), peer.grad.numpy(), err_msg=f"gradient {position}", **tolerance
            )
