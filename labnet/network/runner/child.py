"""The child process of an uploaded model: ``python -m labnet.network.runner.child``, started by a runner only.

The first line of standard input is an order in JSON. The process answers with one marked line on standard output,
serves, and stops when standard input is closed, also if the runner dies. The model cannot access either stream:
everything that it prints goes to standard error.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from labnet.errors import ServeError
from labnet.network.handle import Server
from labnet.network.runner.model_file import ModelFile
from labnet.network.serve import serve_model


def main() -> int:
    """Read one order and serve its model."""
    control, report = _take_streams()
    order = json.loads(control.readline())

    def answer(**document: Any) -> None:
        with report:
            report.write(order["mark"] + json.dumps(document) + "\n")

    try:
        server = _serve(order)
    except (ServeError, LookupError, OSError, TypeError) as error:
        answer(error=str(error.args[0] if isinstance(error, LookupError) else error))
        return 1
    answer(port=server.port, token=server.token)
    control.read()
    server.stop()
    return 0


def _take_streams() -> tuple[IO[str], IO[str]]:
    """Reserve stdin and stdout for the runner; give the model an empty stdin, and stderr as its stdout."""
    control, report = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return control, report


def _serve(order: dict[str, Any]) -> Server:
    file = ModelFile.load(Path(order["path"]), order["model"])
    return serve_model(
        file.model,
        file.optimizer(order["optimizer"], order["lr"]),
        port=0,
        host=order["host"],
        routes=file.routes(),
        name=order["name"],
    )


if __name__ == "__main__":
    sys.exit(main())
