"""The magics, run as whole cells in a real IPython shell."""

import asyncio
import contextlib
import io
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

import labnet as ln
from tests.notebook.lab import free_port

MODEL = "model = ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 2))"


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    shell.reset(new_session=True)
    shell.run_line_magic("load_ext", "labnet")
    shell.user_ns["ln"] = ln
    yield shell
    for server in ln.network.servers().values():
        server.stop()
    shell.reset(new_session=True)
    shell.history_manager.end_session()
    shell.history_manager.save_thread and shell.history_manager.save_thread.stop()
    InteractiveShell.clear_instance()


def run(shell, cell):
    """Run a cell; returns its result and everything printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        result = shell.run_cell(cell)
    return result, output.getvalue()


def test_the_cell_magic_defines_serves_and_shows_a_panel(shell):
    result, output = run(shell, f"%%serve_model model --port 0 --lr 0.01\n{MODEL}")
    server = result.result
    assert result.success, output
    assert server.running
    assert server.name == "model"
    assert "Panel" in output
    remote = ln.network.remote_model(server.url, blocking=True)
    before = shell.user_ns["model"].state_dict()
    ln.loss.mse(remote(ln.ones((5, 3))), ln.zeros((5, 2))).backward()
    after = shell.user_ns["model"].state_dict()
    assert any(before[name].tolist() != after[name].tolist() for name in before)


def test_running_the_cell_again_replaces_the_model_on_its_port(shell):
    port = free_port()
    first, _ = run(shell, f"%%serve_model model --port {port} --no-panel\n{MODEL}")
    ln.network.remote_model(first.result.url, blocking=True)(ln.ones((1, 3)))
    second, _ = run(shell, f"%%serve_model model --port {port} --no-panel\n{MODEL}")
    other, _ = run(shell, f"%%serve_model net --port {port} --no-panel\nnet = ln.nn.Linear(3, 1)")
    assert [first.result.running, second.result.running, other.result.running] == [False, False, True]
    assert "replaced" in repr(first.result)
    assert ln.network.remote_model(other.result.url, blocking=True)(ln.ones((1, 3))).shape == (1, 1)
    assert other.result.statistics()["forward"]["hits"] == 2


def test_the_line_magic_serves_an_object_and_can_be_assigned(shell):
    run(shell, MODEL + "\nopt = ln.optim.SGD(lr=0.5)")
    result, output = run(shell, "server = %serve_model model --optimizer opt --port 0 --no-panel --name mlp")
    assert result.success, output
    server = shell.user_ns["server"]
    assert server.name == "mlp"
    assert "Panel" not in output


def test_an_optimizer_named_none_serves_without_training(shell):
    run(shell, MODEL)
    result, _ = run(shell, "%serve_model model --optimizer none --port 0 --no-panel")
    before = shell.user_ns["model"].state_dict()
    (ln.network.remote_model(result.result.url, blocking=True)(ln.ones((1, 3))) * 2).sum().backward()
    for name, value in shell.user_ns["model"].state_dict().items():
        assert value.tolist() == before[name].tolist()


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%serve_model nothing --port 0", ["UsageError", "'nothing'"]),
        ("%serve_model model --port 0 --optimizer wrong", ["UsageError", "'wrong'", "sgd, adam"]),
        ("%serve_model model --port 0 --optimizer none --lr 1", ["UsageError", "--lr"]),
        ("%serve_model model --port x", ["UsageError", "invalid int value: 'x'"]),
        ("%serve_model", ["UsageError", "required: model"]),
        ("%serve_model three --port 0", ["UsageError", "callable", "int"]),
        ("%%serve_model model --port 0\nimport asyncio\nawait asyncio.sleep(0)\nmodel = 1", ["UsageError", "await"]),
        ("%%serve_model other --port 0\nx = 1", ["UsageError", "'other'"]),
    ],
)
def test_misuse_is_one_clean_line(shell, cell, words):
    run(shell, MODEL + "\nthree = 3")
    result, output = run(shell, cell)
    assert not result.success
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("usage:")]
    assert len(lines) == 1, output
    for word in words:
        assert word in lines[0]
    assert ln.network.servers() == {}


def test_a_failing_cell_shows_one_traceback_with_the_users_line(shell):
    result, output = run(shell, "%%serve_model model --port 0\nx = 1\nmodel = undefined_name")
    assert isinstance(result.error_in_exec, NameError)
    assert output.count("Traceback") == 1
    assert "model = undefined_name" in output
    assert ln.network.servers() == {}


def test_a_port_taken_by_another_process_is_one_line_that_names_it(shell):
    import subprocess

    code = (
        "import labnet as ln, sys; s = ln.network.serve({'f': lambda: 1}, port=0, name='theirs');"
        "print(s.port, flush=True); sys.stdin.read(); s.stop()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline())
        run(shell, MODEL)
        result, output = run(shell, f"%serve_model model --port {port} --no-panel")
        assert not result.success
        assert f"port {port} is taken by server 'theirs' of process {process.pid}" in output
        assert len(output.strip().splitlines()) == 1
    finally:
        process.communicate()


def test_help_lists_the_arguments(shell):
    _, output = run(shell, "%serve_model?")
    assert "--optimizer" in output or "--optimizer" in shell.find_line_magic("serve_model").__doc__


def test_a_served_model_answers_while_a_cell_blocks(shell):
    result, _ = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")

    async def client():
        model = ln.network.remote_model(result.result.url)
        return (await model(ln.ones((2, 3)))).shape

    shell.user_ns.update(client=client, asyncio=asyncio)
    blocking, output = run(shell, "shape = asyncio.run(client())")
    assert blocking.success, output
    assert shell.user_ns["shape"] == (2, 2)
