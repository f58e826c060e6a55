"""The scheduler is killed: models are served on, and found by their names under the next scheduler."""

import os
import signal

import pytest

import labnet as ln
from labnet.errors import Unreachable
from tests.helpers.cluster.hosts import hosts
from tests.helpers.cluster.models import adam, batch, bits, small, train_alone
from tests.helpers.cluster.parts import kill, part
from tests.helpers.cluster.waits import until


def train(model, steps, begin=0):
    for step in range(begin, begin + steps):
        x, y = batch(step)
        ln.loss.mse(model(x), y).backward()


def test_a_killed_scheduler_ends_no_model_and_the_next_one_finds_all(tmp_path):
    with hosts(tmp_path, ["a", "b", "c"]) as (running, cluster):
        model = cluster.serve_model(small, adam(), name="encoder", replicas=2, store=tmp_path / "store", blocking=True)
        other = cluster.serve_model(small, name="other", blocking=True)
        train(model, 2)
        before = {row.part + row.name: (row.url, row.worker) for row in cluster.models()}
        os.killpg(running.processes[0].pid, signal.SIGKILL)
        running.processes[0].wait()
        train(model, 3, begin=2)
        other(batch(0)[0])
        with pytest.raises(Unreachable, match="the scheduler of the cluster does not answer"):
            cluster.models()
        running.restart_scheduler()
        train(model, 1, begin=5)
        with ln.cluster.connect(running.address) as again:
            until(lambda: len(again.models()) == 3 and all(row.state == "running" for row in again.models()))
            assert {row.part + row.name: (row.url, row.worker) for row in again.models()} == before
            assert sorted(again.client.scheduler_info()["workers"]) == sorted({row.worker for row in again.models()})
            found = again.remote_model("encoder", blocking=True)
            train(found, 1, begin=6)
            kill(again, "encoder")
            train(found, 1, begin=7)
            alone = small()
            train_alone(alone, adam(), 8)
            assert bits(found.state_dict()) == bits(alone.state_dict())
            assert part(again, "encoder").version == 8
