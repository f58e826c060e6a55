"""Requests without labnet's client, as bytes over a socket, and servers that send scripted bytes."""

import contextlib
import io
import json
import socket
import threading
from dataclasses import dataclass

import numpy as np

from labnet import codec
from tests.helpers.constants import SECONDS

NATIVE = "application/x-labnet"
JSON = "application/json"
TOKEN = "X-Labnet-Token"


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


def npy(array):
    """Encode an array as a file of NumPy."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def gradient_of(server, call, gradient, **metadata):
    """Send the gradient of a call as a program without labnet would."""
    body = native({"tensor": gradient}, **metadata)
    return http(server, "POST", "/optimize", body, Content_Type=NATIVE, Labnet_Call=call)


def forward_of(server, x):
    """Make a forward as a program without labnet would; return the reply, whose header names the call."""
    return http(server, "POST", "/forward", native({"tensor": x}), Content_Type=NATIVE, Accept=NATIVE)


@contextlib.contextmanager
def scripted(*replies, port=0):
    """Serve scripted bytes: each connection reads a request, gets the next reply, and is closed; then refuse others."""
    with socket.create_server(("127.0.0.1", port)) as listener:
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
