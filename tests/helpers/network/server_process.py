"""A server in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys

from tests.helpers.constants import ROOT, SECONDS


@contextlib.contextmanager
def child(*arguments, module="tests.helpers.network.digits_server", environment=None):
    """Run a module that serves a model; gives what it says about its server, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield json.loads(process.stdout.readline()), process
        finally:
            process.stdin.close()
            process.wait(SECONDS)
