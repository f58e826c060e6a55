"""The client of a runner: upload a model file, get the model."""

import os
import ssl as tls
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labnet import wire
from labnet.errors import ProtocolMismatch
from labnet.network.client.options import ClientOptions
from labnet.network.client.remote_model import RemoteModel
from labnet.network.client.session import Caller
from labnet.network.threads import IO
from labnet.network.transport.address import Address
from labnet.tensor import Tensor


@dataclass(frozen=True)
class CommandResult:
    """The exit status and output of a shell command."""

    returncode: int
    stdout: str
    stderr: str


class RemoteRunner:
    """The client of a runner, made by `remote_runner`. With ``blocking=False`` all methods return awaitables."""

    def __init__(self, address: Address, options: ClientOptions, *, blocking: bool):
        self._caller = Caller(address, options)
        self._options = options
        self._blocking = blocking

    @property
    def url(self) -> str:
        """Address of the runner, without a token."""
        return str(self._caller.address)

    def serve_model(
        self,
        file: "str | os.PathLike[str]",
        name: str | None = None,
        *,
        model: str | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
    ) -> Any:
        """Upload a model file and serve its model in a new process.

        Parameters
        ----------
        file : path
            Python file that defines ``model`` and optionally ``optimizer`` and ``routes``.
        name : str, optional
            Name of the model; by default that of the file. One of the same name is replaced, once the new one
            is served; it has a new address.
        model : str, optional
            Name in the file of the object to serve.
        optimizer : str, optional
            ``"sgd"``, ``"adam"``, ``"adamw"``, ``"none"`` or the name of one that the file defines; by default
            the file's ``optimizer``, else Adam.
        lr : float, optional
            Step size of an optimizer by name.

        Returns
        -------
        RemoteModel, or with ``blocking=False`` something to await that gives it

        Raises
        ------
        RemoteFailure
            If the file cannot be run or defines no such model; the message names the line.
        """
        path = Path(file)
        options = {
            "file": path.name,
            "name": name,
            "model": model,
            "optimizer": optimizer,
            "lr": None if lr is None else repr(float(lr)),
        }
        return self._run(self._serve_model(path.read_bytes(), options))

    async def _serve_model(self, source: bytes, options: Mapping[str, str | None]) -> RemoteModel:
        found = await self._post("/serve_model", source, options)
        try:
            port, token = int(found["port"]), str(found["token"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolMismatch(
                f"{self.url}/serve_model: expected port and token of the model, got {found!r:.80}",
                server=self.url,
                route="/serve_model",
            ) from error
        address = Address(self._caller.address.scheme, self._caller.address.host, port, "")
        return RemoteModel(Caller(address, replace(self._options, token=token)), blocking=self._blocking)

    def stop_model(self, name: str) -> Any:
        """Stop the process of a model."""
        return self._run(self._post("/stop_model", b"", {"name": name}))

    def models(self) -> Any:
        """Return the port and state of each model, by name."""
        return self._run(self._get("/models"))

    def logs(self, name: str | None = None) -> Any:
        """Return the output of a model, or of all models, as one text."""
        return self._run(self._get("/logs") if name is None else self._post("/logs", b"", {"name": name}))

    def shell(self, command: str, *, timeout: float = 60.0) -> Any:
        """Run a shell command on the runner's machine, if the runner allows it.

        Parameters
        ----------
        command : str
        timeout : float
            Seconds after which the command is killed.

        Returns
        -------
        CommandResult, or with ``blocking=False`` something to await that gives it
        """
        return self._run(self._shell(command, timeout))

    async def _shell(self, command: str, timeout: float) -> CommandResult:
        found = await self._post("/shell", command.encode(), {"timeout": repr(float(timeout))})
        return CommandResult(**found)

    async def _get(self, route: str) -> Any:
        return self._caller.decode(route, await self._caller.call("GET", route))

    async def _post(self, route: str, content: bytes, options: Mapping[str, str | None]) -> Any:
        metadata = {key: value for key, value in options.items() if value is not None}
        tensor = Tensor(np.frombuffer(content, np.uint8))
        body = wire.encode_native(wire.Message({"source": tensor}, named=True, metadata=metadata))
        return self._caller.decode(route, await self._caller.call("POST", route, body))

    def _run(self, coroutine: Any) -> Any:
        return IO.run(coroutine) if self._blocking else coroutine

    def __repr__(self) -> str:
        return f"RemoteRunner({self.url})"


def remote_runner(
    url: str,
    *,
    timeout: float = 90.0,
    token: str | None = None,
    blocking: bool = False,
    headers: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
) -> RemoteRunner:
    """Connect to a runner, which runs uploaded model files.

    Parameters
    ----------
    url : str
        ``host:port``, or an http(s) URL.
    timeout : float
        Most seconds to wait for each reply, of the runner and of its models.
    token : str, optional
        Token of the runner; a runner of the same user on this machine needs none.
    blocking, headers, ssl
        As for `remote_model`; the models are made alike.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_runner(port=0, allow_shell=True) as server:
    ...     ln.network.remote_runner(server.url, blocking=True).shell("echo hello").stdout.strip()
    'hello'
    """
    options = ClientOptions(timeout=timeout, token=token, headers=headers, ssl=ssl)
    return RemoteRunner(Address.parse(url), options, blocking=blocking)
