"""The child process that compiles, as seen from the process that needs machine code.

One child is started on first use. It lets everything else run first, compiles one source after the other, and ends
when it has had no work for a while or when its parent ends. It is replaced if it dies. This module knows nothing of
the compiler: a source and its name go in, the content of a cache file comes out.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

#: Number of children that may die while they compile a source.
ATTEMPTS = 2
#: Seconds between two checks of the progress of a job.
POLL_SECONDS = 0.1
#: The program of the child. It makes packages without running their `__init__`, which would import too much, and does
#: not let Numba import libraries that compiled functions do not use. The modules are never garbage.
_START = """
import gc
gc.disable()
import json, signal, sys, types
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = json.loads(sys.stdin.buffer.readline())
sys.modules.update(cffi=None, scipy=None, yaml=None)
for name, path in (("labnet", sys.argv[1]), ("labnet.compile", sys.argv[1] + "/compile")):
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [path]
from labnet.compile.native.compiler_server import main
main(int(sys.argv[2]))
"""


class NoCompiler(Exception):
    """No child process can compile: it cannot be started, or has other files of labnet than this process."""


class CompilerDied(RuntimeError):
    """Every child process that compiled a source ended while it did."""


class Waiting(Protocol):
    """A caller that waits for machine code."""

    def tick(self, done: int, total: int) -> None:
        """Show that `done` of `total` parts are compiled; called several times a second."""

    def translate(self, source: str, name: str, reason: NoCompiler) -> bytes:
        """Compile in this process, because no child can; return the content of the cache file."""


#: The caller that waits in this context; None in the background.
WAITING: ContextVar[Waiting | None] = ContextVar("labnet_waiting", default=None)


class Job:
    """A source to compile.

    Attributes
    ----------
    progress : (int, int)
        How many parts are compiled, and of how many.
    future : Future of bytes
    """

    def __init__(self, source: str, name: str, *, is_awaited: bool):
        self.message = json.dumps({"name": name, "source": source, "awaited": is_awaited}).encode() + b"\n"
        self.progress = (0, 1)
        self.attempts = 0
        self.future: Future[bytes] = Future()


class CompilerProcess:
    """Starts the child, passes one job after the other to it, and completes their futures from a thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Leave the child to the parent of this process, which was forked, and close this end of its pipes."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # it is no child of this process
            _close(process)
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    @property
    def is_ending(self) -> bool:
        """Whether it was stopped, as at the end of the process."""
        return self._is_ending

    def submit(self, source: str, name: str, *, is_awaited: bool) -> Job:
        """Queue a source, whose name in the cache the child checks; what is awaited is compiled faster.

        Raises
        ------
        NoCompiler
            If no child can be started.
        """
        job = Job(source, name, is_awaited=is_awaited)
        self._submit(job)
        return job

    def _submit(self, job: Job) -> None:
        with self._lock:
            if job.future.cancelled():
                return
            if self._process is None:
                self._process = self._started()
            try:
                self._jobs.append(job)
                if self._jobs[0] is job:
                    _send(self._process, job)
            except BaseException:  # an interrupt: the child may have half of the source
                job.future.cancel()
                self._process.kill()
                raise

    def _started(self) -> "subprocess.Popen[bytes]":
        """Start a child and the thread that reads its replies."""
        if self._is_ending:
            raise NoCompiler("this process is ending")
        if not sys.executable or getattr(sys, "frozen", False):
            raise NoCompiler("this program has no Python interpreter that it could start")
        package = Path(__file__).parents[2]
        command = [sys.executable, "-P", "-S", "-W", "ignore", "-c", _START, str(package), str(os.getpid())]
        windows = {"BELOW_NORMAL_PRIORITY_CLASS", "CREATE_NO_WINDOW"}
        flags = sum(getattr(subprocess, name, 0) for name in windows)
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # NumPy would start threads that wait for work
                creationflags=flags,
            )
        except (OSError, ValueError) as error:
            raise NoCompiler(f"{sys.executable} cannot be started: {error}") from error
        thread = threading.Thread(target=self._read, args=(process,), name="labnet-compiler", daemon=True)
        try:
            thread.start()
            assert process.stdin is not None
            process.stdin.write(json.dumps([entry for entry in sys.path if isinstance(entry, str)]).encode() + b"\n")
        except (OSError, RuntimeError) as error:
            process.kill()
            process.wait()
            _close(process)
            raise NoCompiler(f"a child process cannot be used: {error}") from error
        if self._thread is None:
            atexit.register(self.stop)
        self._thread = thread
        return process

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        """Complete the jobs as replies come; when the child has ended, give what is left to another one."""
        with contextlib.suppress(OSError, ValueError):
            for reply, content in _replies(process.stdout):
                with self._lock:
                    if "done" in reply:
                        self._jobs[0].progress = reply["done"], reply["total"]
                        continue
                    job = self._jobs.popleft()
                    while self._jobs and self._jobs[0].future.cancelled():
                        self._jobs.popleft()
                    if self._jobs:
                        _send(process, self._jobs[0])
                _complete(job, reply, content)
        process.kill()
        status = process.wait()
        with self._lock:
            _close(process)
            left, self._jobs = self._jobs, deque()
            if self._process is process:
                self._process = None
        for position, job in enumerate(left):
            job.attempts += position == 0
            try:
                if job.attempts >= ATTEMPTS:
                    raise CompilerDied(f"the process that compiles it ended {ATTEMPTS} times, with status {status}")
                self._submit(job)
            except (CompilerDied, NoCompiler) as error:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error)

    def cancel(self, job: Job) -> None:
        """Drop a job; end the child if it compiles this one, since it cannot be interrupted otherwise."""
        job.future.cancel()
        with self._lock:
            if self._process is not None and self._jobs and self._jobs[0] is job:
                self._process.kill()

    def stop(self) -> None:
        """End the child, at the exit of the process; jobs that are left fail."""
        with self._lock:
            self._is_ending = True
            process, thread = self._process, self._thread
        if process is not None and thread is not None:
            process.kill()
            thread.join()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if there is none now."""
        process = self._process
        return None if process is None else process.pid


def _replies(stream: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each reply with its content until the stream ends."""
    while header := stream.readline():
        reply = json.loads(header)
        content = b""
        while len(content) < reply.get("size", 0):
            more = stream.read(reply["size"] - len(content))
            if not more:
                return
            content += more
        yield reply, content


def _complete(job: Job, reply: dict[str, Any], content: bytes) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    if "size" in reply:
        job.future.set_result(content)
    else:
        job.future.set_exception((NoCompiler if reply["differs"] else RuntimeError)(reply["error"]))


def _send(process: "subprocess.Popen[bytes]", job: Job) -> None:
    """Have the child compile a source; of one that has died, the thread that reads sees to the job."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        rest = memoryview(job.message)
        while rest:
            rest = rest[process.stdin.write(rest) :]


def _close(process: "subprocess.Popen[bytes]") -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):
            stream.close()


COMPILER = CompilerProcess()


def compiled(source: str, name: str) -> bytes:
    """Have the child compile a source, and return the content of its cache file; an interrupt ends the child.

    Raises
    ------
    NoCompiler
        If no child can compile.
    CompilerDied
        If it died, and so did the next one.
    RuntimeError
        If the source cannot be compiled.
    """
    waiting = WAITING.get()
    job = COMPILER.submit(source, name, is_awaited=waiting is not None)
    try:
        if waiting is None:
            return job.future.result()
        while True:
            with contextlib.suppress(TimeoutError):
                return job.future.result(POLL_SECONDS)
            waiting.tick(*job.progress)
    except BaseException:
        COMPILER.cancel(job)
        raise
