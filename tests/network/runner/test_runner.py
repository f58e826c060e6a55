"""The runner: uploaded model files in processes of their own, and who may do that."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import psutil
import pytest

import labnet as ln
from labnet.errors import BadRequest, RemoteFailure, RouteNotFound, ServeError, Unauthorized, Unreachable
from labnet.network import discovery
from labnet.network.runner.child_process import Child
from tests.helpers.constants import ROOT, SECONDS
from tests.helpers.network.client_calls import fetch, hurried, run
from tests.helpers.network.example_servers import process
from tests.helpers.network.raw_http import NATIVE, http, native
from tests.helpers.network.server_process import child

MODEL = """
import os
import labnet as ln

print("a model is made")
weight = ln.full((3, 1), 2.0, requires_grad=True)
optimizer = ln.optim.SGD(lr=0.5)
routes = {"pid": lambda: os.getpid(), "weight": lambda: weight.detach()}


def model(x):
    print("called with", x.shape)
    return x @ weight


def other(x):
    return x * 3


def crash(x):
    os._exit(7)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "linear.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def server():
    with ln.network.serve_runner(port=0) as server:
        yield server


@pytest.fixture
def runner(server):
    return ln.network.remote_runner(server.url, blocking=True)


def children():
    """Return the processes that this one has started, but those that count semaphores, compile, or fork for tests."""
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    found = [child for child in psutil.Process().children() if child.pid != tracker]
    return [child for child in found if not forks(child) and not compiles(child)]


def compiles(process):
    """Return whether a process is the one that compiles, which stays for a minute."""
    try:
        return any("compiler_server" in argument for argument in process.cmdline())
    except psutil.Error:
        return False


def forks(process):
    """Tell whether servers or commands of tests are forked from a process."""
    with contextlib.suppress(psutil.Error):
        return bool({"tests.helpers.command_fork", "tests.helpers.network.fork_server"} & set(process.cmdline()))
    return False


def pid_of(model):
    return fetch(f"{model.url}/pid", token=model._caller.where.token)


def gone(pid):
    """Tell whether a process ends, within the time that a test waits for anything."""
    deadline = time.monotonic() + SECONDS
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_an_uploaded_model_is_trained_in_a_process_of_its_own(runner, file):
    model = runner.serve_model(file)
    assert pid_of(model) not in (os.getpid(), None)
    model(ln.ones((1, 3))).sum().backward()
    assert model(ln.ones((1, 3))).item() == 3 * 1.5
    assert runner.models()["linear"]["running"]


def test_everything_can_be_awaited(server, file):
    async def use():
        runner = ln.network.remote_runner(server.url)
        model = await runner.serve_model(file)
        await (await model(ln.ones((1, 3)))).sum().backward()
        async with asyncio.timeout(SECONDS):
            while "called with (1, 3)" not in await runner.logs():
                await asyncio.sleep(0.01)
        return await runner.models(), await model.statistics()

    models, statistics = run(use())
    assert models.keys() == {"linear"}
    assert statistics["optimize"]["hits"] == 1


def test_a_runner_in_another_process_serves_for_any_client(file):
    with process("runner") as url:
        runner = ln.network.remote_runner(url, blocking=True)
        pid = pid_of(model := runner.serve_model(file))
        assert model(ln.ones((1, 3))).item() == 6.0
    assert gone(pid)


def test_the_model_and_its_optimizer_are_chosen_by_name(runner, file):
    assert runner.serve_model(file, "tripled", model="other")(ln.ones(2)).tolist() == [3.0, 3.0]
    model = runner.serve_model(file, "slow", optimizer="sgd", lr=0.25)
    model(ln.ones((1, 3))).sum().backward()
    assert model(ln.ones((1, 3))).item() == 3 * 1.75
    assert runner.models().keys() == {"tripled", "slow"}


def test_a_model_of_the_same_name_replaces_the_old_one(runner, file):
    old = runner.serve_model(file)
    pid = pid_of(old)
    new = runner.serve_model(file, model="other")
    assert gone(pid)
    assert new(ln.ones(1)).item() == 3.0
    with hurried(old, 0.5), pytest.raises(Unreachable):
        old(ln.ones((1, 3)))


def test_logs_hold_what_models_write(runner, file):
    runner.serve_model(file)(ln.ones((2, 3)))
    runner.serve_model(file, "second")
    assert wait_for(lambda: runner.logs("linear"), "called").splitlines() == ["a model is made", "called with (2, 3)"]
    found = wait_for(runner.logs, "second: a model is made").splitlines()
    assert {"linear: called with (2, 3)", "second: a model is made"} <= set(found)


WRITING = {
    "half a line": "print('half a line', end='')\n",
    "half a line without a buffer": "import os\nos.write(1, b'half a line')\n",
    "a bar": "import tqdm\nbar = tqdm.tqdm(total=3, desc='half a line')\nbar.update()\n",
    "half a line of another process": "import subprocess\nsubprocess.run(['printf', 'half a line'])\n",
}


@pytest.fixture
def tokens(monkeypatch):
    """The tokens of the models that were served."""
    found, wait_ready = [], Child.wait_ready

    def noting(child, timeout):
        problem = wait_ready(child, timeout)
        found.append(child.token)
        return problem

    monkeypatch.setattr(Child, "wait_ready", noting)
    return found


@pytest.mark.parametrize("case", WRITING)
def test_a_file_that_leaves_half_a_line_is_served(case, runner, tmp_path, tokens):
    path = tmp_path / "writing.py"
    path.write_text(WRITING[case] + "def model(x):\n    print(' and its end')\n    return 2 * x\n")
    assert runner.serve_model(path)(ln.ones(1)).item() == 2.0
    logs = wait_for(lambda: runner.logs("writing"), "and its end")
    assert "half a line" in logs
    assert tokens[0] not in logs
    assert "labnet-" not in logs  # the mark of the child's answer


@pytest.mark.parametrize("case", WRITING)
@pytest.mark.parametrize("end", ["raise ValueError", "raise SystemExit", "model = 3"])
def test_a_file_that_leaves_half_a_line_and_cannot_be_served_says_why(case, end, runner, tmp_path):
    path = tmp_path / "writing.py"
    path.write_text(WRITING[case] + end)
    with pytest.raises(RemoteFailure, match=r"writing\.py") as caught:
        runner.serve_model(path)
    assert "half a line" in str(caught.value)
    assert "labnet-" not in str(caught.value)
    assert children() == []


@pytest.mark.parametrize("name", ["random", "json", "types", "statistics", "asyncio", "labnet", "numpy"])
def test_a_file_named_like_a_module_is_served(name, runner, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_text("import statistics, wave\n\ndef model(x):\n    return x * statistics.mean([1, 3])\n")
    assert runner.serve_model(path, "named")(ln.ones(1)).item() == 2.0


NAMED = """
import sys
from pathlib import Path
from labnet.network.runner.model_file import ModelFile

file = ModelFile.load(Path(sys.argv[1]) / "wave.py")
import wave, colorsys
print(file.model(1), wave.__name__, hasattr(wave, "open"), hasattr(colorsys, "rgb_to_hls"))
"""


def test_files_beside_a_model_file_are_imported_but_not_in_place_of_the_standard_library(tmp_path):
    (tmp_path / "wave.py").write_text(
        "import colorsys, layers, parts.one\nmodel = lambda x: x + layers.two + parts.one.three"
    )
    (tmp_path / "layers.py").write_text("two = 2")
    (tmp_path / "colorsys.py").write_text("raise AssertionError")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.py").write_text("three = 3")
    done = subprocess.run([sys.executable, "-c", NAMED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "6 wave True True\n", done.stderr


BROKEN = {
    "a syntax error": ("model = (\n", [r"broken\.py, line 1: SyntaxError"]),
    "an error while it runs": ("x = 1\nmodel = undefined\n", [r"broken\.py, line 2: NameError: .*undefined"]),
    "an exit": ("raise SystemExit(3)\n", [r"broken\.py, line 1: SystemExit: 3"]),
    "no model": ("def other(x):\n    return x\n", ["defines no 'model'", "other"]),
    "a model that cannot be called": ("model = 3\n", ["no callable 'model'"]),
    "an odd optimizer": ("model = abs\noptimizer = 3\n", ["optimizer"]),
    "odd routes": ("model = abs\nroutes = 3\n", ["routes must be functions by name"]),
    "the end of the process": ("import os\nprint('bye', flush=True)\nos._exit(9)\n", ["status 9", "bye"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_served_says_why_and_leaves_nothing_behind(case, runner, tmp_path):
    source, messages = BROKEN[case]
    path = tmp_path / "broken.py"
    path.write_text(source)
    for message in messages:
        with pytest.raises(RemoteFailure, match=message):
            runner.serve_model(path)
    assert runner.models() == {}
    assert children() == []


def test_a_broken_file_does_not_replace_a_model_that_works(runner, file):
    model = runner.serve_model(file)
    file.write_text("model = (")
    with pytest.raises(RemoteFailure, match="SyntaxError"):
        runner.serve_model(file)
    assert model(ln.ones((1, 3))).item() == 6.0


def test_a_model_that_ends_its_process_is_unreachable_and_the_runner_goes_on(runner, file):
    model = runner.serve_model(file, model="crash")
    with pytest.raises(Unreachable):
        model(ln.ones(1))
    assert "the process ended with status 7" in wait_for(lambda: runner.logs("linear"), "status 7")
    assert runner.models()["linear"]["running"] is False
    assert runner.serve_model(file, model="other")(ln.ones(1)).item() == 3.0


def wait_for(read, text):
    deadline = time.monotonic() + SECONDS
    while text not in (found := read()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_a_model_can_be_stopped(runner, file):
    pid = pid_of(runner.serve_model(file))
    folder = Path(psutil.Process(pid).cwd())
    runner.stop_model("linear")
    assert gone(pid)
    assert not folder.exists()
    assert runner.models() == {}
    with pytest.raises(BadRequest, match="linear"):
        runner.stop_model("linear")
    with pytest.raises(BadRequest, match="linear"):
        runner.logs("linear")


def test_stopping_the_runner_ends_its_models_and_removes_their_files(file):
    with ln.network.serve_runner(port=0) as server:
        runner = ln.network.remote_runner(server.url, blocking=True)
        pids = [pid_of(runner.serve_model(file, name)) for name in ("first", "second")]
        folders = {psutil.Process(pid).cwd() for pid in pids}
    assert all(gone(pid) for pid in pids)
    assert len(folders) == 2
    assert not any(os.path.exists(folder) for folder in folders)


def test_a_runner_that_is_killed_takes_its_models_with_it(file):
    with child("runner", module="tests.helpers.network.example_servers") as (where, started):
        pid = pid_of(ln.network.remote_runner(where["url"], blocking=True).serve_model(file))
        started.send_signal(signal.SIGKILL)
        assert gone(pid)


# Who may


def test_there_is_no_runner_without_a_token():
    for token in (None, ""):
        with pytest.raises(ServeError, match="token"):
            ln.network.serve_runner(port=0, token=token)


def test_a_runner_does_not_take_the_port_of_another_server():
    with ln.network.serve({"a": lambda: 1}, port=0, name="runner") as server, pytest.raises(OSError, match="in use"):
        ln.network.serve_runner(port=server.port)


def test_without_the_right_token_nothing_is_run(server, file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # so that the client does not find the token
    for token in (None, "wrong"):
        runner = ln.network.remote_runner(server.url, token=token, blocking=True)
        for ask in (
            runner.models,
            runner.logs,
            lambda r=runner: r.serve_model(file),
            lambda r=runner: r.stop_model("x"),
        ):
            with pytest.raises(Unauthorized):
                ask()
    assert children() == []


def test_no_route_of_a_runner_can_be_read_without_its_token(server):
    for path in ("/models", "/logs", "/serve_model", "/stop_model"):
        for method in ("GET", "POST"):
            assert http(server, method, path, b"[]" if method == "POST" else None, token=None).status == 401


def test_the_shell_is_there_only_where_it_was_allowed(server, runner):
    with pytest.raises(RouteNotFound, match="/shell"):
        runner.shell("echo hello")
    assert "/shell" not in server._port.routes


def test_a_command_of_the_shell_returns_what_it_wrote():
    with process("runner", "shell") as url:
        runner = ln.network.remote_runner(url, blocking=True)
        found = runner.shell("echo hello; echo 'to err' >&2; exit 3")
        assert (found.returncode, found.stdout, found.stderr) == (3, "hello\n", "to err\n")


def test_a_command_that_takes_too_long_is_ended():
    with process("runner", "shell") as url:
        found = ln.network.remote_runner(url, blocking=True).shell("echo begun; sleep 600", timeout=5)
    assert (found.returncode, found.stdout) == (-signal.SIGKILL, "begun\n")
    assert "ended after 5 s" in found.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "server", "statistics\0", "é"])
def test_a_name_that_could_be_a_path_is_refused(name, runner, file):
    with pytest.raises(BadRequest, match="model"):
        runner.serve_model(file, name)


@pytest.mark.parametrize(
    ("given", "kept"), [("../../escaped.py", "escaped.py"), ("a\nb\0c", "a_b_c.py"), ("..", "...py"), ("", "model.py")]
)
def test_the_name_of_the_file_names_no_other_place(given, kept, server):
    body = native({"source": np.frombuffer(b"model = abs", "uint8")}, file=given, name="m")
    reply = http(server, "POST", "/serve_model", body, Content_Type=NATIVE)
    assert reply.status == 200
    (process_of_it,) = children()
    folder = Path(process_of_it.cwd())
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {kept}


@pytest.mark.parametrize("body", [b"[1, 2]", b'{"source": [1, 2]}', b"[]"])
def test_a_message_of_another_form_is_a_bad_request(body, server):
    assert http(server, "POST", "/serve_model", body).status == 400


def test_a_token_of_a_model_is_not_in_what_is_shown(server, runner, file):
    model = runner.serve_model(file)
    secret = model._caller.where.token
    assert secret
    shown = [repr(model), repr(runner), str(runner.models()), runner.logs(), str(server.statistics())]
    assert not any(secret in text or server.token in text for text in shown)
    assert discovery.lookup(model.address.port).token == secret
