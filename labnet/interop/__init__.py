"""Models of other libraries, served and called: torch, JAX, scikit-learn and NumPy.

``ln.interop.torch`` and ``ln.interop.jax`` are imported on first use, with their library.
"""

from importlib import import_module
from typing import Any

from labnet.network.adapters.model_adapter import ModelAdapter, Options, register

__all__ = ["ModelAdapter", "Options", "register"]

_LAZY = ("jax", "torch")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"labnet.interop.{name}")
    raise AttributeError(f"module 'labnet.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
