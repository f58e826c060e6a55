"""The magics, run as whole cells in a real IPython shell."""

import asyncio
import contextlib
import gc
import io
import re
import sys

import numpy as np
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import labnet as ln
from labnet.jupyter import arguments, magics
from tests.helpers.libraries import torch_or_skip
from tests.helpers.ports import free_port

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


def run(shell, cell, *, store_history=False):
    """Run a cell; returns its result and everything printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        result = shell.run_cell(cell, store_history=store_history)
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


def test_a_model_is_served_compiled(shell):
    result, output = run(shell, f"%%serve_model model --port 0 --no-panel --lr 0.01 --compile\n{MODEL}")
    assert result.success, output
    compute, model = result.result._model.compute, shell.user_ns["model"]
    remote = ln.network.remote_model(result.result.url, blocking=True)
    remote(ln.ones((5, 3))).backward(ln.zeros((5, 2)))
    assert compute.wait()
    before = model.state_dict()
    out = remote(ln.ones((5, 3)))
    np.testing.assert_allclose(out.numpy(), model(ln.ones((5, 3))).numpy(), rtol=1e-5)
    ln.loss.mse(out, ln.zeros((5, 2))).backward()
    assert any(before[name].tolist() != value.tolist() for name, value in model.state_dict().items())
    assert compute.versions == 1


def test_a_model_that_cannot_be_compiled_is_one_line(shell):
    _, output = run(shell, "%%serve_model model --port 0 --compile\nasync def model(x):\n    return x")
    assert output.strip() == "UsageError: %serve_model: an async model cannot be compiled: serve it without compile"


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
        ("%serve_model model --port 70000", ["UsageError", "65535"]),
        ("%serve_model model --unknown 1", ["UsageError", "--unknown"]),
        ("%remote_model", ["UsageError", "required: target, name"]),
        ("%remote_model nobody net", ["UsageError", "no server is named 'nobody'", "%labnet list"]),
        ("%remote_model localhost:1 net", ["UsageError", "localhost:1", "is the server running there?"]),
        ("%remote_model localhost:1 two.names", ["UsageError", "'two.names'"]),
        ("%remote_model localhost:1 net --token secret", ["UsageError", "name of a variable"]),
        ("%labnet", ["UsageError", "required: action"]),
        ("%labnet start", ["UsageError", "'start'", "list", "stop", "panel"]),
        ("%labnet stop", ["UsageError", "which server?", "%labnet list"]),
        ("%labnet stop nobody", ["UsageError", "no server is named 'nobody'"]),
        ("%labnet stop localhost:1", ["UsageError", "not a server of this kernel"]),
        ("%labnet panel localhost:1", ["UsageError", "localhost:1"]),
        ("%labnet panel localhost:99999", ["UsageError", "'localhost:99999' is not the address"]),
        ("%remote_model localhost:99999 net", ["UsageError", "'localhost:99999' is not the address"]),
        ("%remote_model localhost:1 class", ["UsageError", "'class' is not a name"]),
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


@pytest.mark.parametrize(
    ("magic", "words"),
    [
        ("serve_model", ["Serve a model from this kernel", "--optimizer", "--lr", "--port", "--name", "--no-panel"]),
        ("remote_model", ["Connect to a served model", "--token", "--blocking", "--timeout"]),
        ("labnet", ["list", "stop", "panel"]),
    ],
)
def test_help_says_what_a_magic_does_and_lists_its_arguments(shell, magic, words):
    help = shell.inspector.info(shell.find_magic(magic))["docstring"]
    for word in words:
        assert word in help
    result, _ = run(shell, f"%{magic}?")
    assert result.success


def complete(shell, line):
    with provisionalcompleter():
        return [completion.text for completion in shell.Completer.completions(line, len(line))]


def test_names_and_options_are_completed(shell):
    run(shell, MODEL + "\nmodest = ln.optim.SGD(lr=1.0)\nnumber = 3\ndef mine(x): return x")
    server = run(shell, "%serve_model model --port 0 --no-panel --name perceptron")[0].result
    assert complete(shell, "%serve_model mo") == ["model"]
    assert {"mine", "model"} <= set(complete(shell, "%serve_model "))
    assert "number" not in complete(shell, "%serve_model ")
    assert complete(shell, "%%serve_model model --no") == ["--no-panel"]
    assert complete(shell, "%serve_model --port 0 --optimizer mod") == ["modest"]
    assert complete(shell, "%serve_model model --optimizer ad") == ["adam"]
    assert complete(shell, "%labnet s") == ["stop"]
    assert complete(shell, "%labnet stop per") == ["perceptron"]
    assert complete(shell, "%labnet panel local") == complete(shell, "%remote_model local") == []
    assert complete(shell, "%remote_model 127") == [f"127.0.0.1:{server.port}"]
    assert complete(shell, "%remote_model perc") == ["perceptron"]


def test_a_served_model_lives_on_when_its_name_is_gone(shell):
    result, _ = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")
    url = result.result.url
    del result
    run(shell, "del model, _")
    shell.reset(new_session=True)
    gc.collect()
    assert ln.network.remote_model(url, blocking=True)(ln.ones((2, 3))).shape == (2, 2)


def test_a_remote_model_is_found_by_address_and_by_name(shell):
    server = run(shell, f"%%serve_model model --port 0 --no-panel --name mlp\n{MODEL}")[0].result
    for target in (f"localhost:{server.port}", server.url, "mlp", str(server.port)):
        result, output = run(shell, f"%remote_model {target} net --blocking")
        assert result.success, output
        assert shell.user_ns.pop("net")(ln.ones((1, 3))).shape == (1, 2)


def test_a_token_is_taken_from_a_variable(shell):
    server = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")[0].result
    shell.user_ns["secret"] = "wrong"
    run(shell, f"%remote_model {server.url} net --blocking --token secret")
    with pytest.raises(ln.errors.Unauthorized):
        shell.user_ns["net"](ln.ones((1, 3)))


def test_the_list_shows_every_server_and_stop_ends_one_by_name(shell):
    _, output = run(shell, "%labnet list")
    assert "no server is running" in output
    run(shell, f"%%serve_model model --port 0 --no-panel --name <b>one</b>\n{MODEL}")
    two = run(shell, "%serve_model model --port 0 --no-panel --name two")[0].result
    ln.network.remote_model(two.url, blocking=True)(ln.ones((1, 3)))
    result, output = run(shell, "%labnet list")
    table = result.result
    assert [(row.name, row.where, row.hits, row.state) for row in table.rows] == [
        ("<b>one</b>", "this kernel", 0, "running"),
        ("two", "this kernel", 1, "running"),
    ]
    assert "&lt;b&gt;one&lt;/b&gt;" in table._repr_html_()
    assert two.url in output
    assert len({line.index("this kernel") for line in output.splitlines() if "this kernel" in line}) == 1
    for text in (output, table._repr_html_()):
        assert two.token not in text
    _, output = run(shell, "%labnet stop two")
    assert output.strip() == f"stopped 'two'; its port {two.port} is free"
    assert not two.running
    assert [row.name for row in run(shell, "%labnet list")[0].result.rows] == ["<b>one</b>"]


def test_a_name_that_two_servers_have_is_not_guessed(shell):
    run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")
    run(shell, "%serve_model model --port 0 --no-panel")
    _, output = run(shell, "%labnet stop model")
    assert "2 servers are named 'model'" in output
    assert len(ln.network.servers()) == 2


def test_the_panel_of_any_server_can_be_shown_again(shell):
    server = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")[0].result
    for target in ("model", server.url):
        result, output = run(shell, f"%labnet panel {target}")
        assert result.success, output
        assert "Panel" in output


def test_loading_the_extension_again_changes_nothing(shell):
    run(shell, "%load_ext labnet")
    before = len(shell.events.callbacks["pre_run_cell"])
    ln.load_ipython_extension(shell)
    assert len(shell.events.callbacks["pre_run_cell"]) == before


def test_a_served_model_answers_while_a_cell_blocks(shell):
    result, _ = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}")

    async def client():
        model = ln.network.remote_model(result.result.url)
        return (await model(ln.ones((2, 3)))).shape

    shell.user_ns.update(client=client, asyncio=asyncio)
    blocking, output = run(shell, "shape = asyncio.run(client())")
    assert blocking.success, output
    assert shell.user_ns["shape"] == (2, 2)


def test_a_name_may_be_quoted(shell):
    run(shell, MODEL)
    result, _ = run(shell, "%serve_model model --port 0 --no-panel --name 'two words'")
    assert result.result.name == "two words"
    assert run(shell, "%labnet stop 'two words'")[1].startswith("stopped 'two words'")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--name='my model'", ["--name=my model"]),
        ('--name="my model"', ["--name=my model"]),
        ('--name "my model"', ["--name", "my model"]),
        ("--name my\\ model", ["--name", "my model"]),
        ("--name my' 'model", ["--name", "my model"]),
        ('--name="it\'s"', ["--name=it's"]),
        ("--name='say \"it\"'", ['--name=say "it"']),
        ('--name="say \\"it\\""', ['--name=say "it"']),
        ("'back\\slash' \"back\\slash\"", ["back\\slash"] * 2),
        ("--name=a#b", ["--name=a#b"]),
        ("'#1' \\#2 #3", ["#1", "#2"]),
        ("'a;b' a\\;b", ["a;b"] * 2),
        ("mlp  # the demo", ["mlp"]),
        ("mlp #the demo, 'it's", ["mlp"]),
        ("# all of it", []),
        ("mlp;", ["mlp"]),
        ("mlp ;; # shown below", ["mlp"]),
        ("''", [""]),
        ("a ''", ["a", ""]),
        ("  a\tb  ", ["a", "b"]),
        ("<b>one</b> http://localhost:3000", ["<b>one</b>", "http://localhost:3000"]),
    ],
)
def test_a_line_is_split_as_a_shell_does(line, words):
    assert arguments.split(line) == words


@pytest.mark.parametrize("form", ["line", "assigned", "cell"])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ('--name="my model"  # the demo', "my model"),
        ("--name 'my model';", "my model"),
        ("\\\n--name mlp \\\n --lr 0.5 # last", "mlp"),
    ],
)
def test_a_line_may_have_quotes_comments_and_continuations(shell, words, name, form):
    run(shell, MODEL)
    line = f"serve_model model --port 0 --no-panel {words}"
    cell = {"line": f"%{line}", "assigned": f"server = %{line}", "cell": f"%%{line}\n{MODEL}\nafter = 1"}[form]
    result, output = run(shell, cell)
    assert result.success, output
    server = shell.user_ns["server"] if form == "assigned" else result.result
    assert server.name == name
    assert shell.user_ns.get("after") == (1 if form == "cell" else None)


@pytest.mark.parametrize(
    ("line", "cell", "expected"),
    [
        ("model", "x = 1", ("model", "x = 1")),
        ("model \\", "--port 0\nx = 1", ("model  --port 0", "x = 1")),
        ("model \\", "--port \\\n0\nx = 1", ("model  --port  0", "x = 1")),
        ("model # \\", "x = 1", ("model # \\", "x = 1")),
        ("model \\\\", "x = 1", ("model \\\\", "x = 1")),
        ("model --name 'a \\", "b'\nx = 1", ("model --name 'a  b'", "x = 1")),
        ("model \\", "", ("model  ", "")),
    ],
)
def test_a_backslash_at_the_end_goes_on_in_the_next_line(line, cell, expected):
    assert arguments.continued(line, cell) == expected


@pytest.mark.parametrize("end", ["  # which are there?", ";", " ; # all"])
def test_a_comment_may_follow_every_magic(shell, end):
    server = run(shell, f"%%serve_model model --port 0 --no-panel{end}\n{MODEL}")[0].result
    for cell in (
        f"%remote_model {server.url} net --blocking{end}",
        f"%labnet list{end}",
        f"%labnet panel model{end}",
        f"%labnet stop model{end}",
    ):
        result, output = run(shell, cell)
        assert result.success, output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%serve_model model --name 'open", ["no closing '", "--name"]),
        ('%serve_model model --name="open', ['no closing "']),
        ("%labnet list; x = 1", ["nothing behind ';'", "x = 1"]),
        ("%labnet # list", ["required: action"]),
    ],
)
def test_a_line_that_cannot_be_split_is_one_clean_line(shell, line, words):
    _, output = run(shell, line)
    last = [part for part in output.splitlines() if not part.startswith("usage:")]
    assert len(last) == 1
    for word in ["UsageError", *words]:
        assert word in last[0]


def unnumbered(line):
    """Return a line of output without the number of its cell."""
    return re.sub(r"^Out\[\d+\]", "Out", line)


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("model.state_dict().keys()", True),
        ("x = 7\n\n'last ' + str(x)  # of the cell", True),
        ("{'a': [1,\n 2]}", True),
        ("print('printed')", False),
        ("None", False),
        ("x = 7", False),
        ("'nothing';", False),
        ("'nothing' ;  # at all", False),
        ("1\n2\nx = 3", False),
        ("if True:\n    'inside'", False),
        ("", False),
    ],
)
def test_the_last_expression_of_a_cell_is_displayed_as_in_any_other_cell(shell, cell, shown):
    _, plain = run(shell, f"{MODEL}\n{cell}", store_history=True)
    result, output = run(shell, f"%%serve_model model --port 0 --no-panel\n{MODEL}\n{cell}", store_history=True)
    assert result.success, output
    assert ("Out[" in plain) is shown
    own = [unnumbered(line) for line in output.splitlines() if "Server(" not in line and line.strip()]
    expected = [unnumbered(line) for line in plain.splitlines() if line.strip()]
    assert own[: len(expected)] == expected
    assert output.count("Out[") == shown + 1
    assert result.result.running


@pytest.mark.parametrize(
    ("interactivity", "shown"),
    [("all", ["1", "2"]), ("last", []), ("last_expr", []), ("last_expr_or_assign", ["5"]), ("none", [])],
)
def test_what_is_displayed_follows_the_shells_setting(shell, interactivity, shown):
    shell.ast_node_interactivity = interactivity
    try:
        _, output = run(shell, f"%%serve_model model --port 0 --no-panel --name s\n{MODEL}\n1\n2\nx = 5")
    finally:
        shell.ast_node_interactivity = "last_expr"
    assert [line.split(": ")[1] for line in output.splitlines() if "Out[" in line and "Server" not in line] == shown


def test_a_last_expression_that_fails_is_one_traceback_and_nothing_is_served(shell):
    result, output = run(shell, f"%%serve_model model --port 0\n{MODEL}\n1 / 0")
    assert isinstance(result.error_in_exec, ZeroDivisionError)
    assert output.count("Traceback") == 1
    assert "magics.py" not in output
    assert ln.network.servers() == {}


def test_a_syntax_error_is_shown_as_in_any_other_cell_and_nothing_is_served(shell):
    plain = run(shell, "good = 1\nm = ln.nn.Linear(2,")[1].strip().splitlines()
    result, output = run(shell, "%%serve_model m --port 0\ngood = 1\nm = ln.nn.Linear(2,")
    lines = output.strip().splitlines()
    assert lines[-1] == "UsageError: %%serve_model: nothing was run or served"
    assert len(lines) <= len(plain) + 2
    assert "SyntaxError" in output
    assert "m = ln.nn.Linear(2," in output
    assert "magics.py" not in output
    assert isinstance(result.error_in_exec, UsageError)
    assert not {"m", "good"} & shell.user_ns.keys()
    assert ln.network.servers() == {}


def test_an_error_in_the_cell_is_shown_without_what_labnet_did_around_it(shell):
    _, output = run(shell, "%%serve_model m --port 0\ndef make():\n    raise ValueError('inside')\nm = make()")
    assert "ValueError" in output
    assert "raise" in output
    assert "magics.py" not in output


def test_compile_is_handed_on_and_what_comes_of_it_is_at_most_one_line(shell, monkeypatch):
    asked = []

    def listening(*arguments, **options):
        asked.append(options["compile"])
        return serve_model(*arguments, **options)

    serve_model = magics.serve_model
    monkeypatch.setattr(magics, "serve_model", listening)
    run(shell, MODEL)
    result, output = run(shell, "%serve_model model --port 0 --no-panel --compile")
    run(shell, "%serve_model model --port 0 --no-panel")
    assert asked == [True, False]
    assert result.success or output.startswith("UsageError: %serve_model: ")
    assert len(output.strip().splitlines()) <= 1


OTHERS = """
import numpy as np

class Estimator:
    def predict(self, rows):
        return rows * 2

    def transform(self, rows):
        return rows * 3

def sine(x):
    return np.sin(np.asarray(x))

rule = lambda g, out, x: g * np.cos(x)
estimator = Estimator()
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [("estimator", 2.0), ("estimator --method transform", 3.0), ("sine --vjp rule --optimizer none", np.sin(1.0))],
)
def test_a_model_of_another_library_is_served(shell, line, found):
    run(shell, OTHERS)
    result, output = run(shell, f"%serve_model {line} --port 0 --no-panel")
    assert result.success, output
    with ln.no_grad():
        assert ln.network.remote_model(result.result.url, blocking=True)(ln.ones(1)).item() == pytest.approx(found)


def test_a_module_of_torch_is_served_with_its_own_optimizer_or_labnets(shell):
    shell.user_ns["torch"] = torch_or_skip()
    run(shell, "net = torch.nn.Linear(3, 2)\nopt = torch.optim.SGD(net.parameters(), lr=0.1)")
    for options in ("--optimizer opt", "--optimizer sgd --lr 0.1"):
        result, output = run(shell, f"%serve_model net --port 0 --no-panel {options}")
        assert result.success, output
        before = shell.user_ns["net"].bias.tolist()
        ln.network.remote_model(result.result.url, blocking=True)(ln.ones((1, 3))).sum().backward()
        assert shell.user_ns["net"].bias.tolist() == pytest.approx([value - 0.1 for value in before])


def test_what_a_library_refuses_is_one_line(shell):
    shell.user_ns["torch"] = torch_or_skip()
    run(shell, "net = torch.nn.Linear(3, 2)\nopt = torch.optim.SGD(torch.nn.Linear(3, 2).parameters(), lr=0.1)")
    result, output = run(shell, "%serve_model net --port 0 --no-panel --optimizer opt")
    assert not result.success
    assert "UsageError: %serve_model: 2 of the 2 parameters of the optimizer SGD are not the module's" in output
