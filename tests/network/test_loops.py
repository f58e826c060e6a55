"""The loops in the background, as the threads that wait for them see them."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from labnet.network.threads import IO
from tests.helpers.constants import SECONDS

#: Raises KeyboardInterrupt at every moment of a blocking call at which Python looks for signals: at the beginning of a
#: function, and after the call of one that is written in C. A program of its own, because what is interrupted leaks.
INTERRUPTED = """
import itertools, queue, sys, threading
from labnet.network.threads import LoopThread

async def answer():
    return 42

def interrupted_at(moment, function):
    moments = itertools.count()
    def look(frame, event, argument):
        swallowed = frame.f_code.co_name in ("_remove", "__del__")  # Python lets nothing out of these
        if event in ("call", "c_return") and not swallowed and next(moments) == moment:
            raise KeyboardInterrupt
    sys.setprofile(look)
    try:
        return function()
    finally:
        sys.setprofile(None)

for fresh in (False, True):
    loop = LoopThread("loop")
    assert fresh or loop.run(answer()) == 42
    for moment in itertools.count():
        loop = LoopThread("loop") if fresh else loop
        try:
            assert interrupted_at(moment, lambda: loop.run(answer())) == 42
            break
        except (KeyboardInterrupt, RuntimeError) as error:
            # where a thread is started, Python's own locks may say that they are not held
            assert fresh or isinstance(error, KeyboardInterrupt), error
            answers = queue.SimpleQueue()
            threading.Thread(target=lambda: answers.put(loop.run(answer())), daemon=True).start()
            assert answers.get(timeout=60) == 42, moment
    assert moment > 10
print("every moment")
"""


def test_an_interrupt_at_any_moment_of_a_blocking_call_is_an_interrupt_and_the_loop_goes_on():
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED], capture_output=True, text=True, timeout=4 * SECONDS
    )
    assert result.stdout == "every moment\n", result.stderr[-2000:]


def test_an_interrupted_call_is_cancelled_on_the_loop():
    began, cancelled = threading.Event(), threading.Event()

    async def wait():
        try:
            began.set()
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt():
        began.wait(SECONDS)
        os.kill(os.getpid(), signal.SIGINT)  # arrives in the main thread, which waits for the loop

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        IO.run(wait())
    thread.join()
    assert cancelled.wait(SECONDS)


#: As on Windows, where the default loop has no `add_reader`.
WITHOUT_READERS = """
import asyncio
import labnet as ln

class Loop(asyncio.SelectorEventLoop):
    def add_reader(self, *arguments):
        raise NotImplementedError

    add_writer = add_reader

class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return Loop()

asyncio.set_event_loop_policy(Policy())

async def doubled(x):
    return 2 * await ln.network.tfetch(inner.url + "/one")  # on the loop of the handlers

inner = ln.network.serve({"one": lambda: ln.ones(1)}, port=0)
with inner, ln.network.serve({"doubled": doubled}, port=0) as outer:
    print(ln.network.tfetch(outer.url + "/doubled", ln.ones(1), blocking=True).tolist())
"""


def test_the_loops_can_watch_sockets_where_the_default_loop_cannot():
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_READERS], capture_output=True, text=True, timeout=4 * SECONDS
    )
    assert result.stdout == "[2.0]\n", result.stderr[-2000:]


def test_a_blocking_call_raises_what_the_coroutine_raises_and_refuses_the_loops_own_thread():
    async def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        IO.run(fail())

    async def on_the_loop():
        IO.run(fail())

    with pytest.raises(RuntimeError, match="use its async form"):
        IO.run(on_the_loop())


#: The signal arrives in another thread, so that the wait itself does not notice it: as if it had come just before.
UNNOTICED = """
import asyncio, os, signal, sys, threading, time, traceback
import labnet as ln
from labnet.network.threads import IO

began = threading.Event()
main = threading.get_ident()

def waits():
    stack = traceback.walk_stack(sys._current_frames()[main])
    return any(frame.f_globals["__name__"].startswith("labnet.") for frame, line in stack)

async def wait():
    began.set()
    await asyncio.sleep(600)

def interrupt():
    began.wait()
    while not waits():
        time.sleep(0.01)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
server = ln.network.serve({"one": lambda: 1}, port=0)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
for waiting in (lambda: IO.run(wait()), server.wait):
    try:
        waiting()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    began.set()
    threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals go to the main thread here")
def test_an_interrupt_that_the_wait_does_not_notice_ends_it_all_the_same():
    result = subprocess.run([sys.executable, "-c", UNNOTICED], capture_output=True, text=True, timeout=4 * SECONDS)
    assert result.stdout == "interrupted\ninterrupted\n", result.stderr[-2000:]
