"""The runner: a server that runs uploaded model files, each in its own process.

A holder of its token can run any code as the user who started it, so a runner always has a token. Only this module
starts processes; other servers cannot.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from labnet import wire
from labnet.errors import ServeError
from labnet.network.handle import Server
from labnet.network.runner.child_process import Child, Order
from labnet.network.serve import serve_routes
from labnet.network.server import auth
from labnet.network.server.functions import check_name
from labnet.network.server.routing import Failure, Reply, Request, Route

#: Default port of a runner.
PORT = 3113

#: Characters that are removed from the name of an uploaded file.
_UNUSUAL = re.compile(r"[^\w. -]")

_START_SECONDS = 60.0
_SHELL_SECONDS = 60.0


class Runner:
    """The models of a runner, and the routes that start and stop them."""

    def __init__(self, *, host: str, allow_shell: bool):
        self._host = host
        self._allow_shell = allow_shell
        self._folder = Path(tempfile.mkdtemp(prefix="labnet-runner-"))
        self._children: dict[str, Child] = {}
        self._starting: set[Child] = set()
        self._uploads = 0
        self._lock = threading.Lock()
        self._stopped = False

    def routes(self) -> dict[str, Route]:
        """Return the table of routes, with the shell only if it is allowed."""

        def write(answer: Any) -> Route:
            return Route(("POST",), answer)

        table = {
            "models": Route(("GET",), self._list),
            "logs": Route(("GET", "POST"), self._logs),
            "serve_model": write(self._serve_model),
            "stop_model": write(self._stop_model),
        }
        return table | ({"shell": write(self._shell)} if self._allow_shell else {})

    def stop(self) -> None:
        """Stop all models and remove their files."""
        with self._lock:
            self._stopped = True
            children, self._children = [*self._children.values(), *self._starting], {}
        for child in children:
            _end(child)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _serve_model(self, request: Request) -> Reply:
        source, options = await _read(request, "file", "name", "model", "optimizer", "lr")
        file = _UNUSUAL.sub("_", Path(options["file"] or "model.py").name).removesuffix(".py") + ".py"
        name = _check(options["name"] or file.removesuffix(".py"))
        child = self._start(name, source, file, options["model"], options["optimizer"], _number(options["lr"]))
        problem = await asyncio.to_thread(child.wait_ready, _START_SECONDS)
        with self._lock:
            self._starting.discard(child)
            if problem is None and self._stopped:
                problem = "the runner is stopping"
            replaced = child if problem else self._children.get(name)
            if problem is None:
                self._children[name] = child
        if replaced is not None:
            await asyncio.to_thread(_end, replaced)
        if problem is not None:
            raise Failure(422, "RemoteFailure", "\n".join([problem, *child.logs()[-20:-1]]))
        return _json({"name": name, "port": child.port, "token": child.token})

    def _start(
        self, name: str, source: bytes, file: str, model: str | None, optimizer: str | None, lr: float | None
    ) -> Child:
        """Write an uploaded file to a new folder and start its process."""
        with self._lock:
            self._uploads += 1
            folder = self._folder / str(self._uploads)
        folder.mkdir()
        path = folder / file
        path.write_bytes(source)
        child = Child(Order(str(path), name, model, optimizer, lr, self._host))
        with self._lock:
            self._starting.add(child)
        return child

    async def _stop_model(self, request: Request) -> Reply:
        name = (await _read(request, "name"))[1]["name"]
        with self._lock:
            child = self._children.pop(name, None)
        if child is None:
            raise self._unknown(name)
        await asyncio.to_thread(_end, child)
        return Reply(wire.encode_value(None, request.format))

    async def _list(self, request: Request) -> Reply:
        with self._lock:
            return _json(
                {
                    name: {"port": child.port, "running": child.returncode is None}
                    for name, child in self._children.items()
                }
            )

    async def _logs(self, request: Request) -> Reply:
        name = (await _read(request, "name"))[1]["name"] if request.method == "POST" else None
        with self._lock:
            children = dict(self._children)
        if name is not None and name not in children:
            raise self._unknown(name)
        chosen = children if name is None else {name: children[name]}
        lines = [line if name else f"{each}: {line}" for each, child in chosen.items() for line in child.logs()]
        return Reply(wire.encode_value("".join(f"{line}\n" for line in lines), request.format))

    async def _shell(self, request: Request) -> Reply:
        command, options = await _read(request, "timeout")
        seconds = _number(options["timeout"]) or _SHELL_SECONDS
        return _json(await asyncio.to_thread(_run_command, command.decode("utf-8", "replace"), seconds))

    def _unknown(self, name: Any) -> Failure:
        known = ", ".join(sorted(self._children)) or "none"
        return Failure(404, "BadRequest", f"no model {name!r:.80} was started here; there are: {known}")


async def _read(request: Request, *options: str) -> tuple[bytes, dict[str, Any]]:
    """Return the file in a request and its options; None for a missing option.

    A request is a message with one uint8 tensor, and options as metadata.
    """
    message = await request.message()
    source = message.tensors.get("source") if message is not None else None
    if message is None or source is None or source.dtype != np.uint8 or source.ndim != 1:
        raise Failure(400, "BadRequest", f"{request.path} needs a tensor 'source' of uint8, as remote_runner sends it")
    return source.numpy().tobytes(), {name: message.metadata.get(name) for name in options}


def _end(child: Child) -> None:
    """Stop a model and remove its files."""
    child.stop()
    shutil.rmtree(child.folder, ignore_errors=True)


def _check(name: str) -> str:
    """Check and return the name of a model."""
    try:
        return check_name(name)
    except ServeError as error:
        raise Failure(400, "BadRequest", str(error).replace("route", "model", 1)) from None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise Failure(400, "BadRequest", f"expected a number, got {text!r:.40}") from None


def _json(value: Any) -> Reply:
    return Reply(wire.encode_json(value))


def _run_command(command: str, seconds: float) -> dict[str, Any]:
    """Run a shell command; kill it and its children after the time limit."""
    process = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        output, errors = process.communicate()
        errors += f"labnet: ended after {seconds:g} s\n"
    return {"returncode": process.returncode, "stdout": output, "stderr": errors}


def serve_runner(
    port: int = PORT,
    *,
    host: str = "127.0.0.1",
    allow_shell: bool = False,
    name: str = "runner",
    token: str = "auto",
) -> Server:
    """Serve a runner, which runs uploaded model files, each in its own process.

    Parameters
    ----------
    port : int
        Port to bind; 0 takes a free one.
    host : str
        Address to bind, for the runner and its models.
    allow_shell : bool
        Whether clients may also run shell commands.
    name : str
        Name of the server.
    token : str
        Required for every request; ``"auto"`` makes one. A runner always has a token.

    Returns
    -------
    Server
        Stopping it also stops its models.

    Raises
    ------
    ServeError
        If `token` is None or empty.
    OSError
        If the port is taken.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_runner(port=0) as server:
    ...     ln.network.remote_runner(server.url, blocking=True).models()
    {}
    """
    if token is None:
        raise ServeError("serve_runner: a runner runs uploaded code, so it needs a token: leave token='auto'")
    runner = Runner(host=host, allow_shell=allow_shell)
    try:
        return serve_routes(
            runner.routes(),
            runner.stop,
            port=port,
            host=host,
            name=name,
            token=auth.new_token() if token == "auto" else token,
        )
    except Exception:
        runner.stop()
        raise
