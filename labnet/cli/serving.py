"""``labnet serve``, ``labnet list``, ``labnet stop`` and ``labnet token``."""

import argparse
import signal
import sys
from types import FrameType

from labnet.cli.problems import FAILURE, Misuse
from labnet.cli.targets import connect, load, optimizer_of
from labnet.network import Server, discovery, serve_model, serve_runner
from labnet.network.runner.service import PORT
from labnet.pictures import text_table


def serve(options: argparse.Namespace) -> int:
    """Serve a model file, or a runner, until the process is interrupted or terminated."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _runner(options) if options.file is None else _model(options) as server:
            print(f"labnet: serving {server.name!r} at {server.url} (Ctrl-C stops)", flush=True)
            server.wait()
    except KeyboardInterrupt:
        print("labnet: stopped", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _runner(options: argparse.Namespace) -> Server:
    for option in ("optimizer", "lr", "checkpoint", "store"):
        if getattr(options, option) is not None:
            raise Misuse(f"--{option} goes with a model file; without one a runner is served")
    port = PORT if options.port is None else options.port
    return serve_runner(port, host=options.host, allow_shell=options.allow_shell, name=options.name or "runner")


def _model(options: argparse.Namespace) -> Server:
    if options.allow_shell:
        raise Misuse("--allow-shell is for a runner; a server of models has no shell")
    if options.store is not None and options.checkpoint is not None:
        raise Misuse("--store keeps the weights too: leave out --checkpoint")
    file = load(options.file)
    return serve_model(
        file.model,
        optimizer_of(file, options),
        port=3000 if options.port is None else options.port,
        host=options.host,
        name=options.name or file.name,
        routes=file.routes(),
        store=options.store,
        durability=options.durability,
    )


def show(options: argparse.Namespace) -> int:
    """List this user's servers on this machine."""
    rows = [(entry.name, entry.url, f"process {entry.pid}") for entry in discovery.entries()]
    print(text_table(("name", "address", "where"), rows) if rows else "no server of yours runs on this machine")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stop a server whose token this user has."""
    remote = connect(options.target, options.timeout)
    remote.stop()
    print(f"labnet: stopped {remote.url}")
    return 0


def token(options: argparse.Namespace) -> int:
    """Print the token of a server of this user on this machine."""
    entry = discovery.running(options.port)
    if entry is None:
        print(f"labnet: no server of yours runs on port {options.port} of this machine", file=sys.stderr)
        return FAILURE
    if entry.token is None:
        print(f"labnet: the server on port {options.port} is open and needs no token", file=sys.stderr)
        return FAILURE
    print(entry.token)
    return 0
