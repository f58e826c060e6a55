"""A server of models or functions has no way to start a process or to run what it is sent."""

import ast
import json
import pickle
import random
import types
from pathlib import Path

import labnet as ln
from tests.helpers.network.raw_http import JSON, NATIVE, http, native
from tests.helpers.network.server_process import child

PATHS = ("/", "/forward", "/optimize", "/double", "/user", "/statistics", "/health", "/weights", "/snapshot")
NO_PATHS = ("/shell", "/serve_model", "/stop_model", "/logs", "/models", "/exec", "/__class__", "/../etc/passwd")
COMMAND = "__import__('os').system('touch canary')"


class Evil:
    def __reduce__(self):
        return (eval, (COMMAND,))


BODIES = (
    (JSON, b"[[1, 2, 3]]"),
    (JSON, json.dumps(COMMAND).encode()),
    (JSON, json.dumps({COMMAND: [1.0], "__class__": [2.0]}).encode()),
    (NATIVE, native({"tensor": [[1.0, 2.0, 3.0]]}, command=COMMAND, file="x.py")),
    (NATIVE, native({COMMAND: [1.0]}, loss=COMMAND)),
    (NATIVE, pickle.dumps(Evil())),
    (NATIVE, COMMAND.encode()),
    ("application/octet-stream", pickle.dumps(Evil())),
    ("text/x-python", COMMAND.encode()),
)


def storm(server, *, rounds):
    """Send every body to every route by every method, in an order that differs from round to round."""
    requests = [
        (path, method, body)
        for path in PATHS + NO_PATHS
        for method in ("GET", "POST", "PUT", "DELETE", "TRACE")
        for body in (BODIES if method == "POST" else [None])
    ]
    rng = random.Random(0)
    for _ in range(rounds):
        rng.shuffle(requests)
        for path, method, body in requests:
            kind, content = body or (None, None)
            extra = {"Content_Type": kind} if kind else {}
            assert http(server, method, path, content, Labnet_Call=COMMAND, Labnet_Client=COMMAND, **extra).status


def test_no_request_starts_a_process_or_runs_code():
    with child(module="tests.helpers.network.execution_audit") as (where, process):
        server = types.SimpleNamespace(port=where["port"], token=where["token"])
        storm(server, rounds=1)  # whatever is imported at the first use is there then
        process.stdin.write("record\n")
        process.stdin.flush()
        assert process.stdout.readline() == "recording\n"
        storm(server, rounds=2)
        process.stdin.write("report\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == []
    assert not Path("canary").exists()


def test_the_recording_would_notice():
    """The events that the storm must not cause have the names that Python gives them."""
    import subprocess
    import sys

    from tests.helpers.network.execution_audit import FORBIDDEN

    code = (
        "import os, subprocess, sys; events = []; sys.addaudithook(lambda event, _: events.append(event));"
        "subprocess.run(['true']); os.system('true'); print(*sorted(set(events)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {event for event in found if event.startswith(FORBIDDEN)} >= {"subprocess.Popen", "os.system"}


def test_only_the_runner_and_the_compiler_can_start_processes():
    """The compiler starts this Python with a program of its own, and no request reaches it."""
    root = Path(ln.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"subprocess", "multiprocessing", "pty"} & {name.split(".")[0] for name in names}:
                users.add(str(path.relative_to(root)))
    runner = {"network/runner/child_process.py", "network/runner/service.py"}
    assert users == {*runner, "kernels/machine_code/compiler_process.py"}


def test_a_plain_server_has_no_route_of_the_runner():
    with ln.network.serve_model(ln.nn.Linear(1, 1), port=0) as server:
        for path in ("/serve_model", "/stop_model", "/shell", "/logs", "/models"):
            assert http(server, "POST", path, b"[]").status == 404
