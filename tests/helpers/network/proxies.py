"""Real reverse proxies in front of a server: nginx and haproxy."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.constants import SECONDS
from tests.helpers.ports import free_port

#: Directives of nginx that pass the request for an upgrade on.
UPGRADING = """
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";"""

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 256; }}
http {{
    log_format requests '$request_method $uri $status $upstream_status';
    access_log {folder}/access.log requests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 100m;
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{
            proxy_pass {url}/;
            proxy_read_timeout {read_seconds}s;{directives}
        }}
    }}
}}
"""

_HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    {directives}
    server labnet 127.0.0.1:{server_port}
"""


def program(name, package):
    """Return the path of a program, or skip the test."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


class Running:
    """A proxy that runs.

    Attributes
    ----------
    url : str
        Address of the server behind the proxy.
    """

    def __init__(self, url, folder):
        self.url = url
        self._folder = folder

    def requests(self, path=None):
        """Return what nginx has logged, as tuples of method, path, status and the server's status."""
        rows = [tuple(line.split()) for line in (self._folder / "access.log").read_text().splitlines()]
        return [row for row in rows if path is None or row[1] == path]


@contextlib.contextmanager
def nginx(folder, server, *, directives="", prefix="", read_seconds=60):
    """Run nginx in front of a server; `server` has a url."""
    folder.mkdir(exist_ok=True)
    path, port = program("nginx", "nginx-light"), free_port()
    config = folder / "nginx.conf"
    text = _NGINX.format(
        folder=folder, port=port, prefix=prefix, url=server.url, read_seconds=read_seconds, directives=directives
    )
    config.write_text(text)
    command = [path, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with _running(command, port, folder):
        yield Running(f"http://127.0.0.1:{port}{prefix}", folder)


@contextlib.contextmanager
def haproxy(folder, server, *, directives=""):
    """Run haproxy in http mode in front of a server; `server` has a port."""
    folder.mkdir(exist_ok=True)
    path, port = program("haproxy", "haproxy"), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, server_port=server.port, directives=directives))
    with _running([path, "-db", "-f", str(config)], port, folder):
        yield Running(f"http://127.0.0.1:{port}", folder)


@contextlib.contextmanager
def _running(command, port, folder: Path):
    """Run a program until the block ends; wait until its port answers."""
    log = folder / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
