"""``labnet cache``: the disk cache of compiled code."""

import argparse
from contextlib import suppress
from datetime import datetime

from labnet import kernels
from labnet.cli.sizes import size
from labnet.kernels.machine_code import cache


def show(options: argparse.Namespace) -> int:
    """Print the entries of the cache, clear it, or fill it with the kernels."""
    if options.clear:
        gone = cache.clear()
        print(f"{cache.folder()}: {_count(gone)} deleted")
    elif options.warm:
        return warm()
    else:
        print(listing(cache.entries(), cache.entries(cache.FUNCTION)))
    return 0


def warm() -> int:
    """Compile the kernels that the cache lacks; return 1 if this machine cannot have all of them."""
    known = {kernel.name for kernel in kernels.KERNELS if cache.is_known(kernel.source)}
    complete = kernels.load()
    found = sum(kernel.compiled is not None for kernel in kernels.KERNELS)
    print(f"{cache.folder()}: {found} kernels, {found - len(known)} of them compiled now")
    return 0 if complete else 1


def listing(entries: list[cache.Entry], functions: list[cache.Entry]) -> str:
    """Format the cache as text: path and sizes, then the entries, most recently used first."""
    with suppress(FileNotFoundError):
        if unsafe := cache.unsafe_part(cache.folder()):
            return f"{cache.folder()}: not used, since other users can write to {unsafe}"
    total, shared = (sum(entry.nbytes for entry in found) for found in (entries, functions))
    most = f"at most {cache.MOST_FILES}, {size(cache.MOST_BYTES)}"
    head = f"{cache.folder()}: {_count(len(entries))}, {size(total)} ({most}), and {size(shared)} of functions of steps"
    return "\n".join([head, *map(_row, entries)])


def _row(entry: cache.Entry) -> str:
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M:%S")
    return f"  {entry.path.stem[:12]}  {size(entry.nbytes):>9}  last used {used}"


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"
