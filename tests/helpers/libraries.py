"""Other libraries, for tests that compare with them or serve their models; where one is missing, the test says so."""

import pytest


def torch_or_skip():
    return pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0 (extra `torch`)")


def tensorboard_or_skip():
    return pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard: pip install tensorboard"
    )


def jax_or_skip():
    pytest.importorskip("optax", reason='needs JAX and optax: pip install "labnet[jax]"')
    return pytest.importorskip("jax", reason='needs JAX and optax: pip install "labnet[jax]"')
