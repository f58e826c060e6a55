"""Tokens, and the files that hand them to other processes of the same user."""

import contextlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import labnet as ln
from labnet.network import discovery
from labnet.network.server import auth
from tests.helpers.constants import ROOT
from tests.helpers.network.client_calls import blocking
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
