"""One BLAS thread while this process serves.

Threads of a BLAS spin while they wait for each other, and so take the cores from those that answer requests: a
served notebook trains several times slower with them. Whoever has chosen a number in the environment keeps it.
"""

import os

from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

#: Variables by which a number of threads is chosen.
_CHOICES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_limits: threadpool_limits | None = None


def limit() -> None:
    """Leave BLAS one thread, unless the environment says how many; again does nothing."""
    global _limits
    if _limits is None and not any(name in os.environ for name in _CHOICES):
        _limits = threadpool_limits(1, user_api="blas")


def restore() -> None:
    """Give BLAS the threads back that it had, unless somebody has chosen another number meanwhile."""
    global _limits
    if _limits is not None:
        if all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas"):
            _limits.restore_original_limits()
        _limits = None
