"""The wait of a caller for machine code, with a line that shows the progress.

If no child process can compile, the caller compiles in this process.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future

from labnet.kernels.machine_code import cache
from labnet.kernels.machine_code.compiler_process import WAITING, CompilerDied, NoCompiler

log = logging.getLogger("labnet.compile")

#: Seconds after which a line shows the progress.
QUIET_SECONDS = 2.0


class Wait:
    """Waits for the machine code of one function, and shows a line in a terminal or a notebook if it takes long."""

    has_reported = False

    def __init__(self, name: str):
        self._name = name
        self._began = time.monotonic()
        self._shown = ""
        self._is_seen = is_seen()

    def tick(self, done: int, total: int) -> None:
        """Show how many parts are compiled, once `QUIET_SECONDS` are over."""
        seconds = time.monotonic() - self._began
        if self._is_seen and seconds >= QUIET_SECONDS:
            share = f"part {done + 1} of {total}, " if total > 1 else ""
            self._show(f"{self._name}: compiling, {share}{seconds:.0f} s (wait=False runs eagerly meanwhile)")

    def translate(self, source: str, name: str, reason: NoCompiler) -> bytes:
        """Compile in this process, and say so once."""
        if not Wait.has_reported:
            Wait.has_reported = True
            log.warning("compiling in this process, which other threads notice: %s", reason)
        from labnet.compile.native import numba_compiler

        return cache.pack(numba_compiler.translate(source, f"<labnet {name[:12]}>", report=self.tick))

    def end(self, outcome: str) -> None:
        """Replace the progress by an outcome."""
        if self._shown:
            self._show(f"{self._name}: {outcome} after {time.monotonic() - self._began:.1f} s")
            print(file=sys.stderr, flush=True)

    def _show(self, text: str) -> None:
        if text == self._shown:
            return
        self._shown = text
        width = shutil.get_terminal_size().columns - 1  # a longer line would not be overwritten
        print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)


def is_seen() -> bool:
    """Return whether a person reads what this process prints: in a terminal or a notebook."""
    stream = sys.stderr
    return type(stream).__module__.startswith("ipykernel.") or (stream is not None and stream.isatty())


def wait_for(prepare: Callable[[], None], name: str) -> "Future[None]":
    """Call a function that compiles, and wait for it; `name` is the user's name of the compiled function.

    Returns
    -------
    Future of None
        Done. An exception in it says that the compiler died; the caller can go on eagerly then.
    """
    done: Future[None] = Future()
    wait, outcome = Wait(name), "not compiled, ended"
    token = WAITING.set(wait)
    try:
        prepare()
        outcome = "compiled"
        done.set_result(None)
    except CompilerDied as error:
        done.set_exception(error)
    finally:
        WAITING.reset(token)
        wait.end(outcome)
    return done
