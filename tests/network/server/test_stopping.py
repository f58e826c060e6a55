"""Stopping servers: calls under way, interrupts, forks, and handlers that stop or fail."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading

import pytest

import labnet as ln
from labnet.errors import Unreachable
from labnet.network import discovery
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch, run
from tests.helpers.network.handlers import serve
from tests.helpers.threads import together, wait_until


class Gate:
    """A handler that says when it was entered, and goes on when it is told to."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.opened.wait(SECONDS)
        return "through"


def test_stop_lets_a_call_under_way_come_to_its_end():
    gate = Gate()
    server = serve(gate)
    results = []
    caller = threading.Thread(target=lambda: results.append(fetch(server.url + "/route")))
    caller.start()
    assert gate.entered.wait(SECONDS)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    wait_until(lambda: server._port.draining)
    gate.opened.set()
    stopper.join(SECONDS)
    caller.join(SECONDS)
    assert results == ["through"]
    assert not server.running


def test_a_handler_may_look_at_other_servers_while_its_own_is_stopped():
    entered, stopping = threading.Event(), threading.Event()

    def handler():
        entered.set()
        stopping.wait(SECONDS)
        return len(ln.network.servers())

    server = serve(handler)
    results = []
    caller = threading.Thread(target=lambda: results.append(fetch(server.url + "/route")))
    caller.start()
    assert entered.wait(SECONDS)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    wait_until(lambda: server._port.draining)
    stopping.set()
    stopper.join(SECONDS)
    caller.join(SECONDS)
    assert results == [0]


def test_two_threads_may_stop_a_server_and_both_find_it_stopped():
    server = serve(lambda: 1)
    together(*[lambda: (server.stop(), server._port.stopped.is_set())[1]] * 4)
    assert "stopped" in repr(server)


def test_an_interrupt_while_a_server_stops_does_not_leave_it_half_stopped():
    gate = Gate()
    server = serve(gate)
    caller = threading.Thread(target=lambda: fetch(server.url + "/route"))
    caller.start()
    assert gate.entered.wait(SECONDS)

    def interrupt():
        wait_until(lambda: server._port.draining)
        threading.Event().wait(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    interrupting.join()
    gate.opened.set()
    caller.join(SECONDS)
    assert server.wait(SECONDS)


def test_a_stopped_server_refuses_connections_and_its_port_is_free():
    server = serve(lambda: 1)
    server.stop()
    with pytest.raises(Unreachable):
        fetch(server.url + "/route", token="any")
    with ln.network.serve({"route": lambda: 2}, port=server.port) as again:
        assert fetch(again.url + "/route") == 2


def test_stopping_twice_does_nothing():
    server = serve(lambda: 1)
    server.stop()
    server.stop()
    assert "stopped" in repr(server)


def test_a_handler_can_stop_its_own_server():
    server = serve(lambda: server.stop(), name="it")
    with contextlib.suppress(ln.errors.RemoteError):  # how the call itself ends is open
        fetch(server.url + "/route", timeout=5.0)
    assert server.wait(SECONDS)


def test_with_stops_the_server_also_after_an_error():
    with pytest.raises(KeyError), serve(lambda: 1) as server:
        raise KeyError
    assert not server.running


def test_async_with_stops_the_server():
    async def use():
        async with serve(lambda: "hi") as server:
            assert await ln.network.tfetch(server.url + "/route") == "hi"
        return server

    assert not run(use()).running


def test_wait_returns_when_the_server_is_stopped_and_not_before():
    server = serve(lambda: 1)
    assert not server.wait(0.01)
    waiting = threading.Thread(target=server.wait)
    waiting.start()
    server.stop()
    waiting.join(SECONDS)
    assert not waiting.is_alive()
    assert server.wait()


def test_a_process_that_ends_stops_its_servers_and_withdraws_their_files():
    code = "import labnet as ln; print(ln.network.serve({'a': lambda: 1}, port=0).port)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=4 * SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert discovery.lookup(int(done.stdout)) is None


FORKED = """
import os, signal, sys
import labnet as ln

with ln.network.serve({"one": lambda: 1}, port=0) as server:
    url = server.url + "/one"
    ln.network.tfetch(url, blocking=True)
    child = os.fork()
    if not child:
        signal.alarm(120)  # ends a child that hangs
        DO
    status = os.waitpid(child, 0)[1]
    print(status, ln.network.tfetch(url, blocking=True))
"""


@pytest.mark.parametrize("do", ["os._exit(ln.network.tfetch(url, blocking=True) != 1)", "sys.exit(0)"])
def test_a_forked_child_can_call_and_end(do):
    code = FORKED.replace("DO", do)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=4 * SECONDS)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_the_server_answers_while_the_main_thread_blocks():
    with serve(lambda: "hi") as server:
        lock = threading.Lock()
        caller = threading.Thread(target=lambda: (fetch(server.url + "/route"), lock.release()))
        lock.acquire()
        caller.start()
        assert lock.acquire(timeout=SECONDS)
        caller.join()


def test_an_async_handler_does_not_hold_up_the_others():
    async def scenario():
        entered, opened = threading.Event(), threading.Event()

        async def slow():
            entered.set()
            await asyncio.to_thread(opened.wait, SECONDS)
            return "slow"

        with ln.network.serve({"slow": slow, "quick": lambda: "quick"}, port=0) as server:
            waiting = asyncio.ensure_future(ln.network.tfetch(server.url + "/slow"))
            await asyncio.to_thread(entered.wait, SECONDS)
            assert await ln.network.tfetch(server.url + "/quick") == "quick"
            opened.set()
            assert await waiting == "slow"

    run(scenario())


def test_a_handler_that_computes_does_not_hold_up_health_and_statistics():
    gate = Gate()
    with serve(gate) as server:
        caller = threading.Thread(target=fetch, args=(server.url + "/route",))
        caller.start()
        assert gate.entered.wait(SECONDS)
        assert fetch(server.url + "/health") == {"status": "ok", "name": "route"}
        assert fetch(server.url + "/statistics")["route"]["in_flight"] == 1
        gate.opened.set()
        caller.join(SECONDS)


ODD = """
import asyncio, sys
import labnet as ln

def raises():
    raise {error}("odd")

async def async_raises():
    raise {error}("odd")

async def fine():
    return "fine"

with ln.network.serve({{"odd": {function}, "fine": fine}}, port=0) as server:
    try:
        ln.network.tfetch(server.url + "/odd", blocking=True)
    except ln.errors.RemoteError as error:
        print(type(error).__name__, flush=True)
    print(ln.network.tfetch(server.url + "/fine", blocking=True), flush=True)
"""


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError"])
@pytest.mark.parametrize("function", ["raises", "async_raises"])
def test_whatever_a_handler_raises_is_answered_and_the_next_call_too(error, function):
    code = ODD.format(error=error, function=function)  # in a process of its own: it may end an event loop
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=4 * SECONDS)
    assert done.stdout.split() == ["RemoteFailure", "fine"], done.stderr
