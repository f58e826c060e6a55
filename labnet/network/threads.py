"""Background threads: event loops and compute workers."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import queue
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_here = threading.local()
_LEAVE = object()

#: Seconds after which a waiting thread checks for an interrupt.
LOOK_SECONDS = 0.2


class LoopThread:
    """A daemon thread that runs one event loop; started on first use."""

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Reset in a forked child, which has a copy of the loop but not its thread."""
        self._lock = threading.Lock()
        self._loop = self._thread = None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this loop's thread."""
        return threading.current_thread() is self._thread

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        loop = self._loop
        if loop is None:
            with self._lock:
                loop = self._loop
                if loop is None:
                    loop = asyncio.SelectorEventLoop()  # has `add_reader`; the default loop of Windows does not
                    thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
                    thread.start()
                    self._thread, self._loop = thread, loop  # last: an interrupt leaves no loop without a thread
        return loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine on the loop from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result; an interrupt cancels it.

        Waits on a queue that is written in C: an interrupt inside the Python locks of a concurrent future can leave
        them inconsistent (``cannot release un-acquired lock``). A signal just before the wait does not end it, so there
        are many short waits.
        """
        if self.is_current:
            coroutine.close()
            raise RuntimeError("a blocking call on the event loop's own thread would never end: use its async form")
        loop = self.loop
        tasks: list[asyncio.Task[T]] = []
        done: queue.SimpleQueue[asyncio.Task[T]] = queue.SimpleQueue()

        def start() -> None:
            tasks.append(loop.create_task(coroutine))
            tasks[0].add_done_callback(done.put)

        def cancel() -> None:
            if not tasks:
                coroutine.close()  # interrupted before the loop had it
            while tasks:  # emptied, so that the error's traceback and the task form no reference cycle
                tasks.pop().cancel()

        try:
            loop.call_soon_threadsafe(start)
            ended: asyncio.Task[T] | None = None
            while ended is None:
                with contextlib.suppress(queue.Empty):
                    ended = done.get(timeout=LOOK_SECONDS)
            return ended.result()
        except BaseException:
            loop.call_soon_threadsafe(cancel)
            raise


@types.coroutine
def leave_thread() -> Generator[Any, Any, None]:
    """Continue on the I/O loop, in a coroutine that `run_here_first` has begun on its caller's thread."""
    if getattr(_here, "drives", False):
        yield _LEAVE


def begins_here() -> bool:
    """Return whether the current coroutine runs on its caller's thread, where it may block."""
    return getattr(_here, "drives", False)


def run_here_first(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on this thread, without an event loop, until it calls `leave_thread`; then on the I/O loop.

    Until then the coroutine may block, and must not wait for anything that needs an event loop.
    """
    if begins_here() or IO.is_current:
        return IO.run(coroutine)
    _here.drives = True
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        _here.drives = False
    return IO.run(_rest(coroutine))


async def _rest(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that has begun elsewhere."""
    result: T = await _resumed(coroutine)
    return result


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    result: T = yield from coroutine
    return result


#: Carries the sockets of servers, and of clients that block until their thread has a channel of its own.
IO = LoopThread("labnet-io")
#: Runs async handlers and models, so that they never hold up a socket.
MODELS = LoopThread("labnet-models")


async def await_model(
    result: Any, context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
) -> Any:
    """Await an awaitable on the models' loop, inside a context; return any other result unchanged."""
    if not inspect.isawaitable(result):
        return result

    async def awaiting() -> Any:
        try:
            with context():
                return await result
        except Exception:
            raise
        except BaseException as error:  # it would end the loop with all other async models
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # cancelled by the waiting task
                raise
            raise RuntimeError(f"it raised {type(error).__name__}: {error}") from error

    try:
        return await asyncio.wrap_future(MODELS.submit(awaiting()))
    except asyncio.CancelledError:
        waiting = asyncio.current_task()
        if waiting is not None and waiting.cancelling():
            raise
        raise RuntimeError("it cancelled its own task") from None


async def run_apart(function: Callable[[], T], *, is_long: bool) -> T:
    """Run a function in a thread if it takes long, so that the event loop stays responsive."""
    return await asyncio.to_thread(function) if is_long else function()


def runs_handlers() -> bool:
    """Return whether the caller runs on a thread of handlers, which must not wait for one that waits for handlers."""
    return IO.is_current or MODELS.is_current or getattr(_here, "is_worker", False)


#: Longest time that an event loop blocks for a quick job, and for several, in seconds.
_GRACE, _LONGEST_GRACE = 2e-4, 2e-3


class _Job:
    """A job of a worker; the event loop first blocks for it, then waits with a future."""

    __slots__ = ("done", "error", "finished", "function", "future", "outcome", "worker")

    def __init__(self, function: Callable[[], Any], worker: "Worker"):
        self.worker = worker
        self.function: Callable[[], Any] | None = function
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.done = threading.Lock()
        self.done.acquire()
        self.future: asyncio.Future[None] | None = None

    def compute(self) -> None:
        """Run the function and wake the waiter."""
        assert self.function is not None
        if self.future is not None and self.future.cancelled():  # cancelled before it started
            return
        try:
            self.outcome = self.function()
        except BaseException as caught:
            self.error = caught
        self.function = None
        self.finished = True  # set before `future` is read; the loop does it in the opposite order
        self.done.release()
        if self.future is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self.future.get_loop().call_soon_threadsafe(_wake, self.future)

    async def wait(self) -> None:
        """Wait on the loop until the job is done."""
        future = self.future = asyncio.get_running_loop().create_future()
        if not self.finished:
            await future

    def result(self) -> Any:
        """Return the result or raise the error."""
        error, self.error = self.error, None
        if error is None:
            return self.outcome
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise error
        raise RuntimeError(f"the function raised {type(error).__name__}: {error}")


class Worker:
    """A daemon thread that runs jobs from an event loop one at a time.

    Switching between a loop and another thread costs more than a small model's computation. So the loop blocks for a
    short time if the last job was that quick.
    """

    def __init__(self, name: str):
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._seconds = 0.0  # duration of the last job
        self._busy = self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the thread, in the caller's context, without blocking the caller's loop.

        Raises
        ------
        RuntimeError
            If the worker was stopped.
        """
        if self._stopped:
            raise RuntimeError("the server was stopped meanwhile")
        job = _Job(functools.partial(contextvars.copy_context().run, function), self)
        if getattr(_here, "begins", False):
            await _offer(job)
        else:
            self.carry_out([job])
        if not job.finished:
            await job.wait()
        result: T = job.result()
        return result

    def carry_out(self, jobs: list[_Job]) -> None:
        """Queue jobs, and block for a short time if they will probably be quick."""
        is_quick = self._seconds < _GRACE and not self._busy and self._jobs.empty()
        self._jobs.put(jobs)
        if is_quick:
            jobs[-1].done.acquire(timeout=min(len(jobs) * _GRACE, _LONGEST_GRACE))

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the thread and wait for its result; call it directly on that thread."""
        return function() if self.is_current else IO.run(self.run(function))

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.current_thread() is self._thread

    @property
    def ident(self) -> int | None:
        """Number of the thread."""
        return self._thread.ident

    def stop(self) -> None:
        """End the thread after all queued jobs; called on the loop that calls `run`."""
        self._stopped = True
        self._jobs.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def _work(self) -> None:
        _here.is_worker = True
        while (jobs := self._jobs.get()) is not None:
            self._busy = True
            for job in jobs:
                began = time.perf_counter()
                job.compute()
                self._seconds = time.perf_counter() - began
            self._busy = False
            del job, jobs


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@types.coroutine
def _offer(job: _Job) -> Generator[Any, Any, None]:
    """Let `begin_together` carry out a job; it may be unfinished afterwards."""
    yield job


class _Rest(Coroutine[Any, Any, None]):
    """The rest of a coroutine that has begun, and what it waits for first."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], *first: Any):
        self._coroutine = coroutine
        self._first = first

    def send(self, value: Any) -> Any:
        if self._first:
            (first,), self._first = self._first, ()
            return first
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._first = ()
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return (yield from _resumed(self))


def begin_together(
    coroutines: Iterable[Coroutine[Any, Any, None]], keep: Callable[["asyncio.Task[None]"], None]
) -> None:
    """Run coroutines from a callback of the event loop, without tasks; their jobs for a worker change threads together.

    A coroutine that must wait goes on in a task, which `keep` is called with. Before that there is no current task, so
    it must not use a timeout; see `in_task`.
    """
    loop = asyncio.get_running_loop()
    running = [(coroutine, contextvars.copy_context()) for coroutine in coroutines]
    while running:
        jobs: dict[Worker, list[_Job]] = {}
        offered = []
        _here.begins = True
        try:
            for coroutine, context in running:
                try:
                    first = context.run(coroutine.send, None)
                except StopIteration:
                    continue
                except (Exception, asyncio.CancelledError) as error:
                    loop.call_exception_handler({"message": "a coroutine failed", "exception": error})
                    continue
                if isinstance(first, _Job):
                    jobs.setdefault(first.worker, []).append(first)
                    offered.append((coroutine, context, first))
                else:
                    keep(loop.create_task(_Rest(coroutine, first), context=context))
        finally:
            _here.begins = False
        for worker, together in jobs.items():
            worker.carry_out(together)
        running = []
        for coroutine, context, job in offered:
            if job.finished:
                running.append((coroutine, context))
            else:
                keep(loop.create_task(_Rest(coroutine), context=context))


async def in_task() -> None:
    """Go on in a task, which timeouts need; `begin_together` begins without one."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)
