"""Nannies die, connections to the scheduler break, hosts are cut off: training goes on, nothing is lost or doubled."""

import asyncio
import os
import signal

import pytest

import labnet as ln
from tests.helpers.cluster.hosts import Hosts, Link, can_link, hosts
from tests.helpers.cluster.models import adam, batch, bits, small, train_alone
from tests.helpers.cluster.parts import able, abort, part
from tests.helpers.cluster.waits import until

STEPS = 30


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    with hosts(tmp_path_factory.mktemp("hosts"), ["a", "b", "c"]) as (running, cluster):
        yield running, cluster


def train(model, fault):
    """Train one trainer's steps, with a fault after a third of them; return the losses and the weights."""
    losses = []
    for step in range(STEPS):
        x, y = batch(step)
        loss = ln.loss.mse(model(x), y)
        if step == STEPS // 3:
            fault()
        loss.backward()
        losses.append(loss.item())
    return losses, bits(model.state_dict())


def expected():
    alone = small()
    return train_alone(alone, adam(), STEPS), bits(alone.state_dict())


def nanny_of(cluster, name):
    """Return the process of the nanny of the worker that serves a model."""
    worker = part(cluster, name).worker
    return cluster.client.run(os.getppid, workers=[worker])[worker], worker


def serving(several, tmp_path):
    """Serve a model on three workers, started again where they are missing."""
    running, cluster = several
    missing = {"a", "b", "c"} - {w["name"] for w in cluster.client.scheduler_info()["workers"].values()}
    for name in missing:
        running.worker(name)
    until(lambda: cluster.client.run_on_scheduler(able) == 3)
    return cluster, cluster.serve_model(small, adam(), name="model", store=tmp_path / "store", blocking=True)


def test_a_nanny_that_is_killed_takes_its_worker_along_and_another_one_goes_on(several, tmp_path):
    cluster, model = serving(several, tmp_path)
    nanny, worker = nanny_of(cluster, "model")

    def fault():
        os.kill(nanny, signal.SIGKILL)
        until(lambda: worker not in cluster.client.scheduler_info()["workers"])

    assert train(model, fault) == expected()
    row = part(cluster, "model")
    assert (row.version, row.restarts) == (STEPS, 1)
    assert row.worker != worker


def test_a_worker_whose_connection_to_the_scheduler_breaks_gives_its_model_to_another(several, tmp_path):
    cluster, model = serving(several, tmp_path)
    worker = part(cluster, "model").worker
    assert train(model, lambda: cluster.client.run(abort, workers=[worker])) == expected()
    until(lambda: part(cluster, "model").worker != worker and part(cluster, "model").state == "running")
    assert part(cluster, "model").version == STEPS


def test_a_client_whose_connection_to_the_scheduler_breaks_goes_on_training(several, tmp_path):
    cluster, model = serving(several, tmp_path)

    def fault():
        cluster.client.loop.add_callback(cluster.client.scheduler_comm.comm.abort)

    assert train(model, fault) == expected()
    assert part(cluster, "model").restarts == 0


def test_no_call_of_a_model_passes_through_the_scheduler(several, tmp_path):
    cluster, model = serving(several, tmp_path)
    pid = cluster.client.run_on_scheduler(os.getpid)
    train(model, lambda: None)
    os.kill(pid, signal.SIGSTOP)
    try:
        for step in range(5):
            x, y = batch(step)
            ln.loss.mse(model(x), y).backward()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert part(cluster, "model").version == STEPS + 5


@pytest.mark.skipif(not can_link(), reason="network namespaces need root on Linux, and the program ip")
def test_a_host_that_was_cut_off_rejoins_and_nothing_is_lost(tmp_path):
    link = Link()
    running = Hosts(tmp_path, host="0.0.0.0")
    try:
        port = running.address.rpartition(":")[2]
        with ln.cluster.connect(f"tcp://{link.gateway}:{port}") as cluster:
            running._file.write_text(running._file.read_text().replace(running.address, f"tcp://{link.gateway}:{port}"))
            running.worker("far", link=link)
            until(lambda: cluster.client.run_on_scheduler(able) == 1)
            cluster.serve_model(small, adam(), name="model", store=tmp_path / "store")
            models = [cluster.remote_model("model", client=f"trainer {n}") for n in range(8)]

            async def steps(model, count):
                for step in range(count):
                    x, y = batch(step)
                    await ln.loss.mse(await model(x), y).backward()

            async def run():
                await asyncio.gather(*[steps(model, 2) for model in models])
                link.cut()
                going = asyncio.gather(*[steps(model, 2) for model in models])
                await asyncio.sleep(1.0)
                link.mend()
                await going

            asyncio.run(run())
            row = part(cluster, "model")
            assert (row.version, row.restarts) == (32, 0)
    finally:
        running.close()
        link.remove()
