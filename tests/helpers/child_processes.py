"""Forked children that end with the test that made them, even those that hang."""

import contextlib
import ctypes
import os
import signal

_LIBC = ctypes.PyDLL(None)
_STACK_BYTES = 1 << 16


@contextlib.contextmanager
def forked(run=signal.pause):
    """Fork a child that calls `run` and exits with what it returns; yield its process id."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = run() or 0
        finally:
            os._exit(code)
    with _ended(pid):
        yield pid


@contextlib.contextmanager
def forked_without_hooks():
    """Fork a child that runs no Python at all, as one that the system has not scheduled yet; yield its process id.

    clone(2) of the C library calls `pause` in the child, on a stack of its own. Neither fork handlers nor the
    interpreter run there, so it cannot wait for a lock of a thread that only its parent has.
    """
    stack = ctypes.create_string_buffer(_STACK_BYTES)
    top = (ctypes.addressof(stack) + _STACK_BYTES) & ~15
    pid = _LIBC.clone(_LIBC.pause, ctypes.c_void_p(top), signal.SIGCHLD, None)
    assert pid > 0, "clone failed"
    with _ended(pid):
        yield pid


def exit_code(pid):
    """Wait for a child and return its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def _ended(pid):
    """Kill a child that still runs when the block ends: it would hold the output of the test run open."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
