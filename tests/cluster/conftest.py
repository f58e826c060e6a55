"""Clusters of processes with nannies on this machine, one for each module of tests."""

import signal
import threading

import pytest

import labnet as ln

SECONDS = 60.0


def _compute_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("labnet-compute")}


@pytest.fixture(autouse=True)
def _interrupts_stay_interrupts():
    """Put back what becomes of Ctrl-C: dask-jobqueue makes an exit of it, everywhere, once it is imported."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """Fail a test that leaves a server in this process; sockets of the scheduler, which is here, come and go."""
    yield
    from labnet.network import servers

    assert not servers()


@pytest.fixture(scope="module")
def running():
    with ln.cluster.connect(workers=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(running):
    """Give a cluster with three workers that serve nothing; what a test serves is stopped at its end."""
    until(lambda: len(running.client.scheduler_info()["workers"]) == 3)
    yield running
    for name in {row.name for row in running.models()}:
        running.stop(name)


def until(condition):
    """Wait until a condition holds, for a minute at most."""
    tick = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("the condition was not met in time")
