"""``labnet cache``: the disk cache of compiled steps."""

import argparse
from datetime import datetime

from labnet.cli.sizes import size
from labnet.compile.native import cache


def show(options: argparse.Namespace) -> int:
    """Print the entries of the cache, or clear it."""
    if options.clear:
        gone = cache.clear()
        print(f"{cache.folder()}: {_count(gone)} deleted")
    else:
        print(listing(cache.entries()))
    return 0


def listing(entries: list[cache.Entry]) -> str:
    """Format the cache as text: path and size, then the entries, most recently used first."""
    total = sum(entry.nbytes for entry in entries)
    most = f"at most {cache.MOST_FILES}, {size(cache.MOST_BYTES)}"
    return "\n".join([f"{cache.folder()}: {_count(len(entries))}, {size(total)} ({most})", *map(_row, entries)])


def _row(entry: cache.Entry) -> str:
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M:%S")
    return f"  {entry.path.stem[:12]}  {size(entry.nbytes):>9}  last used {used}"


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"
