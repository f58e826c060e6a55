"""Clients that outlive their process: one id, and no number twice, whenever a process ends."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import labnet as ln
from labnet import nn
from labnet.errors import StoreError
from labnet.network.client.identity import StateFile
from tests.helpers.child_processes import exit_code, forked
from tests.helpers.constants import ROOT

PROGRAM = """
import sys
import labnet as ln
from labnet.network.client import identity
from labnet.network.protocol import keys

identity._BLOCK = 10
found = identity.identity_of(sys.argv[1])
while True:
    print(found.take().key, flush=True)
"""


def keys_of(path, count):
    """Take so many keys in a process of its own, and kill it."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as p:
        found = [p.stdout.readline().strip() for _ in range(count)]
        p.send_signal(signal.SIGKILL)
        found += p.stdout.read().splitlines()
    return [key for key in found if ":" in key]


def test_no_key_is_used_twice_by_processes_that_are_killed(tmp_path):
    found = [key for count in (1, 9, 25, 3) for key in keys_of(tmp_path / "state", count)]
    assert len(set(found)) == len(found) >= 38
    assert len({key.partition(":")[0] for key in found}) == 1
    numbers = [int(key.partition(":")[2]) for key in found]
    assert numbers == sorted(numbers)


def test_the_next_process_is_the_same_user_of_a_server(tmp_path):
    seen = []
    with ln.network.serve_model(
        nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes={"me": lambda user: seen.append(user)}
    ) as server:
        model = ln.network.remote_model(server.url, blocking=True, state=tmp_path / "state")
        model(ln.ones((1, 2))).sum().backward()
        again = ln.network.remote_model(server.url, blocking=True, state=tmp_path / "state")
        again(ln.ones((1, 2))).sum().backward()
        keys = [str(key) for key in server._port.once.ledger._windows]
        assert len(keys) == 1
        assert server.statistics()["server"]["version"] == 2
    assert json.loads((tmp_path / "state").read_text())["client"] == keys[0]


HOLDING = """
import sys
from labnet.network.client.identity import StateFile

held = StateFile(sys.argv[1])
print("held", flush=True)
input()
"""


def test_a_state_file_is_for_one_process_at_a_time(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        process.stdout.readline()
        with pytest.raises(StoreError, match="is in use: two clients would be taken for one"):
            ln.network.remote_model("localhost:1", state=tmp_path / "state")
        process.stdin.close()
        process.wait()
    StateFile(tmp_path / "state")


def key_of(process):
    return process.stdout.readline().strip()


@pytest.mark.parametrize("old", [False, True], ids=["copied now", "copied long ago"])
def test_a_state_file_that_is_put_back_in_place_of_the_one_in_use_doubles_no_number(tmp_path, old):
    path, copy = tmp_path / "state", tmp_path / "copy"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as p:
        found = [key_of(p)]
        if old:
            copy.write_bytes(path.read_bytes())
        found += [key_of(p) for _ in range(3000)]
        if not old:
            copy.write_bytes(path.read_bytes())
        path.unlink()
        path.write_bytes(copy.read_bytes())
        others = keys_of(path, 3000)
        found += [key_of(p) for _ in range(6000)]
        p.kill()
    assert len(others) >= 3000
    assert not set(found) & set(others)


def test_a_copy_of_a_state_file_is_another_client_and_a_moved_one_is_the_same(tmp_path, caplog):
    first = StateFile(tmp_path / "state")
    next(first.numbers())
    shutil.copy(tmp_path / "state", tmp_path / "copy")
    client = first.client
    del first
    (tmp_path / "state").rename(tmp_path / "moved")
    assert StateFile(tmp_path / "moved").client == client
    assert StateFile(tmp_path / "copy").client != client
    assert "copy is a copy: it goes on as a new client" in caplog.text


WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None  # as where there is none
from pathlib import Path
import labnet as ln

place = Path(sys.argv[1])
for make in (
    lambda: ln.network.serve_model(ln.nn.Linear(2, 1), port=0, store=place / "store"),
    lambda: ln.network.remote_model("localhost:1", state=place / "state"),
):
    try:
        make()
    except ln.errors.StoreError as error:
        print(error)
with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ln.network.remote_model(server.url, blocking=True)(ln.ones((1, 2))).sum().backward()
print(*place.iterdir())
"""


def test_where_there_are_no_file_locks_stores_and_state_files_are_refused_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    reason = "stores and state files need POSIX file locks, which this system does not have"
    assert done.stdout.count(reason) == 2, done.stderr
    assert done.stdout.endswith("\n\n")  # no file was left


@pytest.mark.parametrize("text", ["{", "[]", '{"client": 1, "next": 2}', '{"client": "abc", "next": 2}', "\0" * 100])
def test_a_damaged_state_file_says_what_to_do(tmp_path, text):
    (tmp_path / "state").write_text(text)
    with pytest.raises(StoreError, match=r"damaged.*delete it to go on as a new client"):
        StateFile(tmp_path / "state")
    assert (tmp_path / "state").read_text() == text


def test_a_forked_child_is_another_client():
    from labnet.network.protocol import keys

    here, (reading, writing) = keys.of_process().client, os.pipe()
    with forked(lambda: os.write(writing, keys.of_process().client.encode()) and 0) as child:
        assert exit_code(child) == 0
    assert os.read(reading, 100).decode() != here
    os.close(reading)
    os.close(writing)


def test_a_disk_that_fails_for_a_while_ends_no_client(tmp_path, monkeypatch):
    from labnet.network.client import identity

    file = StateFile(tmp_path / "state")
    numbers = file.numbers()
    real, left = os.fsync, [2]

    def fsync(descriptor):
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(identity.os, "fsync", fsync)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            next(numbers)
    first = next(numbers)
    assert next(numbers) == first + 1
    assert json.loads((tmp_path / "state").read_text())["next"] > first


def test_a_forked_child_does_not_give_the_numbers_of_its_parent(tmp_path):
    numbers = StateFile(tmp_path / "state").numbers()
    next(numbers)

    def refused():
        with pytest.raises(StoreError):
            next(numbers)

    with forked(refused) as child:
        assert exit_code(child) == 0
