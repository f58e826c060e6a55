"""A cluster of processes with nannies on this machine, for all the tests here."""

import signal

import pytest

import labnet as ln
from tests.helpers.cluster.parts import able
from tests.helpers.cluster.waits import until


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


@pytest.fixture
def cluster(running):
    """Give a cluster with three workers that serve nothing; what a test serves is stopped at its end."""
    until(lambda: running.client.run_on_scheduler(able) == 3)
    yield running
    for name in {row.name for row in running.models()}:
        running.stop(name)
