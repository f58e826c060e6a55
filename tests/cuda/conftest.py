"""Which tests of this folder run: those of `device` need a GPU, or a process that starts with Numba's simulator.

`test_device_suite.py` runs them in processes of their own. On a machine with a GPU, and little else:
``LABNET_GPU=1 python -m pytest -c tests/cuda/alone.ini --confcutdir=tests/cuda tests/cuda/device``.
"""

import os

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
collect_ignore = [] if SIMULATED or os.environ.get("LABNET_GPU") else ["device"]
