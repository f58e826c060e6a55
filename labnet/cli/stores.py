"""``labnet store``: show, verify, compact and repair the store of a served model."""

import argparse
from pathlib import Path

from labnet.cli.sizes import size
from labnet.store.offline import Contents, compact, contents, repair


def show(options: argparse.Namespace) -> int:
    """Print the contents of a store."""
    print(_described(contents(Path(options.path))))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Verify a store and print that it is intact."""
    found = contents(Path(options.path))
    torn = f"; {found.torn} bytes of an update that was never answered will be cut off" if found.torn else ""
    print(f"{found.path}: whole, version {found.version}, {found.updates} updates in the journal{torn}")
    return 0


def shorten(options: argparse.Namespace) -> int:
    """Replace the journal by a checkpoint."""
    before = contents(Path(options.path))
    after = compact(Path(options.path))
    print(f"{after.path}: version {after.version}, {size(before.nbytes)} before, {size(after.nbytes)} now")
    return 0


def mend(options: argparse.Namespace) -> int:
    """Truncate a damaged journal at its first bad record."""
    path = Path(options.path)
    done = repair(path)
    if done is None:
        print(f"{path}: whole, there is nothing to repair")
        return 0
    what = f"cut off after version {done.version}: every later update is lost, {size(done.nbytes)} of them"
    copy = f"{done.copy.name} is the journal as it was" if done.copy is not None else "the journal was missing"
    print(f"{path}: {what}; {copy}; clients that ask about earlier requests get the answer unknown")
    return 0


def _described(found: Contents) -> str:
    width = max((len(name) for name in found.weights), default=0)
    rows = [f"  {name:<{width}}  {shape} {dtype}" for name, (shape, dtype) in found.weights.items()]
    facts = [
        f"{found.path}: version {found.version}, {size(found.nbytes)}",
        f"  trained with {found.optimizer}, durability {found.durability!r}, store {found.lineage}",
        f"  {found.updates} updates in the journal, {found.replies} replies kept",
    ]
    return "\n".join([*facts, *rows])
