"""Magics and panel: what a person sees in a notebook."""

from typing import Any

from labnet.jupyter.magics import LabnetMagics
from labnet.jupyter.panel import Panel

__all__ = ["LabnetMagics", "Panel", "register"]


def register(shell: Any) -> None:
    """Register the magics with an IPython shell."""
    shell.register_magics(LabnetMagics)
