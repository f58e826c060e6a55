"""The child process that compiles: it goes with its parent, its loss is survived, and nothing is compiled twice."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

import labnet as ln
from labnet.compile.native.compiler_server import AWAITED, BACKGROUND
from labnet.kernels.machine_code import cache, compiler_process
from labnet.kernels.machine_code.compiler_process import (
    COMPILER,
    WAITING,
    CompilerDied,
    CompilerProcess,
    NoCompiler,
    compiled,
)

SOURCE = "from labnet.kernels.cpu import KERNELS\n\nkernel = KERNELS['sgd']\n"
#: A source whose compilation ends only with the process.
ENDLESS = "from labnet.kernels.cpu import KERNELS\nimport time\ntime.sleep(1000)\n"
#: A source whose compilation ends the process.
DEADLY = "from labnet.kernels.cpu import KERNELS\nimport os\nos._exit(7)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler():
    made = CompilerProcess()
    yield made
    made.stop()


def submit(compiler, source, *, is_awaited=True):
    return compiler.submit(source, cache.digest(source), is_awaited=is_awaited)


def run(code, folder, **options):
    environment = {**os.environ, "LABNET_CACHE": str(folder)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


class Told:
    """A caller that waits, and sees what it is told."""

    def __init__(self):
        self.called = threading.Event()

    def tick(self, done, total):
        self.called.set()


def test_a_source_becomes_machine_code_and_one_child_serves_all(compiler):
    first = submit(compiler, SOURCE)
    assert cache.unpack(first.future.result()).objects
    pid = compiler.pid
    second = submit(compiler, SOURCE, is_awaited=False)
    assert cache.unpack(second.future.result()).objects
    assert compiler.pid == pid


def test_jobs_are_compiled_in_their_order(compiler):
    done = []
    jobs = [submit(compiler, SOURCE, is_awaited=number % 2 == 0) for number in range(4)]
    for number, job in enumerate(jobs):
        job.future.add_done_callback(lambda _, number=number: done.append(number))
    jobs[-1].future.result()
    assert done == sorted(done)


def test_an_error_of_the_compiler_is_the_error_of_the_job(compiler):
    bad = submit(compiler, "from labnet.kernels.cpu import KERNELS\nkernel = KERNELS['nowhere']\n")
    with pytest.raises(RuntimeError, match="KeyError: 'nowhere'"):
        bad.future.result()
    assert submit(compiler, SOURCE).future.result()


def test_a_child_that_dies_is_replaced_and_the_other_jobs_are_done(compiler):
    deadly, good = submit(compiler, DEADLY), submit(compiler, SOURCE)
    with pytest.raises(CompilerDied, match="ended 2 times, with status 7"):
        deadly.future.result()
    assert good.future.result()


def test_a_child_that_is_killed_once_costs_nothing_but_time(compiler):
    assert submit(compiler, SOURCE).future.result()
    os.kill(compiler.pid, signal.SIGKILL)
    assert submit(compiler, SOURCE).future.result()


def test_a_cancelled_job_ends_the_child_and_the_next_one_is_done(compiler):
    endless, good = submit(compiler, ENDLESS), submit(compiler, SOURCE)
    compiler.cancel(endless)
    assert good.future.result()
    assert endless.future.cancelled()


def test_a_job_that_is_cancelled_while_it_waits_is_never_compiled(compiler, tmp_path):
    opened = tmp_path / "opened"
    gate = f"import os, time\nwhile not os.path.exists({str(opened)!r}):\n    time.sleep(0.01)\n"
    first, endless, last = (submit(compiler, source) for source in (SOURCE + gate, ENDLESS, SOURCE))
    pid = compiler.pid
    compiler.cancel(endless)
    opened.touch()
    assert first.future.result()
    assert last.future.result()
    assert compiler.pid == pid


def test_after_an_interrupt_while_a_source_is_sent_the_next_one_is_compiled(compiler, monkeypatch):
    def interrupted(process, job):
        process.stdin.write(job.message[:20])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiler_process, "_send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            submit(compiler, SOURCE)
    assert submit(compiler, SOURCE).future.result()


def test_the_child_ends_with_stop_and_later_jobs_are_refused(compiler):
    job = submit(compiler, ENDLESS)
    child = psutil.Process(compiler.pid)
    compiler.stop()
    with pytest.raises(NoCompiler, match="this process is ending"):
        job.future.result()
    with pytest.raises(NoCompiler):
        submit(compiler, SOURCE)
    assert not child.is_running()


def test_files_that_differ_are_not_compiled(compiler):
    with pytest.raises(NoCompiler, match="changed since this process began"):
        compiler.submit(SOURCE, "0" * 40, is_awaited=True).future.result()


@pytest.mark.parametrize("executable", ["", None, "/nowhere/python"])
def test_where_no_child_can_be_started_the_caller_is_told(compiler, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(NoCompiler):
        submit(compiler, SOURCE)


def test_a_caller_that_waits_is_told_how_far_it_is_and_its_interrupt_ends_the_child(folder):
    class Interrupted(Told):
        def tick(self, done, total):
            raise KeyboardInterrupt

    token = WAITING.set(Interrupted())
    try:
        with pytest.raises(KeyboardInterrupt):
            compiled(ENDLESS, cache.digest(ENDLESS))
    finally:
        WAITING.reset(token)
    assert compiled(SOURCE, cache.digest(SOURCE))  # by another child


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness per thread")
def test_work_in_the_background_steps_back_further(compiler):
    source = SOURCE + "import os\nraise RuntimeError(f'niceness {os.nice(0)}')\n"
    with pytest.raises(RuntimeError, match="niceness") as awaited:
        submit(compiler, source).future.result()
    with pytest.raises(RuntimeError, match="niceness") as background:
        submit(compiler, source, is_awaited=False).future.result()
    with pytest.raises(RuntimeError, match="niceness") as again:
        submit(compiler, source).future.result()
    found = [int(str(one.value).split()[-1]) for one in (awaited, background, again)]
    assert found == [min(19, os.nice(0) + more) for more in (AWAITED, BACKGROUND, AWAITED)]


# Whole processes


def test_a_process_leaves_no_child_behind_when_it_ends(folder):
    result = run(
        """
        import labnet as ln
        from labnet.kernels.machine_code.compiler_process import COMPILER
        step = ln.jit(lambda x: ln.tanh(x), wait=False)
        step(ln.zeros(2))
        while COMPILER.pid is None:
            pass
        print(COMPILER.pid)
        """,
        folder,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert not psutil.pid_exists(int(result.stdout))


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_child_ends_when_its_parent_is_killed(folder, end):
    result = run(
        f"""
        import os, signal
        from labnet.kernels.machine_code import cache
        from labnet.kernels.machine_code.compiler_process import COMPILER
        source = {ENDLESS!r}
        COMPILER.submit(source, cache.digest(source), is_awaited=True)
        print(COMPILER.pid, flush=True)
        {end}
        """,
        folder,
    )
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(int(result.stdout))
        while child.status() != psutil.STATUS_ZOMBIE:  # which some containers never remove
            time.sleep(0.01)


def test_a_forked_process_has_a_child_of_its_own(folder):
    result = run(
        """
        import os, warnings
        import labnet as ln
        from labnet import kernels
        from labnet.kernels.machine_code.compiler_process import COMPILER
        warnings.simplefilter("ignore")
        print(ln.jit(lambda x: x * 2)(ln.ones(1)).item(), flush=True)
        before = COMPILER.pid
        kernels.adam.load()
        forked = os.fork()
        if forked == 0:
            print(ln.jit(lambda x: x * 3)(ln.ones(1)).item(), COMPILER.pid != before, flush=True)
            kernels.adam.load().result()
            print(kernels.adam.compiled is not None, flush=True)
            COMPILER.stop()
            os._exit(0)
        os.waitpid(forked, 0)
        kernels.adam.load().result()
        print(ln.jit(lambda x: x * 4)(ln.ones(1)).item(), COMPILER.pid == before, kernels.adam.compiled is not None)
        """,
        folder,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["2.0", "3.0 True", "True", "4.0 True True"]


TWO = """
import sys
from labnet.kernels.machine_code import cache, compiler_process
compiled, count = compiler_process.compiled, 0
def counted(source, name):
    global count
    count += 1
    return compiled(source, name)
cache.compiled = counted
sys.stdin.readline()
for name in ("sgd", "sgd_with_momentum"):
    cache.load(f"from labnet.kernels.cpu import KERNELS\\n\\nkernel = KERNELS[{name!r}]\\n")
print(count)
"""


def test_processes_that_start_at_once_compile_a_source_once(folder):
    environment = {**os.environ, "LABNET_CACHE": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", TWO], env=environment, **pipes) for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 2
    assert sorted(path.suffix for path in folder.iterdir()) == [".code"] * 2


HOLDER = """
import sys
from labnet.kernels.machine_code import cache
with cache.exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_process_that_was_killed_is_free(folder):
    name = cache.digest(SOURCE)
    environment = {**os.environ, "LABNET_CACHE": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, name], env=environment, **pipes)
    assert holder.stdout.readline() == b"held\n"
    found = []
    thread = threading.Thread(target=lambda: found.append(cache.load(SOURCE)))
    thread.start()
    holder.kill()
    holder.communicate()
    thread.join()
    assert callable(found[0])


# What users see


def test_a_step_goes_on_eagerly_after_its_compiler_died_twice(folder, monkeypatch):
    def died(source, name):
        raise CompilerDied("the process that compiles it ended 2 times, with status -9")

    monkeypatch.setattr(cache, "compiled", died)
    step = ln.jit(lambda x: ln.tanh(x) * 7)
    with pytest.warns(UserWarning, match=r"goes on eagerly.*status -9"):
        assert step(ln.zeros(2)).tolist() == [0.0, 0.0]
    assert step(ln.zeros(2)).tolist() == [0.0, 0.0]


def test_random_numbers_are_the_same_after_its_compiler_died(folder, monkeypatch):
    def died(source, name):
        raise CompilerDied("gone")

    monkeypatch.setattr(cache, "compiled", died)
    ln.manual_seed(3)
    expected = [ln.randn(2).tolist() for _ in range(2)]
    ln.manual_seed(3)
    step = ln.jit(lambda: ln.randn(2) * 1)
    with pytest.warns(UserWarning, match="goes on eagerly"):
        found = [step().tolist() for _ in range(2)]
    assert found == expected


def test_without_children_a_step_is_compiled_here_and_kernels_are_left_out_and_both_are_said_once(folder):
    result = run(
        """
        import sys
        sys.executable = ""
        import labnet as ln
        from labnet import kernels
        print(ln.jit(lambda x: x * 2)(ln.ones(1)).item(), ln.jit(lambda x: x * 3)(ln.ones(1)).item())
        eager = ln.jit(lambda x: x * 4, wait=False)
        print(eager(ln.ones(1)).item(), eager.wait(), kernels.load())
        """,
        folder,
    )
    assert (result.returncode, result.stdout) == (0, "2.0 3.0\n4.0 True False\n"), result.stderr
    assert result.stderr.count("compiling in this process") == 1
    assert result.stderr.count("NumPy computes in place of compiled kernels") == 1


def test_a_version_that_was_interrupted_is_compiled_by_the_next_call(folder, monkeypatch):
    def interrupted(source, name):
        raise KeyboardInterrupt

    step = ln.jit(lambda x: ln.tanh(x) * 11)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "compiled", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(ln.zeros(2))
    assert step(ln.zeros(2)).tolist() == [0.0, 0.0]
    assert step.specialisations == 1


TERMINAL = """
import labnet as ln
from labnet.compile import wait
wait.QUIET_SECONDS = float(input())
def train_step(x):
    return ln.tanh(x) * 19
print(ln.jit(train_step)(ln.zeros(1)).tolist())
"""


def in_terminal(folder, seconds):
    leader, follower = pty.openpty()
    environment = {**os.environ, "LABNET_CACHE": str(folder), "COLUMNS": "80"}
    command = [sys.executable, "-c", TERMINAL]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": follower}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        os.close(follower)
        process.stdin.write(f"{seconds}\n")
        process.stdin.close()
        shown = b""
        with contextlib.suppress(OSError):  # the end
            while more := os.read(leader, 4096):
                shown += more
        out = process.stdout.read()
    os.close(leader)
    return out, shown.decode()


def test_a_terminal_shows_the_progress_of_long_compilations_in_one_line(folder, tmp_path):
    out, shown = in_terminal(folder, 0)
    assert out == "[0.0]\n"
    lines = [line.rstrip() for line in shown.rstrip().split("\r")]
    assert any(re.fullmatch(r"jit\(train_step\): compiling, .*\d s \(wait=False runs eagerly .*\)", x) for x in lines)
    assert re.fullmatch(r"jit\(train_step\): compiled after \d+\.\d s", lines[-1])
    assert max(map(len, lines)) < 80
    assert in_terminal(tmp_path / "other", 1e9) == ("[0.0]\n", "")


def test_the_child_is_the_one_of_this_process(folder):
    ln.jit(lambda x: ln.tanh(x) * 13)(ln.zeros(2))
    assert psutil.Process(COMPILER.pid).ppid() == os.getpid()
