"""A cluster of processes with nannies on this machine, for all the tests here."""

import signal
import threading
import time

import pytest

import labnet as ln

SECONDS = 120.0


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


@pytest.fixture(scope="package")
def running():
    with ln.cluster.connect(workers=3) as cluster:
        yield cluster


def able(dask_scheduler):
    """Return how many workers can serve."""
    return len(dask_scheduler.plugins["labnet"]._candidates())


@pytest.fixture
def cluster(running):
    """Give a cluster with three workers that serve nothing; what a test serves is stopped at its end."""
    until(lambda: running.client.run_on_scheduler(able) == 3)
    yield running
    for name in {row.name for row in running.models()}:
        running.stop(name)


def until(condition):
    """Wait until a condition holds, for two minutes at most, however long it takes to look: machines are busy."""
    tick, end = threading.Event(), time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError("the condition was not met in time")
        tick.wait(0.01)
