"""What holds for every test: runtime files of its own, and nothing of the network left behind."""

import os
import signal
import sys
import threading
import time

import psutil
import pytest
from hypothesis import HealthCheck, settings

_GRACE_SECONDS = 60.0

settings.register_profile("labnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("labnet")  # no test depends on how busy the machine is


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from tests.parallel import Scheduling  # only here: without pytest-xdist there is nothing to schedule

    return Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """Have what takes longest begin first where several processes share the tests."""
    if hasattr(config, "workerinput"):
        from tests.parallel import rank

        items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """Escape what is not Unicode in the output of a test, which a process could not send to the one that reports."""
    from tests.parallel import escaped

    return escaped((yield))


@pytest.fixture(autouse=True, scope="session")
def _runtime_files_in_a_temporary_folder(tmp_path_factory):
    """Tokens and runs of the tests, of this process and of those it starts, never meet those of the user."""
    folder = tmp_path_factory.mktemp("state")
    own = {"XDG_STATE_HOME": str(folder), "LABNET_RUNS": str(folder / "runs.sqlite")}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True, scope="session")
def _interrupts_arrive():
    """Have interrupts arrive where the tests run in the background: a shell has such programs ignore them."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _kernels_are_loaded_by_tests():
    """Have no kernel arrive in the background: tests load those that they mean, and none depends on time."""
    from labnet import kernels

    before, kernels.PATIENCE = kernels.PATIENCE, sys.maxsize
    yield
    kernels.PATIENCE = before


def _compute_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("labnet-compute")}


def _sockets():
    """Return the inodes of the sockets that this process has open, quickly where Linux tells them."""
    try:
        opened = os.listdir("/proc/self/fd")
    except OSError:
        return {(c.fd, c.laddr, c.raddr) for c in _connections()}
    return {inode for descriptor in opened if (inode := _inode(descriptor)).startswith("socket:")}


def _inode(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # that of the listing itself, or closed meanwhile
        return ""


def _connections():
    return psutil.Process().net_connections(kind="inet")


def _inet(sockets):
    """Return those among sockets that belong to the network; loops have others, to wake themselves up."""
    if not sockets or isinstance(next(iter(sockets)), tuple):
        return sockets
    return {(c.laddr, c.raddr, c.status) for c in _connections() if _inode(c.fd) in sockets}


def _close_kept_connections():
    """Close what the clients keep open for the next call, on every loop that still runs in this process."""
    from labnet.network.client import session
    from labnet.network.threads import IO, MODELS
    from labnet.network.transport import thread_channel
    from labnet.network.transport.client import pool

    async def close():
        (await pool()).close()

    thread_channel.close_all()
    session._answered.entries.clear()  # the next test's server may get the port of this one's
    for loop in (IO, MODELS):
        loop.submit(close()).result(_GRACE_SECONDS)


def _left_over(find, before):
    """Return what is new since `before` once it had time to go away by itself."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := find() - before) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return left


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail a test that leaves a server, a computing thread or a socket behind."""
    threads, sockets = _compute_threads(), _sockets()
    yield
    if "labnet.network.handle" not in sys.modules:
        return
    from labnet.network import servers

    left = servers()
    for server in left.values():
        server.stop()
    _close_kept_connections()
    assert not left, f"servers left running: {left}"
    assert not (running := _left_over(_compute_threads, threads)), f"threads left running: {running}"
    still_open = _left_over(lambda: _inet(_sockets() - sockets), set())
    assert not still_open, f"sockets left open: {still_open}"
