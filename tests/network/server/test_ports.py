"""Ports of servers: which are taken, refused or given back, and which addresses reach a server."""

import subprocess
import sys

import pytest

import labnet as ln
from labnet.errors import ServeError
from labnet.network import discovery
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.handlers import serve
from tests.helpers.network.server_process import child


def test_a_port_taken_by_another_process_names_its_server():
    with child("sgd", 0, "their model") as (there, process):
        words = rf"{there['port']}.*'their model'.*{process.pid}"
        with pytest.raises(OSError, match=words):
            ln.network.serve({"a": lambda: 1}, port=there["port"])


def test_a_port_taken_by_something_else_says_so():
    code = "import socket,sys; s=socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        try:
            with pytest.raises(OSError, match=f"{port}.*another process") as caught:
                ln.network.serve({"a": lambda: 1}, port=port)
            assert "\n" not in str(caught.value)
        finally:
            process.communicate("\n", SECONDS)


def test_a_runtime_file_left_by_a_killed_server_is_not_blamed():
    with child("sgd", 0, "killed") as (there, process):
        process.kill()
        process.wait(SECONDS)
    assert discovery.lookup(there["port"]).name == "killed"
    assert discovery.running(there["port"]) is None
    import socket

    with socket.create_server(("127.0.0.1", there["port"])), pytest.raises(OSError, match="another process"):
        ln.network.serve({"a": lambda: 1}, port=there["port"])
    with ln.network.serve({"a": lambda: 1}, port=there["port"]) as server:
        assert fetch(server.url + "/a") == 1


def test_another_name_on_the_same_port_is_refused_and_names_both():
    with serve(lambda: "old", name="first") as server:
        with pytest.raises(OSError, match=r"'first'.*'second'"):
            ln.network.serve({"route": lambda: "new"}, port=server.port, name="second")
        assert fetch(server.url + "/route") == "old"


def test_two_servers_of_one_process_do_not_mix():
    with serve(lambda: "a") as a, serve(lambda: "b") as b:
        assert a.port != b.port
        assert a.token != b.token
        assert (fetch(a.url + "/route"), fetch(b.url + "/route")) == ("a", "b")
        assert ln.network.servers() == {a.port: a, b.port: b}


def test_a_server_on_ipv6_can_be_called():
    with serve(lambda: "six", host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert fetch(server.url + "/route") == "six"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_localhost_is_reached_by_each_of_its_names(host):
    with serve(lambda: "hi", host="localhost") as server:
        assert fetch(f"{host}:{server.port}/route", token=server.token) == "hi"


def test_localhost_finds_a_server_on_ipv6():
    with serve(lambda: "six", host="::1") as server:
        assert fetch(f"localhost:{server.port}/route") == "six"


def test_a_host_that_is_not_of_this_machine_is_an_error_that_names_it():
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        serve(lambda: 1, host="192.0.2.1")


def test_a_refused_serve_gives_its_port_back():
    from tests.helpers.ports import free_port

    port = free_port()
    with pytest.raises(ServeError):
        ln.network.serve({"server": lambda: 1}, port=port)
    with ln.network.serve({"ok": lambda: 1}, port=port) as server:
        assert fetch(server.url + "/ok") == 1
