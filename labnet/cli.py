"""The command line: ``labnet`` and ``python -m labnet``."""

import argparse
import sys
from collections.abc import Sequence

from labnet.network import security


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Examples
    --------
    >>> main(["token", "1"])
    1
    """
    parser = argparse.ArgumentParser(prog="labnet", description="A lab bench for networked, trainable models.")
    commands = parser.add_subparsers(dest="command", required=True)
    token = commands.add_parser(
        "token",
        help="print the token of a server of yours on this machine",
        description='For curl: curl -H "X-Labnet-Token: $(labnet token 3000)" --json "[[1, 2]]" localhost:3000/forward',
    )
    token.add_argument("port", type=int)
    chosen = parser.parse_args(arguments)
    return _print_token(chosen.port)


def _print_token(port: int) -> int:
    entry = security.lookup(port)
    if entry is None or not security.is_alive(entry.pid):
        print(f"labnet: no server of yours runs on port {port} of this machine", file=sys.stderr)
        return 1
    if entry.token is None:
        print(f"labnet: the server on port {port} is open and needs no token", file=sys.stderr)
        return 1
    print(entry.token)
    return 0
