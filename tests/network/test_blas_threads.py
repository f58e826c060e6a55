"""While a process serves, its BLAS has one thread, unless the environment says otherwise."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
import labnet as ln

def threads():
    return sorted({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})

with threadpool_limits(3, user_api="blas"):
    seen = [threads()]
    first = ln.network.serve({"a": lambda: 1}, port=0)
    second = ln.network.serve({"b": lambda: 1}, port=0)
    seen.append(threads())
    first.stop()
    seen.append(threads())
    second.stop()
    seen.append(threads())
    with ln.network.serve({"a": lambda: 1}, port=0):
        seen.append(threads())
    print(json.dumps(seen))
"""


@pytest.mark.parametrize(("chosen", "serving"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "3"}, 3)])
def test_blas_has_one_thread_while_something_is_served(chosen, serving):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | chosen
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [[3], [serving], [serving], [3], [serving]]
