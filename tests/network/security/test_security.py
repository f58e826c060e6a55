"""Who may do what: tokens, their files, and Host and Origin on every route of a real server."""

import contextlib
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import labnet as ln
from labnet import nn
from labnet.errors import Unauthorized
from labnet.network import discovery
from labnet.network.server import auth
from tests.helpers.constants import ROOT
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.raw_http import JSON, TOKEN, connection, head, http, raw, read_reply
from tests.helpers.network.server_process import child
from tests.helpers.threads import wait_until

# The file that hands tokens to other processes of the same user


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "labnet" / "servers"


ENTRY = discovery.Entry("http://127.0.0.1:4000", "mlp", 1, "secret")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_runtime_file_is_for_its_owner_only(folder):
    before = os.umask(0)
    try:
        discovery.publish(4000, ENTRY)
    finally:
        os.umask(before)
    assert mode(folder / "4000.json") == 0o600
    assert mode(folder) == 0o700
    assert [path.name for path in folder.iterdir()] == ["4000.json"]


def test_every_folder_above_the_runtime_files_is_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))
    before = os.umask(0)
    try:
        discovery.publish(4000, ENTRY)
    finally:
        os.umask(before)
    made = [tmp_path / "home", tmp_path / "home" / "state"]
    made += [made[-1] / "labnet", made[-1] / "labnet" / "servers"]
    assert [mode(path) for path in made] == [0o700] * 4


def test_a_folder_open_to_others_is_closed_before_a_token_is_written(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    discovery.publish(4000, ENTRY)
    assert mode(folder) == 0o700


def test_what_was_published_is_found(folder):
    discovery.publish(4000, ENTRY)
    assert discovery.lookup(4000) == ENTRY


def test_publishing_again_replaces_the_file(folder):
    discovery.publish(4000, ENTRY)
    other = discovery.Entry("url", "other", os.getppid())
    discovery.publish(4000, other)
    assert discovery.lookup(4000) == other


def test_a_symlink_in_place_of_the_file_is_not_followed(folder, tmp_path):
    discovery.publish(4000, ENTRY)
    target = tmp_path / "elsewhere.json"
    (folder / "4000.json").rename(target)
    (folder / "4000.json").symlink_to(target)
    assert discovery.lookup(4000) is None


def test_publishing_over_a_symlink_leaves_its_target_alone(folder, tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    folder.mkdir(parents=True)
    (folder / "4000.json").symlink_to(target)
    discovery.publish(4000, ENTRY)
    assert target.read_text() == "mine"
    assert discovery.lookup(4000) == ENTRY


def test_a_symlink_in_place_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(PermissionError, match="belongs to you"):
        discovery.publish(4000, ENTRY)
    assert discovery.lookup(4000) is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(folder, monkeypatch):
    discovery.publish(4000, ENTRY)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match="belongs to you"):
        discovery.publish(4001, ENTRY)
    assert discovery.lookup(4000) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"url": 1, "name": 2, "pid": "x", "token": 3}', "\udc80"]
)
def test_a_broken_runtime_file_is_as_good_as_none(folder, text):
    folder.mkdir(parents=True)
    (folder / "4000.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert discovery.lookup(4000) is None


def test_a_server_withdraws_its_file_but_not_that_of_another_process(folder):
    discovery.publish(4000, ENTRY)
    discovery.withdraw(4000)
    assert discovery.lookup(4000) == ENTRY
    discovery.publish(4000, discovery.Entry("url", "mine", os.getpid()))
    discovery.withdraw(4000)
    assert discovery.lookup(4000) is None


says_when_processes_start = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="this system does not say when a process was started"
)


@says_when_processes_start
def test_a_process_that_was_killed_has_no_servers_even_before_its_parent_looks(folder):
    process = subprocess.Popen(["sleep", "300"])
    entry = discovery.Entry("http://127.0.0.1:4000", "mlp", process.pid)
    discovery.publish(4000, entry)
    assert discovery.entries() == [entry]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert (discovery.running(4000), discovery.entries()) == (None, [])
    process.wait()
    assert (discovery.running(4000), discovery.entries()) == (None, [])


@says_when_processes_start
def test_a_process_that_has_the_number_of_a_killed_one_is_not_taken_for_it(folder):
    entry = discovery.Entry("http://127.0.0.1:4000", "mlp", os.getpid())
    discovery.publish(4000, entry)
    written = json.loads((folder / "4000.json").read_text())
    (folder / "4000.json").write_text(json.dumps({**written, "started": str(int(written["started"]) - 1)}))
    assert (discovery.running(4000), discovery.entries()) == (None, [])


@says_when_processes_start
def test_the_files_of_killed_servers_are_deleted_when_another_one_is_published(folder):
    with child() as (where, started):
        started.kill()
        started.wait()
        discovery.publish(4000, discovery.Entry("url", "mine", os.getpid()))
        discovery.publish(4001, discovery.Entry("url", "another process has its number now", os.getpid()))
        written = json.loads((folder / "4001.json").read_text())
        (folder / "4001.json").write_text(json.dumps({**written, "started": "1"}))
        with child() as (other, _):
            assert names(folder) == sorted(["4000.json", f"{other['port']}.json"])
    assert where["port"] not in (4000, other["port"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_that_say_nothing_of_a_process_of_this_machine_are_kept(folder):
    gone = discovery.Entry("url", "in a container that shares the folder", 1 << 30, machine="another")
    discovery._write(discovery._folder(), 4000, gone)
    (folder / "4001.json").write_text("{")
    (folder / "notes.txt").write_text("mine")
    (folder / ".4002.begun").write_text("")
    (folder / ".4003.begun").write_text("")
    os.utime(folder / ".4003.begun", (1, 1))
    discovery.publish(4004, ENTRY)
    assert names(folder) == [".4002.begun", "4000.json", "4001.json", "4004.json", "notes.txt"]
    assert discovery.lookup(4000) == gone


PUBLISHING = """
import itertools, os, sys
from labnet.network import discovery
from labnet.network.server import auth

for port in itertools.cycle(range(5000 + 10 * int(sys.argv[1]), 5010 + 10 * int(sys.argv[1]))):
    discovery.publish(port, discovery.Entry("url", "other", os.getpid()))
"""


def test_the_file_of_a_new_server_is_not_taken_for_that_of_a_killed_one_on_its_port(folder):
    dead, alive = discovery.Entry("url", "killed", 1 << 30), discovery.Entry("url", "alive", os.getpid(), "secret")
    with contextlib.ExitStack() as stack:
        for number in range(3):
            stack.enter_context(process := subprocess.Popen([sys.executable, "-c", PUBLISHING, str(number)], cwd=ROOT))
            stack.callback(process.kill)
        wait_until(lambda: all((folder / f"50{number}9.json").exists() for number in range(3)))
        for _ in range(500):
            discovery._write(folder, 4000, dead)
            discovery._write(folder, 4000, alive)
            wait_until(lambda: discovery.lookup(4000) == alive)


def test_where_nobody_can_say_when_a_process_was_started_one_that_exists_counts(folder, monkeypatch):
    entry = discovery.Entry("http://127.0.0.1:4000", "mlp", os.getpid(), started="1")
    assert not entry.is_running
    monkeypatch.setattr(discovery, "_started", lambda pid: None)
    assert entry.is_running


@pytest.mark.parametrize(("pid", "runs"), [(os.getpid(), True), (10**30, False)], ids=["ours", "too large"])
def test_a_file_that_does_not_say_when_its_process_was_started_is_read(folder, pid, runs):
    discovery.publish(4000, ENTRY)
    (folder / "4000.json").write_text(json.dumps({"url": "url", "name": "name", "pid": pid, "token": "token"}))
    assert discovery.lookup(4000).token == "token"
    assert (discovery.running(4000) is not None) == runs


def test_a_running_server_is_published_and_a_stopped_one_is_not(folder):
    with ln.network.serve({"one": lambda: 1}, port=0) as server:
        assert discovery.lookup(server.port) == discovery.Entry(server.url, "one", os.getpid(), server.token)
    assert discovery.lookup(server.port) is None


# Tokens


def test_tokens_differ_and_have_192_bits():
    tokens = {auth.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {32}


@pytest.mark.parametrize("given", ["abd", "ab", "abcd", "", "ABC", " abc", "abc\0", "äbc", None])
def test_another_token_is_not_the_same(given):
    assert not auth.same_token("abc", given)


def test_the_same_token_is():
    assert auth.same_token("abc", "abc")
    assert auth.same_token("ä", "ä")


def test_no_repr_shows_the_token():
    entry = discovery.Entry("url", "name", 1, "secret")
    assert "secret" not in f"{entry!r} {entry} {[entry]}"
    with ln.network.serve({"one": lambda: 1}, port=0) as server:
        model = blocking(server, token=server.token)
        shown = [repr(server), str(server), repr(server._port), repr(vars(server)), repr(model), repr(vars(model))]
        assert not [text for text in shown if server.token in text]


# Hosts and origins

HOSTS = {
    "localhost": True,
    "LOCALHOST": True,
    "LocalHost:3000": True,
    "localhost:65535": True,
    "127.0.0.1": True,
    "127.0.0.1:3000": True,
    "[::1]": True,
    "[::1]:3000": True,
    "": False,
    " ": False,
    ":": False,
    ":3000": False,
    "evil.example": False,
    "evil.example:3000": False,
    "localhost.evil.example": False,
    "evil-localhost": False,
    "evil.localhost": False,
    "localhost.": False,
    "localhost.:3000": False,
    "localhost:": False,
    "localhost:abc": False,
    "localhost:3000:3000": False,
    "localhost:٣٠٠٠": False,
    "localhost, evil.example": False,
    "localhost,localhost": False,
    "evil@localhost": False,
    "localhost/": False,
    "127.0.0.1.nip.io": False,
    "127.0.0.1.": False,
    "127.0.0.2": True,  # 127/8 is this machine, and a number cannot be rebound to another
    "127.1": False,
    "0127.0.0.1": False,
    "2130706433": False,
    "0x7f000001": False,
    "0.0.0.0": False,
    "0": False,
    "[::]": False,
    "[::ffff:127.0.0.1]": False,
    "[::1].evil.example": False,
    "[::1": False,
    "169.254.169.254": False,
    "192.168.0.1": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_names_of_this_machine_are_loopback(host):
    assert discovery.is_loopback(host) == HOSTS[host]


@pytest.mark.parametrize("host", HOSTS)
def test_a_request_without_origin_is_trusted_by_its_host(host):
    assert auth.is_trusted_origin(host, None) == HOSTS[host]


def test_a_request_without_host_is_not_trusted():
    assert not auth.is_trusted_origin(None, None)


ORIGINS = {
    "http://127.0.0.1:3000": True,
    "https://127.0.0.1:3000": True,
    "http://127.0.0.1:8888": False,
    "http://127.0.0.1": False,
    "http://localhost:3000": False,
    "http://evil.example": False,
    "http://evil.example:3000": False,
    "http://127.0.0.1:3000.evil.example": False,
    "http://127.0.0.1.evil.example:3000": False,
    "http://evil127.0.0.1:3000": False,
    "http://evil@127.0.0.1:3000": False,
    "file://127.0.0.1:3000": False,
    "chrome-extension://127.0.0.1:3000": False,
    "127.0.0.1:3000": False,
    "null": False,
    "": False,
    "http://[": False,
    "*": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_must_be_the_very_host(origin):
    assert auth.is_trusted_origin("127.0.0.1:3000", origin) == ORIGINS[origin]


def test_the_same_origin_on_an_evil_host_is_not_trusted():
    assert not auth.is_trusted_origin("evil.example:3000", "http://evil.example:3000")


# Every route of a real server


@pytest.fixture
def server():
    routes = {"echo": lambda x: x, "hello": lambda: "hi", "me": lambda user: len(vars(user))}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes) as server:
        yield server


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def combinations(port):
    """Give every interesting (Host, Origin): all hosts without an origin, all origins with a good host."""
    good = f"127.0.0.1:{port}"
    for host in [*(h for h in HOSTS if h.isascii()), good, None]:
        yield host, None, host is not None and discovery.is_loopback(host)
    for origin in ORIGINS:
        yield good, origin.replace("3000", str(port)), ORIGINS[origin]


def expected_status(route, method, token, trusted, server):
    """Say what the rules are: token, or where none is needed Host and Origin; then the method."""
    if token != server.token:
        if not route.readable:
            return 401
        if not trusted:
            return 403
    return None if method in route.methods else 405


def test_every_route_and_method_is_closed_without_token_or_trusted_host(server):
    wrong = []
    with connection(server.port) as (sock, file):
        for path, route in server._port.routes.items():
            for method in METHODS:
                for token in (None, "wrong", server.token):
                    for host, origin, trusted in combinations(server.port):
                        headers = {"Host": host, "Origin": origin, TOKEN: token}
                        sock.sendall(head(server.port, method, path, headers | {"Content-Length": "0"}))
                        status = read_reply(file).status
                        expected = expected_status(route, method, token, trusted, server)
                        refused = status in (401, 403, 405)
                        if status != expected if expected else refused:
                            wrong.append((method, path, token, host, origin, status, expected))
    assert not wrong


def test_the_routes_that_can_be_read_without_a_token_are_these(server):
    readable = {path for path, route in server._port.routes.items() if route.readable}
    inference = {path for path in readable if path == "/v2" or path.startswith("/v2/")}
    own = {"/", "/panel.js", "/statistics", "/snapshot", "/health", "/metrics", "/openapi.json"}
    assert readable == own | inference
    assert not [path for path in inference if path.endswith("/infer")]
    assert all(server._port.routes[path].methods == ("GET",) for path in readable)


def test_the_routes_that_take_something_else_than_the_token_are_these(server):
    sealed = {path: route.methods for path, route in server._port.routes.items() if route.sealed}
    assert sealed == {"/server/stop": ("POST",)}


def test_a_refused_stranger_does_not_learn_the_names_of_routes(server):
    for path in ("/nothing", "/echo"):
        reply = raw(server.port, head(server.port, "DELETE", path, {"Host": "evil.example"}))
        assert b"hello" not in reply.body
        assert reply.status in (401, 403)


def test_an_absolute_uri_does_not_replace_the_host(server):
    for target in (f"http://127.0.0.1:{server.port}/statistics", "http://evil.example/statistics"):
        assert raw(server.port, head(server.port, "GET", target, {"Host": "evil.example"})).status >= 400


def test_two_hosts_are_not_trusted(server):
    good = f"Host: 127.0.0.1:{server.port}\r\n"
    for hosts in (good + "Host: evil.example\r\n", "Host: evil.example\r\n" + good, good + good):
        reply = raw(server.port, f"GET /statistics HTTP/1.1\r\n{hosts}\r\n".encode())
        assert reply.status in (400, 403)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("token", [None, "right"])
def test_what_a_web_page_can_send_without_asking_is_refused(server, content_type, token):
    reply = http(server, "POST", "/echo", b"[1.0]", token=token, Content_Type=content_type)
    assert reply.status == (401 if token is None else 415)


def test_no_reply_invites_other_origins(server):
    for path in server._port.routes:
        for method in ("GET", "POST", "OPTIONS"):
            for token in (None, "right"):
                reply = http(server, method, path, b"[[1.0, 2.0]]" if method == "POST" else None, token=token)
                assert not [name for name in reply.headers if name.startswith("access-control")]
                assert "set-cookie" not in reply.headers
                assert reply.headers["x-content-type-options"] == "nosniff"


def test_an_open_server_still_refuses_web_pages():
    with ln.network.serve({"echo": lambda x: x}, port=0, token=None) as server:
        assert http(server, "POST", "/echo", b"[1.0]").status == 200
        assert http(server, "POST", "/echo", b"[1.0]", Origin="http://evil.example").status == 403
        assert http(server, "POST", "/echo", b"[1.0]", Host="evil.example").status == 403


def test_an_open_server_is_for_loopback_only():
    for host in ("0.0.0.0", "::", "", "192.168.0.1"):
        with pytest.raises(ln.errors.ServeError, match="loopback"):
            ln.network.serve({"one": lambda: 1}, port=0, host=host, token=None)


def test_a_server_on_every_address_says_so_and_shows_nothing_without_its_token(capsys):
    with ln.network.serve({"one": lambda: 1}, port=0, host="0.0.0.0") as server:
        printed = capsys.readouterr().out
        assert "reachable from other machines" in printed
        assert server.token not in printed
        assert http(server, "GET", "/statistics", token=None).status == 401
        assert http(server, "GET", "/one").status == 200


def test_an_empty_token_is_refused():
    with pytest.raises(ln.errors.ServeError, match="empty"):
        ln.network.serve({"one": lambda: 1}, port=0, token="")


def test_the_error_tells_a_missing_token_from_a_wrong_one(server, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(Unauthorized, match="missing") as caught:
        fetch(server.url + "/hello")
    assert server.token not in str(caught.value)
    with pytest.raises(Unauthorized, match="wrong") as caught:
        fetch(server.url + "/hello", token="guess")
    assert "guess" not in str(caught.value)
    assert fetch(server.url + "/hello", token=server.token) == "hi"


def test_a_token_given_is_never_replaced_by_the_published_one(server):
    with pytest.raises(Unauthorized):
        fetch(server.url + "/hello", token="wrong")


def test_nothing_that_is_shown_holds_the_token(server, caplog, capsys):
    def broken(x):
        raise ValueError("no")

    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    with ln.network.serve({"broken": broken}, port=0, name="second") as second:
        shown = [json.dumps(server.statistics()), json.dumps(server.snapshot()), repr(server), repr(second)]
        requests = [
            (server, "GET", "/statistics", None),
            (server, "GET", "/snapshot", None),
            (server, "GET", "/health", None),
            (server, "GET", "/nothing", None),
            (server, "POST", "/forward", b"[[1.0]]"),
            (server, "POST", "/echo", b"nope"),
            (second, "POST", "/broken", b"[1.0]"),
        ]
        for target, method, path, body in requests:
            reply = http(target, method, path, body, Authorization="Bearer hidden", Cookie="key=hidden")
            shown.append(str(reply.headers) + reply.body.decode())
        printed = capsys.readouterr()
        shown += [caplog.text, printed.out, printed.err]
        assert "ValueError: no" in caplog.text
        for secret in (server.token, second.token, "hidden"):
            assert not [text for text in shown if secret in text]


def test_only_share_prints_the_token(server, capsys):
    server.share()
    line, hint = capsys.readouterr().out.splitlines()
    assert line == f"remote = ln.network.remote_model({server.url!r}, token={server.token!r})"
    assert f"ssh -L {server.port}:localhost:{server.port}" in hint
    assert server.token not in hint


def test_a_body_that_is_a_pickle_is_not_executed(server, tmp_path):
    import pickle

    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    body = pickle.dumps(Attack())
    for content_type in (JSON, "application/x-labnet", "application/octet-stream", "application/python-pickle"):
        assert http(server, "POST", "/echo", body, Content_Type=content_type).status in (400, 415)
    assert not canary.exists()
