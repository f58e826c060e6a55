"""Models on the workers of a Dask cluster, which places, monitors and restarts them by name.

Dask places and restarts servers. Tensors travel over labnet's HTTP directly between callers and workers, never through
the scheduler. Needs ``pip install "labnet[dask]"``.
"""

try:
    import distributed as _distributed  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('ln.cluster needs Dask, which is not installed: pip install "labnet[dask]"') from error

from labnet.cluster.handle import Cluster, connect
from labnet.cluster.model import ClusterModel
from labnet.cluster.pipeline import Pipeline

__all__ = ["Cluster", "ClusterModel", "Pipeline", "connect"]
