"""The program of the child process that compiles: sources come on its input, machine code goes to its output.

`labnet.kernels.machine_code.compiler_process` starts it and describes the protocol by what it sends and reads.
"""

import functools
import gc
import json
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import Any, BinaryIO

from labnet.kernels.machine_code import cache

#: Seconds without work after which the process ends; its memory, some 200 MB, is given back then.
IDLE_SECONDS = 60.0
#: Niceness of work that a caller waits for, and of work in the background: training and serving go first.
AWAITED, BACKGROUND = 5, 10


def main(parent: int) -> None:
    """Compile until the input ends, until there is no work for long, or until the parent process has ended."""
    _step_back()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True).start()
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < IDLE_SECONDS and (os.name == "nt" or os.getppid() == parent):
        with suppress(queue.Empty):
            work = threading.Thread(target=_reply, args=(replies, json.loads(requests.get(timeout=1.0))))
            work.start()  # on Linux each thread has a niceness of its own
            work.join()
            idle_since = time.monotonic()
    os._exit(0)


def _step_back() -> None:
    """Let other processes run first, and be the first to end where memory is short."""
    if hasattr(os, "nice"):
        os.nice(AWAITED)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


@functools.cache
def _spare_modules() -> None:
    """Collect garbage from now on, but never look at the modules that are imported by now."""
    gc.freeze()
    gc.enable()


def _read(stream: BinaryIO, requests: "queue.SimpleQueue[bytes]") -> None:
    """Queue requests; end the process with its input, which the parent holds open."""
    for line in stream:
        requests.put(line)
    os._exit(0)


def _reply(replies: BinaryIO, request: dict[str, Any]) -> None:
    """Compile one source, and send its machine code or the error."""

    def send(reply: dict[str, Any], content: bytes = b"") -> None:
        replies.write(json.dumps(reply).encode() + b"\n" + content)
        replies.flush()

    source, name = request["source"], request["name"]
    if not request["awaited"] and hasattr(os, "nice"):
        os.nice(BACKGROUND - AWAITED)
    try:
        if cache.digest(source) != name:
            send({"error": "files of labnet, or settings, have changed since this process began", "differs": True})
            return
        from labnet.compile.native import numba_compiler

        _spare_modules()
        code = numba_compiler.translate(
            source, f"<labnet {name[:12]}>", report=lambda done, total: send({"done": done, "total": total})
        )
        content = cache.pack(code)
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}", "differs": False})
    else:
        send({"size": len(content)}, content)
