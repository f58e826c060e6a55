"""Generated files: where they lie, and how they become machine code.

A file's name is a hash of its source, of the runtime that it calls, and of the versions that compile it, so what
Numba keeps beside it can never belong to other code. Files are written in full and then renamed, so concurrent
processes cannot see half of one; when there are too many, the oldest go.
"""

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

#: Generated files that are kept.
LIMIT = 256


def folder() -> Path:
    """Return the folder of generated files; ``LABNET_CACHE`` names another one."""
    chosen = os.environ.get("LABNET_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("labnet")) / "compiled"


def _runtime() -> bytes:
    home = Path(__file__).parent
    files = [home / f"{name}.py" for name in ("runtime", "routines", "recurrences", "convolutions")]
    files.append(home.parent / "kernels" / "blas.py")
    return b"".join(file.read_bytes() for file in files)


def digest(source: str) -> str:
    """Return the name that a source has, with everything that its machine code depends on."""
    found = hashlib.sha256(source.encode())
    found.update(_runtime())
    for text in (version("numba"), version("numpy"), version("llvmlite"), sys.version):
        found.update(text.encode())
    return found.hexdigest()[:32]


def write(source: str) -> Path:
    """Return the file of a source, written if it is not there yet."""
    home = folder()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / f"step_{digest(source)}.py"
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=home, suffix=".part")
        with os.fdopen(descriptor, "w") as file:
            file.write(source)
        os.replace(temporary, path)
        clear(keep=LIMIT)
    return path


def clear(*, keep: int = 0) -> int:
    """Delete all generated files but the newest `keep`, with their machine code, and return how many went."""
    files = sorted(folder().glob("step_*.py"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[keep:]:
        for part in [*path.parent.glob(f"__pycache__/{path.stem}.*"), path]:
            part.unlink(missing_ok=True)
    return len(files[keep:])


def load(source: str) -> Callable[..., int]:
    """Return the compiled function of a source, from the disk if it is there."""
    path = write(source)
    spec = importlib.util.spec_from_file_location(f"labnet_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where Numba looks for the module of code that comes from the disk
    spec.loader.exec_module(module)
    step: Callable[..., int] = module.step
    return step
