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


NAMES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def run(program, chosen):
    """Run a program with numbers of threads chosen in the environment, or none; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | chosen
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


CHOSEN_MEANWHILE = """
with threadpool_limits(3, user_api="blas"):
    server = ln.network.serve({"a": lambda: 1}, port=0)
    threadpool_limits(2, user_api="blas")
    server.stop()
    print(json.dumps(threads()))
"""


def test_who_chooses_a_number_while_something_is_served_keeps_it():
    program = PROGRAM.partition("with threadpool_limits")[0] + CHOSEN_MEANWHILE
    assert run(program, {}) == [2]


@pytest.mark.parametrize(("chosen", "serving"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "3"}, 3)])
def test_blas_has_one_thread_while_something_is_served(chosen, serving):
    assert run(PROGRAM, chosen) == [[3], [serving], [serving], [3], [serving]]
