"""What the network tests share: raw HTTP, servers that misbehave, a server in a process of its own."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import labnet as ln
from labnet import codec
from labnet.network.transport.pool import pool

ROOT = Path(__file__).parents[3]
NATIVE = "application/x-labnet"
JSON = "application/json"
TOKEN = "X-Labnet-Token"
SECONDS = 10.0


@dataclass(frozen=True)
class Reply:
    """A reply as it came over the socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


def read_reply(file, *, method="GET"):
    """Read one reply from the file of a socket; None where the connection ended instead."""
    line = file.readline()
    if not line:
        return None
    headers = {}
    while (field := file.readline()) not in (b"\r\n", b""):
        name, _, value = field.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    return Reply(int(line.split()[1]), headers, file.read(length))


@contextlib.contextmanager
def connection(port, *, host="127.0.0.1"):
    """Open a socket to a server; gives the socket and a file to read from."""
    with socket.create_connection((host, port), timeout=SECONDS) as sock, sock.makefile("rb") as file:
        yield sock, file


def head(port, method, path, headers=()):
    """Return the head of a request, with a good Host unless there is one; a value of None leaves a header out."""
    fields = {"Host": f"127.0.0.1:{port}", **dict(headers)}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def raw(port, data, *, method="GET"):
    """Send bytes to a server and return its reply."""
    with connection(port) as (sock, file):
        sock.sendall(data)
        return read_reply(file, method=method)


def http(server, method, path, body=None, *, token="right", **headers):
    """Make a request of one's own to a server of this process, with its token unless told otherwise."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        fields = {"Content-Type": JSON, "Content-Length": str(len(body))} | fields
    if token == "right":
        token = server.token
    if token is not None:
        fields[TOKEN] = token
    return raw(server.port, head(server.port, method, path, fields) + (body or b""), method=method)


def native(arrays, **metadata):
    """Encode arrays as a native body."""
    return b"".join(codec.encode({k: np.asarray(v) for k, v in arrays.items()}, metadata or None))


def gradient_of(server, call, gradient, **metadata):
    """Send the gradient of a call as a program without labnet would."""
    body = native({"tensor": gradient}, **metadata)
    return http(server, "POST", "/optimize", body, Content_Type=NATIVE, Labnet_Call=call)


def forward_of(server, x):
    """Make a forward as a program without labnet would; return the reply, whose header names the call."""
    return http(server, "POST", "/forward", native({"tensor": x}), Content_Type=NATIVE, Accept=NATIVE)


def run(coroutine):
    """Run a coroutine on a loop of its own, and close the connections that the client kept there."""

    async def closing():
        try:
            return await coroutine
        finally:
            (await pool()).close()

    return asyncio.run(closing())


def blocking(server, **options):
    return ln.network.remote_model(server.url, blocking=True, **options)


@contextlib.contextmanager
def hurried(model, seconds):
    """Give the requests of a model so little time, for what is to fail; everything else may take as long as it does."""
    before = model._caller._timeout
    model._caller._timeout = seconds
    try:
        yield
    finally:
        model._caller._timeout = before


def fetch(url, *arguments, **options):
    return ln.network.tfetch(url, *arguments, blocking=True, **options)


def together(*functions):
    """Run functions in threads that start at the same time; return their results, or raise the first error."""
    barrier = threading.Barrier(len(functions))
    outcomes = [None] * len(functions)

    def work(position, function):
        barrier.wait(SECONDS)
        try:
            outcomes[position] = (function(), None)
        except BaseException as error:
            outcomes[position] = (None, error)

    threads = [threading.Thread(target=work, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, error in outcomes:
        if error is not None:
            raise error
    return [value for value, _ in outcomes]


@contextlib.contextmanager
def scripted(*replies):
    """Serve scripted bytes: each connection reads a request, gets the next reply, and is closed; then refuse others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def work():
            for reply in replies:
                sock, _ = listener.accept()
                with sock, sock.makefile("rb") as file:
                    length = 0
                    while (field := file.readline()) not in (b"\r\n", b""):
                        if field.lower().startswith(b"content-length:"):
                            length = int(field.split()[1])
                    file.read(length)
                    sock.sendall(reply)
            listener.close()

        port = listener.getsockname()[1]
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield port
        finally:
            thread.join()


@contextlib.contextmanager
def child(*arguments, module="tests.helpers.network.digits_server", environment=None):
    """Run a module that serves a model; gives what it says about its server, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield json.loads(process.stdout.readline()), process
        finally:
            process.stdin.close()
            process.wait(SECONDS)


def wait_until(condition):
    """Wait until a condition holds, at most some seconds."""
    tick = threading.Event()
    for _ in range(int(SECONDS * 1000)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("the condition was not met in time")
