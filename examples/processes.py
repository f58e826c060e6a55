"""Servers in processes of their own, for the other examples.

``with running(serve_a, (serve_b, 3)) as (a, b):`` calls each function in a new process and gives the URLs of the
servers that they return. The servers stop at the end of the block.
"""

import contextlib
import multiprocessing
import sys

_SPAWN = multiprocessing.get_context("spawn")


def _work(function, arguments, connection):
    with contextlib.suppress(EOFError, KeyboardInterrupt), function(*arguments) as server:
        connection.send(server.url)
        connection.recv()  # until the parent closes its end


@contextlib.contextmanager
def _process(function, *arguments):
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_work, args=(function, arguments, theirs), name=function.__name__)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    except EOFError:
        sys.exit(f"the process of {function.__name__} ended before it served anything")
    finally:
        ours.close()
        process.join()


@contextlib.contextmanager
def running(*servers):
    """Run each function, or tuple of a function and its arguments, in a process; give the URLs of their servers."""
    with contextlib.ExitStack() as stack:
        calls = [server if isinstance(server, tuple) else (server,) for server in servers]
        yield [stack.enter_context(_process(*call)) for call in calls]
