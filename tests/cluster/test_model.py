"""The choice of a part for each forward, and connections that cannot work."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import Future

import pytest
from distributed import Scheduler

import labnet as ln
from labnet.cluster.directory import Directory
from labnet.cluster.model import ClusterModel
from labnet.network.client.options import ClientOptions
from tests.helpers.constants import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_replica_that_was_slow_once_is_used_again():
    endpoints = [
        {"number": number, "url": f"http://127.0.0.1:{1000 + number}", "token": "t", "incarnation": str(number)}
        for number in range(2)
    ]
    found = {"id": "cluster", "replicas": 2, "endpoints": endpoints}
    model = ClusterModel(Directory("model", found, lambda *a, **b: Future(), None), ClientOptions(), blocking=True)
    asyncio.run(model._choose())
    slow, fast = model._parts["0"], model._parts["1"]
    slow.seconds, fast.seconds = 5.0, 0.005

    async def chosen():
        return [await model._choose() is slow for _ in range(200)]

    used = asyncio.run(chosen())
    assert not any(used[:50])
    assert any(used)


def test_a_scheduler_on_the_event_loop_of_the_caller_is_refused_at_once():
    async def connecting():
        async with Scheduler(port=0, dashboard=False) as scheduler:
            with pytest.raises(TypeError, match="runs on the event loop of this thread"):
                ln.cluster.connect(scheduler.address)

    asyncio.run(connecting())


def test_a_script_without_a_guard_is_told_to_have_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import labnet as ln\nln.cluster.connect(workers=1)\n")
    ended = subprocess.run([sys.executable, script], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "call it below if __name__ == '__main__':" in ended.stderr.strip().splitlines()[-1]


ENDING = """
import threading
import time

import labnet as ln

def linger():
    threading.Thread(target=time.sleep, args=(1000,)).start()

if __name__ == "__main__":
    cluster = ln.cluster.connect(workers=2)
    model = cluster.serve_model(lambda: ln.nn.Linear(2, 1), name="line", replicas=2, blocking=True)
    model(ln.ones((1, 2)))
    CLOSING
"""


@pytest.mark.parametrize("closing", ["cluster.close()", "pass", "cluster.client.run(linger)"])
def test_a_script_that_ends_says_nothing_whether_it_closes_its_cluster_or_not_and_workers_end_or_not(tmp_path, closing):
    script = tmp_path / "script.py"
    script.write_text(ENDING.replace("CLOSING", closing))
    ended = subprocess.run([sys.executable, script], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
