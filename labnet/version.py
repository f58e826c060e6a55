"""The version of the package, which `pyproject.toml` reads from here: to look it up takes longer than most imports."""

__version__ = "0.1.0"
