"""The command line as a user runs it: in processes of its own, over pipes, with signals."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

import labnet as ln
from labnet import kernels
from labnet.cli.figures import table
from labnet.kernels.machine_code import cache
from tests.helpers.command_fork import forge

LABNET = [sys.executable, "-m", "labnet"]
SECONDS = 120

MODEL = """
import labnet as ln

ln.manual_seed(0)
model = ln.nn.Linear(2, 1)
optimizer = ln.optim.SGD(lr=0.1)
net = ln.nn.Sequential(ln.nn.Linear(2, 4), ln.nn.relu, ln.nn.Linear(4, 3))
routes = {"hello": lambda: "hi"}


def double(x):
    return x * 2


def both(x):
    return {"twice": x * 2, "same": x}


def pair(x):
    return x, x + 1


async def later(x):
    return x


def fails(x):
    raise RuntimeError("two\\nlines")
"""
#: Examples of x0 + 2 x1.
EXAMPLES = "[[1, 0]] | [[1]]\n[[0, 1]] | [[2]]\n\n[[1, 1]] | [[3]]\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def labnet(*arguments, given="", seconds=SECONDS, **environment):
    """Carry out a command in a process of its own, which is forked from one that has imported labnet."""
    content = given.encode("utf-8", "surrogateescape")
    result = forge().run(*arguments, given=content, seconds=seconds, **environment)
    result.stdout, result.stderr = result.stdout.decode(), result.stderr.decode()
    return result


def labnet_alone(*arguments, given=""):
    """Carry out a command with a Python of its own."""
    return subprocess.run(
        [*LABNET, *map(str, arguments)], input=given, capture_output=True, text=True, check=False, timeout=SECONDS
    )


class Running:
    """A command that goes on until it is told to stop; the first line of its output says where it serves."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [*LABNET, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        self.line = self.process.stdout.readline()
        found = re.search(r"http://\S+", self.line)
        self.url = found.group() if found else None
        return self

    def stop(self, number=signal.SIGINT):
        """Send a signal; return the exit status and what was written on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


# infer


def test_infer_writes_one_line_for_each_line_in_order(file):
    lines = [f"[{number}, {number + 1}]" for number in range(20)]
    result = labnet_alone("infer", f"{file}:double", given="\n".join(lines))
    assert (result.returncode, result.stderr) == (0, "")
    expected = [[2.0 * number, 2.0 * number + 2] for number in range(20)]
    assert [ln.io.parse(line).tolist() for line in result.stdout.splitlines()] == expected


def test_infer_answers_a_line_before_the_next_one_is_there(file):
    with subprocess.Popen(
        [*LABNET, "infer", f"{file}:double"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for number in (1, 2, 3):
            process.stdin.write(f"[{number}]\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"[{2.0 * number}]:float32\n"
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def test_infer_keeps_a_dtype_that_is_given(file):
    result = labnet("infer", f"{file}:double", given="[1]\n[1]:int8\n[1.5]:float64\n")
    assert result.stdout.splitlines() == ["[2.0]:float32", "[2]:int8", "[3.0]:float64"]


def test_infer_writes_several_outputs_as_json(file):
    assert labnet("infer", f"{file}:both", given="[1]").stdout == (
        '{"twice": "[2.0]:float32", "same": "[1.0]:float32"}\n'
    )
    assert labnet("infer", f"{file}:pair", given="[1]").stdout == '["[1.0]:float32", "[2.0]:float32"]\n'


def test_a_file_may_compose_remote_models_with_an_async_function(file):
    part = ln.nn.Linear(2, 1)
    with ln.network.serve_model(part, ln.optim.SGD(lr=0.1), port=0) as server:
        file.write_text(
            f"import labnet as ln\nremote = ln.network.remote_model({server.url!r})\n"
            "async def model(x):\n    return (await remote(x)) * 2\n"
        )
        expected = part(ln.ones((1, 2))).item() * 2
        (line,) = labnet("infer", file, given="[[1, 1]]").stdout.splitlines()
        assert ln.io.parse(line).item() == pytest.approx(expected)
        result = labnet("train", file, given=EXAMPLES)
        assert result.returncode == 0, result.stderr
        assert server.statistics()["server"]["version"] == 3


def test_infer_asks_a_server():
    with ln.network.serve_model(lambda x: x * 3, port=0) as server:
        result = labnet("infer", server.url, given="[1, 2]\n[3]\n")
    assert result.stdout.splitlines() == ["[3.0, 6.0]:float32", "[9.0]:float32"]


# train


def test_train_reports_the_loss_and_saves_weights_that_infer_loads(file, tmp_path):
    weights = tmp_path / "weights.safetensors"
    result = labnet("train", file, "--epochs", "60", "--save", weights, given=EXAMPLES)
    assert (result.returncode, result.stdout) == (0, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("labnet: 180 steps, loss ")
    assert float(re.search(r"and (\S+) at last", line)[1]) < 1e-2
    (y,) = labnet("infer", file, "--weights", weights, given="[[2, 3]]").stdout.splitlines()
    assert ln.io.parse(y).item() == pytest.approx(8, abs=0.5)


def test_train_goes_on_from_a_checkpoint(file, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    first = labnet("train", file, "--epochs", "30", "--checkpoint", checkpoint, given=EXAMPLES)
    second = labnet("train", file, "--checkpoint", checkpoint, given=EXAMPLES)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    at_first = [float(re.search(r"loss (\S+) at first", run.stderr)[1]) for run in (first, second)]
    assert at_first[1] < at_first[0] / 10


def test_train_trains_a_server():
    model = ln.nn.Linear(2, 1)
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0) as server:
        result = labnet("train", server.url, "--epochs", "60", given=EXAMPLES)
        assert server.statistics()["server"]["version"] == 180
    assert result.returncode == 0, result.stderr
    assert model.weight.tolist() == [[pytest.approx(1, abs=0.2), pytest.approx(2, abs=0.2)]]


def test_train_takes_labels_for_a_cross_entropy(file):
    options = ("--loss", "cross_entropy", "--optimizer", "adam", "--lr", "0.1", "--epochs", "30")
    result = labnet("train", f"{file}:net", *options, given="[[1, 0]] | [0]\n[[0, 1]] | [2]\n")
    assert result.returncode == 0, result.stderr
    assert float(re.search(r"and (\S+) at last", result.stderr)[1]) < 0.1


# serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_serves_a_file_until_it_is_stopped(file, number):
    with Running("serve", file, "--port", "0") as running:
        assert "'model'" in running.line
        remote = ln.network.remote_model(running.url, blocking=True)
        before = remote.state_dict()["weight"].numpy().copy()
        remote(ln.ones((1, 2))).sum().backward()
        assert remote.state_dict()["weight"].numpy() == pytest.approx(before - 0.1)
        assert ln.network.tfetch(running.url + "/hello", blocking=True) == "hi"
        assert running.stop(number) == (0, "labnet: stopped\n")
    with pytest.raises(ln.errors.Unreachable):
        ln.network.remote_model(running.url, blocking=True, timeout=1)(ln.ones((1, 2)))


def test_serve_takes_a_name_an_optimizer_and_a_step_size(file):
    with Running("serve", f"{file}:net", "--port", "0", "--optimizer", "sgd", "--lr", "0", "--name", "mine") as running:
        remote = ln.network.remote_model(running.url, blocking=True)
        before = remote.state_dict()["0.weight"].tolist()
        remote(ln.ones((1, 2))).sum().backward()
        assert remote.state_dict()["0.weight"].tolist() == before
        assert remote.statistics()["server"]["name"] == "mine"


def test_serve_keeps_a_checkpoint(file, tmp_path):
    checkpoint = tmp_path / "kept.safetensors"
    with Running("serve", file, "--port", "0", "--checkpoint", checkpoint) as running:
        remote = ln.network.remote_model(running.url, blocking=True)
        remote(ln.ones((1, 2))).sum().backward()
        trained = remote.state_dict()["weight"].tolist()
        assert running.stop()[0] == 0
    assert ln.io.load(checkpoint)["weight"].tolist() == trained


def test_serve_without_a_file_starts_a_runner(file):
    with Running("serve", "--port", "0", "--allow-shell") as running:
        runner = ln.network.remote_runner(running.url, blocking=True)
        assert runner.serve_model(file, model="double")(ln.ones(1)).item() == 2.0
        assert runner.shell("echo hello").stdout == "hello\n"
        assert running.stop() == (0, "labnet: stopped\n")


def test_token_prints_what_curl_needs(file):
    with Running("serve", file, "--port", "0") as running:
        token = labnet("token", running.url.rpartition(":")[2]).stdout.strip()
        found = labnet("infer", running.url, given="[[1, 2]]", LABNET_TOKEN=token, XDG_STATE_HOME=os.devnull)
        assert found.returncode == 0, found.stderr
        wrong = labnet("infer", running.url, given="[[1, 2]]", LABNET_TOKEN="wrong")
        assert wrong.returncode == 1
        assert "token is wrong" in wrong.stderr


# statistics


def test_statistics_are_a_table_of_the_server_and_those_behind_it():
    with ln.network.serve({"double": lambda x: x * 2}, port=0, name="inner") as inner:

        async def statistics():
            return {"part": await ln.network.tfetch(inner.url + "/statistics"), "accuracy": 0.5}

        with ln.network.serve({"ping": lambda: 1, "statistics": statistics}, port=0, name="outer") as outer:
            for _ in range(3):
                ln.network.tfetch(inner.url + "/double", ln.ones(2), blocking=True)
            result = labnet("statistics", outer.url)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{outer.url}: outer, up ")
    assert "  accuracy = 0.5" in lines
    assert any(line.startswith("    part: inner") for line in lines)
    (double,) = [line.split() for line in lines if line.strip().startswith("double")]
    assert [double[column] for column in (1, 3, 4)] == ["3", "0", "0"]
    assert max(map(len, lines)) <= 80


def test_statistics_are_shown_again_and_again_until_ctrl_c():
    with (
        ln.network.serve({"ping": lambda: 1}, port=0, name="watched") as server,
        Running("statistics", server.url, "--watch", "0.01") as running,
    ):
        assert "watched" in running.line
        others = [running.process.stdout.readline() for _ in range(9)]
        assert sum("watched" in line for line in others) == 3
        assert running.stop() == (0, "")


def test_the_rate_is_that_since_the_statistics_before():
    def document(hits, uptime):
        route = {
            "seconds": 0,
            "errors": 0,
            "in_flight": 0,
            "bytes_in": 0,
            "bytes_out": 0,
            "latency": {"p50": 0, "p99": 0},
        }
        return {"a-very-long-name-of-a-route": route | {"hits": hits}, "server": {"name": "s", "uptime": uptime}}

    first, second = document(100, 10.0), document(160, 12.0)
    rates = [
        table(now, "s", before=before).splitlines()[-1].split()[2] for now, before in ((first, {}), (second, first))
    ]
    assert rates == ["10.0", "30.0"]
    nested = table({"server": {}, "part": first}, "s" * 8)
    assert max(map(len, nested.splitlines())) <= 80


def test_servers_are_listed_asked_and_stopped_by_port_or_name(file):
    with Running("serve", file, "--port", "0", "--name", "listed") as running:
        listed = labnet("list")
        assert any(line.split()[:2] == ["listed", running.url] for line in listed.stdout.splitlines())
        for target in ("listed", running.url.rpartition(":")[2], running.url):
            assert "listed" in labnet("statistics", target).stdout
            assert labnet("infer", target, given="[[1, 2]]").returncode == 0
        assert labnet("stop", "listed").stdout == f"labnet: stopped {running.url}\n"
        assert running.process.wait(SECONDS) == 0
    gone = labnet("stop", running.url, "--timeout", "1")
    assert gone.returncode == 1
    assert running.url in gone.stderr


def test_the_version_is_shown():
    assert labnet("--version").stdout == f"labnet {ln.__version__}\n"


def test_https_to_a_plain_server_is_refused_at_once(file):
    with Running("serve", file, "--port", "0") as running:
        result = labnet("infer", running.url.replace("http", "https"), given="[[1, 2]]")
    assert result.returncode == 1
    assert "does the server speak https?" in result.stderr
    assert "attempts" not in result.stderr  # it was not tried again


# What goes wrong


MISUSES = {
    "no command": ([], "", "COMMAND"),
    "an unknown command": (["nonsense"], "", "nonsense"),
    "an unknown option": (["serve", "--nonsense"], "", "--nonsense"),
    "a port that is none": (["serve", "FILE", "--port", "70000"], "", "70000"),
    "a step size that is none": (["serve", "FILE", "--lr", "fast"], "", "fast"),
    "a negative step size": (["serve", "FILE", "--lr", "-1"], "", "lr must not be negative, got -1.0"),
    "no such file": (["serve", "missing.py"], "", "no file 'missing.py'"),
    "no Python file": (["serve", "model.txt"], "", "model.txt"),
    "no such object": (["serve", "FILE:nothing"], "", "no callable 'nothing'"),
    "no such optimizer": (["serve", "FILE", "--optimizer", "magic"], "", "unknown optimizer 'magic'"),
    "a step size of an object": (["serve", "FILE", "--optimizer", "double", "--lr", "1"], "", "sgd, adam"),
    "a shell of a model": (["serve", "FILE", "--allow-shell"], "", "--allow-shell"),
    "an optimizer of a runner": (["serve", "--optimizer", "sgd"], "", "--optimizer"),
    "a checkpoint nowhere": (["serve", "FILE", "--checkpoint", "/nowhere/x"], "", "no folder '/nowhere'"),
    "weights nowhere": (["train", "FILE", "--save", "/nowhere/x"], EXAMPLES, "no folder '/nowhere'"),
    "a checkpoint of a function": (["serve", "FILE:double", "--checkpoint", "x"], "", "needs a Module"),
    "no such loss": (["train", "FILE", "--loss", "magic"], "[1] | [1]", "unknown loss 'magic'"),
    "no examples": (["train", "FILE"], "\n\n", "no examples"),
    "an example without a bar": (["train", "FILE"], "[[1, 2]]", "line 1: expected X | Y"),
    "an example that fits not": (["train", "FILE"], EXAMPLES + "[[1, 2, 3]] | [[1]]", "line 5: "),
    "no epochs": (["train", "FILE", "--epochs", "0"], EXAMPLES, "--epochs"),
    "an optimizer of a server": (["train", "localhost:1", "--optimizer", "sgd"], EXAMPLES, "--optimizer"),
    "weights of a server": (["infer", "localhost:1", "--weights", "x"], "[1]", "--weights"),
    "a timeout of a file": (["infer", "FILE", "--timeout", "1"], "[1, 2]", "--timeout"),
    "no such weights": (["infer", "FILE", "--weights", "missing"], "[1]", "no file 'missing'"),
    "a line that is no tensor": (["infer", "FILE:double"], "[1]\n[1, [2]]", "line 2: parse"),
    "bytes that are no text": (["infer", "FILE:double"], "\udcff", "line 1: parse"),
    "a shape that fits not": (["infer", "FILE"], "[1, 2, 3]", "line 1: Linear(2, 1)"),
    "no URL": (["statistics", "ftp://x"], "", "ftp://x"),
    "no seconds": (["statistics", "localhost:1", "--watch", "soon"], "", "soon"),
    "no port": (["token", "x"], "", "'x'"),
}


def complaint(result):
    """Return the only line that a command wrote on standard error."""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("labnet")
    return line


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_one_line_and_status_2(case, file):
    arguments, given, message = MISUSES[case]
    arguments = [argument.replace("FILE", str(file)) for argument in arguments]
    result = labnet(*arguments, given=given)
    assert message in complaint(result)
    assert result.returncode == 2


FAILURES = {
    "a server that is down": (["infer", "localhost:1"], "[1]", "localhost:1/forward"),
    "statistics of a server that is down": (["statistics", "localhost:1"], "", "localhost:1/statistics"),
    "a model that raises": (["infer", "FILE:fails"], "[1]", "line 1: RuntimeError: two; lines"),
    "an optimizer that raises": (["train", "FILE", "--optimizer", "fails"], EXAMPLES, "line 1: RuntimeError"),
    "a place that cannot be written": (["train", "FILE", "--save", "/proc/weights"], EXAMPLES, "/proc"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_line_and_status_1(case, file):
    arguments, given, message = FAILURES[case]
    result = labnet(*[argument.replace("FILE", str(file)) for argument in arguments], given=given)
    assert message in complaint(result)
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("model = (", "model.py, line 1: SyntaxError"),
        ("\nimport nonsense", "model.py, line 2: ModuleNotFoundError: No module named 'nonsense'"),
        ("def model(x):\n    return y\nmodel(1)\n", "model.py, line 2: NameError"),
        ("raise ValueError('a\\nb')", "line 1: ValueError: a; b"),
    ],
)
def test_a_file_that_cannot_be_run_names_the_line(file, source, message):
    file.write_text(source)
    for command in ("serve", "train", "infer"):
        result = labnet(command, file)
        assert message in complaint(result)
        assert result.returncode == 1


def test_a_file_without_a_model_says_what_it_defines(file):
    file.write_text("def one(x):\n    return x\n\n\ndef two(x):\n    return x\n")
    result = labnet("serve", file)
    assert result.returncode == 2
    assert "one, two" in complaint(result)


def test_a_port_that_is_taken_is_one_line(file):
    with ln.network.serve({"a": lambda: 1}, port=0, name="holder") as server:
        result = labnet("serve", file, "--port", server.port)
    assert (result.returncode, "holder" in complaint(result)) == (1, True)


def test_a_checkpoint_of_another_model_is_one_line(file, tmp_path):
    path = tmp_path / "other.safetensors"
    ln.io.save(path, {"other": ln.ones(2)})
    for arguments in (["serve", file, "--checkpoint", path], ["infer", file, "--weights", path]):
        result = labnet(*arguments)
        assert (result.returncode, "other.safetensors" in complaint(result)) == (1, True)


def test_a_server_that_goes_away_ends_training_with_one_line():
    server = ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0)
    with (
        server,
        subprocess.Popen(
            [*LABNET, "train", server.url, "--timeout", "2"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        process.stdin.write(EXAMPLES)
        process.stdin.flush()
        deadline = time.monotonic() + SECONDS
        while server.statistics()["server"]["version"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.stop()
        _, errors = process.communicate(EXAMPLES, timeout=SECONDS)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert server.url in errors


@pytest.mark.parametrize("command", ["train", "infer"])
def test_ctrl_c_is_one_line(file, command):
    with subprocess.Popen(
        [*LABNET, command, f"{file}:{'model' if command == 'train' else 'double'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if command == "infer":
            process.stdin.write("[1]\n")
            process.stdin.flush()
            process.stdout.readline()
        else:
            wait_for_input(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, "labnet: interrupted\n")


def wait_for_input(process):
    """Wait until a process has read what is in its input, and so is past its imports, and waits for more."""
    import fcntl
    import struct
    import termios

    process.stdin.write("[[1, 2]] | [[1]]\n")
    process.stdin.flush()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        (left,) = struct.unpack("i", fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, b"\0\0\0\0"))
        if not left:
            break
        time.sleep(0.01)
    used, before = psutil.Process(process.pid), None
    while before != (before := used.cpu_times()):  # it still computes with what it has read
        time.sleep(0.2)


def test_a_reader_that_goes_away_ends_infer_without_a_word(file):
    with subprocess.Popen(
        [*LABNET, "infer", f"{file}:double"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write("[1]\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("[2]\n[3]\n")
        process.stdin.close()
        assert process.wait(SECONDS) == 141
        assert process.stderr.read() == ""


# The cache

COMPILES = "import labnet as ln; ln.jit(lambda x: x * {})(ln.ones(2))"


def test_the_cache_is_shown_and_cleared(tmp_path):
    assert labnet("cache", LABNET_CACHE=tmp_path / "new").stdout.startswith(
        f"{tmp_path}/new: 0 entries, 0.0 kB (at most"
    )
    for factor in (2, 3):
        environment = {**os.environ, "LABNET_CACHE": str(tmp_path)}
        subprocess.run([sys.executable, "-c", COMPILES.format(factor)], check=True, env=environment)
    (older, newer) = sorted(tmp_path.glob("*.code"), key=lambda path: path.stat().st_mtime)
    os.utime(older, (200_000, 200_000))
    head, first, second = labnet("cache", LABNET_CACHE=tmp_path).stdout.splitlines()
    total = (older.stat().st_size + newer.stat().st_size) / 1e3
    assert head.startswith(f"{tmp_path}: 2 entries, {total:.1f} kB (at most")
    functions = sum(path.stat().st_size for path in tmp_path.glob(f"*{cache.FUNCTION}")) / 1e3
    assert head.endswith(f", and {functions:.1f} kB of functions of steps")
    assert first.split()[:3] == [newer.stem[:12], f"{newer.stat().st_size / 1e3:.1f}", "kB"]
    assert second.split()[0] == older.stem[:12]
    assert "last used 1970-01-0" in second
    assert labnet("cache", "--clear", LABNET_CACHE=tmp_path).stdout == f"{tmp_path}: 2 entries deleted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(8 * SECONDS)
def test_the_cache_is_warmed_with_the_kernels_once(tmp_path):
    count = len(kernels.KERNELS)
    for compiled in (count, 0):
        result = labnet("cache", "--warm", seconds=4 * SECONDS, LABNET_CACHE=tmp_path)
        expected = f"{tmp_path}: {count} kernels, {compiled} of them compiled now\n"
        assert (result.returncode, result.stdout) == (0, expected)
    assert len(list(tmp_path.glob("*.code"))) == count


def test_a_cache_that_others_could_write_is_said_to_be_unused(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    assert (
        labnet("cache", LABNET_CACHE=folder).stdout == f"{folder}: not used, since other users can write to {folder}\n"
    )


# Help


@pytest.mark.parametrize("command", ["serve", "train", "infer", "statistics", "list", "stop", "cache", "token"])
def test_help_explains_a_command(command):
    result = labnet(command, "--help")
    assert result.returncode == 0
    assert f"usage: labnet {command}" in result.stdout
    assert labnet("--help").stdout.count(f"\n    {command}") == 1


def test_the_examples_of_the_help_work(file):
    """What `labnet train --help` and `labnet infer --help` show, as the shell would run it."""
    for command in ("train", "infer"):
        text = labnet(command, "--help").stdout
        lines = [line.strip() for line in text.splitlines() if "| labnet" in line and "model.py" in line]
        assert lines
        for line in lines:
            line = line.replace("| labnet", f"| {sys.executable} -m labnet")
            result = subprocess.run(["bash", "-c", line], cwd=file.parent, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
