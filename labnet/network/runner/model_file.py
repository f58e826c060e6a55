"""Model files: Python files that define a model and optionally its optimizer, loss and routes.

The command line and the runner serve them. A file defines ``model``, or several objects of which the caller names one;
``optimizer``, ``loss`` and ``routes`` are used if defined. It runs like an imported module, so code under ``if __name__
== "__main__"`` does not run.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from labnet import loss, optim
from labnet.errors import ServeError
from labnet.nn import Module

OPTIMIZERS: dict[str, Callable[..., Any]] = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
LOSSES: dict[str, Callable[..., Any]] = {
    "mse": loss.mse,
    "mae": loss.mae,
    "cross_entropy": loss.cross_entropy,
    "binary_cross_entropy": loss.binary_cross_entropy,
}


@dataclass(frozen=True)
class ModelFile:
    """The definitions of a model file.

    Attributes
    ----------
    path : Path
    name : str
        Name of the model in the file.
    model : callable
    namespace : mapping of str to object
        All globals of the file.
    """

    path: Path
    name: str
    model: Callable[..., Any]
    namespace: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path, name: str | None = None) -> "ModelFile":
        """Run a file and find its model.

        Raises
        ------
        ServeError
            If the file fails; the message names the line.
        LookupError
            If it does not define the model.
        """
        namespace = _run(path)
        name = name or _find(path, namespace)
        if not callable(namespace.get(name)):
            known = ", ".join(_candidates(namespace)) or "nothing that can be called"
            raise LookupError(f"{path.name} defines no callable {name!r}; it defines {known}")
        return cls(path, name, namespace[name], namespace)

    def optimizer(self, name: str | None = None, lr: float | None = None) -> Any:
        """Return an optimizer: a standard or defined one by name, else the file's ``optimizer``, else Adam.

        Raises
        ------
        LookupError
            If the name is unknown.
        """
        if name is None:
            name = "optimizer" if "optimizer" in self.namespace and lr is None else "adam"
        if name in OPTIMIZERS:
            return OPTIMIZERS[name](**({} if lr is None else {"lr": lr}))
        if lr is not None:
            raise LookupError(f"a step size goes with {', '.join(OPTIMIZERS)}, not with the optimizer {name!r}")
        return None if name == "none" else self._named(name, "optimizer", [*OPTIMIZERS, "none"])

    def loss(self, name: str | None = None) -> Callable[..., Any]:
        """Return a loss: one by name, or of the file, or the file's ``loss``, or else the mean squared error.

        Raises
        ------
        LookupError
            If the name is unknown.
        """
        if name is None:
            name = "loss" if callable(self.namespace.get("loss")) else "mse"
        found: Callable[..., Any] = LOSSES.get(name) or self._named(name, "loss", list(LOSSES))
        return found

    def routes(self) -> Mapping[str, Callable[..., Any]]:
        """Return the file's ``routes``, if it defines any."""
        routes = self.namespace.get("routes", {})
        if not isinstance(routes, Mapping):
            raise ServeError(f"{self.path.name}: routes must be functions by name, got {routes!r:.60}")
        return routes

    def _named(self, name: str, kind: str, known: list[str]) -> Any:
        if not callable(self.namespace.get(name)):
            raise LookupError(
                f"unknown {kind} {name!r}: expected {', '.join(known)}, or one that {self.path.name} defines"
            )
        return self.namespace[name]


def _run(path: Path) -> dict[str, Any]:
    """Run a file as a module of its own, with its folder in reach of its imports."""
    name = f"labnet_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ServeError(f"{path.name} is not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    _STANDARD_LIBRARY.guard(folder)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ServeError(
            f"{Path(error.filename or path).name}, line {error.lineno}: SyntaxError: {error.msg}"
        ) from None
    except (Exception, SystemExit) as error:
        raise ServeError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    return vars(module)


class _StandardLibrary:
    """Finds the modules of the standard library outside the folders of model files, which come first in `sys.path`.

    One that is imported later, by labnet or by the model, would be a file of the model's folder that has its name.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def guard(self, folder: str) -> None:
        """Find none of its modules in a folder."""
        if self not in sys.meta_path:
            sys.meta_path.insert(sys.meta_path.index(PathFinder), self)
        self._folders.add(folder)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return where a module is, None if it is none of the standard library."""
        if path is not None or name not in sys.stdlib_module_names:
            return None
        return PathFinder.find_spec(name, [place for place in sys.path if place not in self._folders])


_STANDARD_LIBRARY = _StandardLibrary()


def _place(path: Path, error: BaseException) -> str:
    """Return the last line of the file itself that led to an error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


def _candidates(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names of what a file may have meant as its model."""
    own = namespace["__name__"]
    return [
        name
        for name, value in namespace.items()
        if not name.startswith("_")
        and (isinstance(value, Module) or (callable(value) and getattr(value, "__module__", None) == own))
    ]


def _find(path: Path, namespace: Mapping[str, Any]) -> str:
    if "model" in namespace:
        return "model"
    modules = [name for name, value in namespace.items() if isinstance(value, Module)]
    if len(modules) == 1:
        return modules[0]
    known = ", ".join(_candidates(namespace)) or "nothing that can be called"
    raise LookupError(f"{path.name} defines no 'model'; name one as {path.name}:NAME: it defines {known}")
