"""Run a command, and fail if it leaves processes behind: ``python -m tests.supervisor COMMAND ARGUMENT ...``.

A process that outlives the tests may hold their output open, and then a reader of that output never sees its end. On
Linux, descendants whose parent has ended become children of this process, so that none escapes.
"""

import ctypes
import os
import signal
import sys
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 60.0


def supervise(command, grace_seconds=_GRACE_SECONDS):
    """Run a command; return its exit status, or 1 if it succeeded and left processes that had to be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main = os.posix_spawnp(command[0], command, os.environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command, in the same foreground group, gets it too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(main, number))
    ended = status = None
    while ended != main:  # orphans are reaped as they end, as init does
        ended, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    left = _remaining(time.monotonic() + grace_seconds)
    if not left:
        return code if code >= 0 else 128 - code
    for process in left:
        print(f"left running, killed: {_described(process)}", file=sys.stderr, flush=True)
    _kill_all()
    return code if code > 0 else 1


def _remaining(deadline):
    """Return the descendants that have not ended by a deadline."""
    while left := _descendants():
        if time.monotonic() >= deadline:
            return left
        time.sleep(0.05)
    return []


def _descendants():
    """Return the descendants of this process that run, after reaping those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return []
    return [child for child in psutil.Process().children(recursive=True) if _runs(child)]


def _runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _described(process):
    """Return the id and command line of a process, and the test that pytest ran when it was started."""
    try:
        command = " ".join(process.cmdline()) or process.name()
        test = process.environ().get("PYTEST_CURRENT_TEST", "outside of a test")
    except psutil.Error as error:
        return str(error)
    return f"{process.pid} {command[:300]!r}, started in {test}"


def _kill_all():
    """Kill descendants, and what they leave to this process when they end, until none is there."""
    while left := _descendants():
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
