"""The command line: ``labnet`` and ``python -m labnet``."""

from labnet.cli.commands import main

__all__ = ["main"]
