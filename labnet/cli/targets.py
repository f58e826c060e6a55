"""Targets of commands: a model file with an optional object name, or the URL of a server."""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labnet.cli.problems import Misuse
from labnet.errors import LabnetError
from labnet.network import RemoteModel, discovery, remote_model
from labnet.network.runner.model_file import ModelFile
from labnet.nn import Module
from labnet.optim import Optimizer

#: Environment variable with the token of a remote server; a command line would be visible to other users.
TOKEN_VARIABLE = "LABNET_TOKEN"


def is_file(target: str) -> bool:
    """Return whether a target is a model file and not a URL.

    Examples
    --------
    >>> is_file("model.py"), is_file("model.py:net"), is_file("localhost:3000")
    (True, True, False)
    """
    return split(target)[0].endswith(".py")


def split(target: str) -> tuple[str, str | None]:
    """Split FILE:NAME.

    Examples
    --------
    >>> split("models/digits.py:net"), split("digits.py")
    (('models/digits.py', 'net'), ('digits.py', None))
    """
    path, colon, name = target.rpartition(":")
    return (path, name) if colon and path.endswith(".py") else (target, None)


def load(target: str) -> ModelFile:
    """Run a model file.

    Raises
    ------
    Misuse
        If the file or the model in it does not exist.
    ServeError
        If the file cannot be run.
    """
    path, name = split(target)
    if not path.endswith(".py"):
        raise Misuse(f"expected a model file such as model.py or model.py:NAME, got {target!r}")
    if not Path(path).is_file():
        raise Misuse(f"there is no file {path!r}")
    try:
        return ModelFile.load(Path(path), name)
    except LookupError as error:
        raise Misuse(str(error.args[0])) from None


def connect(target: str, timeout: float | None) -> RemoteModel:
    """Return the model of a server, with a timeout in seconds for each reply.

    Raises
    ------
    Misuse
        If the target is no URL, port or name of a server of this user on this machine.
    """
    try:
        token = os.environ.get(TOKEN_VARIABLE)
        return remote_model(url_of(target), blocking=True, token=token, timeout=60.0 if timeout is None else timeout)
    except ValueError:
        raise Misuse(
            f"expected a file such as model.py, a URL such as localhost:3000, a port, or a name of `labnet list`, "
            f"got {target!r}"
        ) from None


def url_of(target: str) -> str:
    """Return the address that a target stands for: a bare port, the name of an own server, or an address.

    Raises
    ------
    Misuse
        If several servers have the name.

    Examples
    --------
    >>> url_of("3000"), url_of("example.org:3000")
    ('localhost:3000', 'example.org:3000')
    """
    if target.isascii() and target.isdecimal():
        return f"localhost:{target}"
    if not target.isidentifier() and (":" in target or "." in target):
        return target
    found = [entry.url for entry in discovery.entries() if entry.name == target]
    if len(found) > 1:
        raise Misuse(f"{len(found)} servers are named {target!r}: give the port of one, as `labnet list` shows them")
    return found[0] if found else target


def optimizer_of(file: ModelFile, options: argparse.Namespace) -> Any:
    """Return the optimizer of the options; load the model from a checkpoint and save it there.

    Raises
    ------
    Misuse
        If there is no such optimizer, or the model cannot be saved.
    LabnetError
        If the content of the file does not fit the model.
    """
    if options.checkpoint is not None:
        check_folder(options.checkpoint, "--checkpoint")
    try:
        optimizer = file.optimizer(options.optimizer, options.lr)
    except (LookupError, ValueError) as error:
        raise Misuse(str(error.args[0])) from None
    if options.checkpoint is not None:
        module = module_of(file, "--checkpoint")
        kept = optimizer if isinstance(optimizer, Optimizer) else None
        with fitting(options.checkpoint):
            module.checkpoint(options.checkpoint, optimizer=kept)
    return optimizer


def module_of(file: ModelFile, option: str) -> Module:
    """Return the model of a file, for an option that needs a Module.

    Raises
    ------
    Misuse
        If it is no Module.
    """
    if not isinstance(file.model, Module):
        raise Misuse(f"{option} needs a Module, and {file.name!r} is a {type(file.model).__name__}")
    return file.model


def check_folder(path: str, option: str) -> None:
    """Refuse an output file in a missing folder before any work is done.

    Raises
    ------
    Misuse
        If the folder does not exist.
    """
    if not Path(path).absolute().parent.is_dir():
        raise Misuse(f"{option}: there is no folder {str(Path(path).parent)!r}")


@contextlib.contextmanager
def fitting(path: str) -> Iterator[None]:
    """Add the file name to errors of a file that does not fit the model."""
    try:
        yield
    except (KeyError, LabnetError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise LabnetError(f"{path}: {reason}") from None
