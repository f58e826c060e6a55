"""The limit of one BLAS thread while this process serves.

BLAS threads spin while they wait for each other and take cores from the threads that answer requests: a served notebook
trains several times slower with them. A number of threads in the environment takes precedence.
"""

import os

from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from labnet.kernels import blas

#: Environment variables that set the number of threads.
_CHOICES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_limits: threadpool_limits | None = None
_before = 0


def limit() -> None:
    """Limit BLAS to one thread unless the environment sets a number; idempotent."""
    global _limits, _before
    if _limits is None and not any(name in os.environ for name in _CHOICES):
        with blas.changing() as choose:
            _before = blas.threads()
            _limits = threadpool_limits(1, user_api="blas")
            choose(1)  # threadpoolctl lets only one thread of Python change it


def restore() -> None:
    """Restore the number of BLAS threads unless it was changed meanwhile."""
    global _limits
    if _limits is not None:
        with blas.changing() as choose:
            if all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas"):
                _limits.restore_original_limits()
                if _before:
                    choose(_before)
        _limits = None
