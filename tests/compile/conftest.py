"""How generated code runs in tests: `LABNET_COMPILED=all` has Numba compile what else Python runs."""

import os

import pytest

from labnet.compile.backends import cpu_program
from tests.helpers.compile import interpreter
from tests.helpers.compile.hazards import verified


@pytest.fixture
def plain_steps(monkeypatch):
    """Have Python run generated code, unless the environment asks for machine code everywhere."""
    if os.environ.get("LABNET_COMPILED") != "all":
        monkeypatch.setattr(cpu_program.cache, "load", interpreter.load)


@pytest.fixture(autouse=True)
def _no_program_reads_what_is_not_there():
    """Verify what groups read, and where values lie, in every program that a test compiles."""
    with verified():
        yield
