"""Runs: what each served and trained model was, and its curves, in one SQLite file of the user.

``ln.runs.all()`` lists them, ``ln.runs.get(name)`` reads the latest of a name, and ``ln.runs.compare("a", "b")`` draws
them. The file is ``runs.sqlite`` in the user's data directory; ``LABNET_RUNS`` names another one, or is empty for none.
"""

from labnet.runs.comparison import Comparison, compare
from labnet.runs.run import Run, Runs, all, delete, get

__all__ = ["Comparison", "Run", "Runs", "all", "compare", "delete", "get"]
