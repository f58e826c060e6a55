"""What holds for every test on a GPU, or in the simulator."""

import sys

import pytest

from tests.helpers.cuda.device_arrays import EMULATED, SIMULATED


@pytest.fixture(autouse=True, scope="session")
def _threads_take_turns_often():
    """Threads of the simulator wait for each other in loops: each turn of 5 ms is lost."""
    before = sys.getswitchinterval()
    if SIMULATED:
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def _kernels_do_nothing_wrong():
    """What the emulated GPU found is the reason, whatever else became of the test."""
    yield
    if EMULATED is not None and EMULATED.faults:
        faults = list(EMULATED.faults)
        EMULATED.recover()
        raise ExceptionGroup("on the emulated GPU", faults)
