"""The use of processor and memory by this process."""

import os
import time
from pathlib import Path
from typing import Any


def usage() -> dict[str, Any]:
    """Return the processor time of this process in seconds, its memory in bytes, and the number of processors."""
    return {"cpu_seconds": time.process_time(), "memory": _resident(), "processors": os.cpu_count() or 1}


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the highest so far, where the present is unknown
    except ImportError:
        return 0
