"""The notebook interface: magics, panel, progress and plots.

Each part is imported on first use, because it imports IPython, widgets or matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labnet.jupyter.magics import LabnetMagics
    from labnet.jupyter.panel import Panel
    from labnet.jupyter.plots import plot_latency, plot_loss
    from labnet.jupyter.progress import progress

_PLACES = {
    "LabnetMagics": "magics",
    "Panel": "panel",
    "plot_latency": "plots",
    "plot_loss": "plots",
    "progress": "progress",
}

__all__ = ["LabnetMagics", "Panel", "plot_latency", "plot_loss", "progress", "register"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        found = globals()[name] = getattr(import_module(f"labnet.jupyter.{_PLACES[name]}"), name)
        return found
    raise AttributeError(f"module 'labnet.jupyter' has no attribute {name!r}")


def register(shell: Any) -> None:
    """Register the magics with an IPython shell; idempotent."""
    from labnet.jupyter import completion, heartbeat, tracebacks
    from labnet.jupyter.magics import LabnetMagics
    from labnet.runs import recording

    known = isinstance(shell.magics_manager.registry.get(LabnetMagics.__name__), LabnetMagics)
    if not known:
        shell.register_magics(LabnetMagics)
        completion.register(shell, LabnetMagics)
        heartbeat.register(shell)
        tracebacks.register(shell)
        recording.code_source = lambda: str(shell.user_ns["In"][-1])
