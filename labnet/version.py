"""The version of the installed distribution; imported on first use, since the lookup takes longer than most imports."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("labnet")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
