"""The process of an uploaded model: ``python -m labnet.network.runner.child``, started by a runner only.

The first line of its input is an order in JSON; it answers with one marked line of output, serves, and stops
when its input is closed, which happens too when the runner dies. Both are out of the model's reach: whatever the model
writes, to its output or to its errors, goes to the errors of the process.
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
    """Serve the model of one order."""
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
    """Keep input and output for the runner; give the model an empty input, and the errors for all that it writes."""
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
