"""Several workers compute for one model: the primary owns the weights, the others follow and hand it gradients."""

import asyncio
import os
import signal

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import BadGradient, ServeError, StaleGradient
from tests.helpers.cluster.models import adam, batch, bits, small, train_alone
from tests.helpers.cluster.parts import kill, process_of, wait_restarted
from tests.helpers.cluster.waits import until


def forwards(cluster, name="model"):
    """Return how many forwards each part has answered."""
    rows = cluster.client.sync(cluster.client.scheduler.labnet_models)
    return [row["statistics"]["statistics"]["forward"]["hits"] for row in rows if row["name"] == name]


async def trained(model, steps, name):
    """Train by awaiting; return how many steps were answered."""
    for step in range(steps):
        x, y = batch(step + len(name))
        await ln.loss.mse(await model(x), y).backward()
    return steps


def test_one_trainer_sees_its_own_updates_on_every_replica_and_trains_as_with_one_server(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=3)

    async def run():
        losses = []
        for step in range(30):
            x, y = batch(step)
            loss = ln.loss.mse(await model(x), y)
            await loss.backward()
            losses.append(loss.item())
        return losses, bits(await model.state_dict())

    losses, found = asyncio.run(run())
    alone = small()
    assert losses == train_alone(alone, adam(), 30)
    assert found == bits(alone.state_dict())
    assert sum(forwards(cluster)) == 30


def held(file):
    """Return a factory of a model whose forwards are answered once a file is there."""

    def factory():
        class Held(nn.Sequential):
            def forward(self, x):
                until(file.exists)
                return super().forward(x)

        return Held(small())

    return factory


def test_forwards_go_to_the_least_busy_and_backwards_to_who_holds_the_call(cluster, tmp_path):
    model = cluster.serve_model(held(tmp_path / "opened"), adam(), name="model", replicas=3)

    async def run():
        answering = asyncio.gather(*[model(batch(n)[0]) for n in range(30)])
        while sum(part.in_flight for part in list(model._parts.values())) < 30:
            await asyncio.sleep(0.01)
        (tmp_path / "opened").touch()
        outputs = await answering
        for n, output in enumerate(outputs):
            await ln.loss.mse(output, batch(n)[1]).backward()

    asyncio.run(run())
    assert forwards(cluster) == [10, 10, 10]
    assert cluster.models()[0].version == 30


def test_many_trainers_on_replicas_lose_and_double_no_update(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=3)

    async def run():
        return await asyncio.gather(*[trained(model, 20, "x" * n) for n in range(4)])

    assert sum(asyncio.run(run())) == 80
    assert cluster.models()[0].version == 80


@pytest.mark.parametrize("count", [2, 4])
def test_accumulated_gradients_of_replicas_equal_one_big_batch(cluster, count):
    cluster.serve_model(small, adam(), name="model", replicas=3, accumulate=count)
    models = [cluster.remote_model("model", client=f"trainer {n}") for n in range(count)]

    async def one(model, x, y):
        await (ln.loss.mse(await model(x), y) / count).backward()

    async def run():
        for step in range(20):
            x, y = batch(step, rows=8)
            size = 8 // count
            pieces = [(x[n : n + size], y[n : n + size]) for n in range(0, 8, size)]
            await asyncio.gather(*[one(m, *piece) for m, piece in zip(models, pieces, strict=True)])
        return await models[0].state_dict()

    found = asyncio.run(run())
    alone = small()
    train_alone(alone, adam(), 20, rows=8)
    for name, tensor in alone.state_dict().items():
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), rtol=0, atol=1e-6)
    assert cluster.models()[0].version == 20


def test_a_gradient_that_is_too_stale_is_refused_whichever_replica_computed_it(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=2, max_staleness=0)

    async def run():
        outputs = [await model(batch(n)[0]) for n in range(4)]
        outcomes = []
        for n, output in enumerate(outputs):
            try:
                await ln.loss.mse(output, batch(n)[1]).backward()
                outcomes.append("taken")
            except StaleGradient:
                outcomes.append("stale")
        return outcomes

    assert asyncio.run(run()) == ["taken", "stale", "stale", "stale"]
    assert cluster.models()[0].version == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_replica_or_primary_loses_and_doubles_nothing_of_one_trainer(cluster, tmp_path, victim):
    model = cluster.serve_model(small, adam(), name="model", replicas=2, store=tmp_path / "store")

    async def run():
        losses = []
        for step in range(40):
            if step in (10, 25):
                await asyncio.to_thread(kill, cluster, "model", victim)
            x, y = batch(step)
            loss = ln.loss.mse(await model(x), y)
            await loss.backward()
            losses.append(loss.item())
            if step in (15, 30):
                await asyncio.to_thread(wait_restarted, cluster, "model", 1 + (step == 30), victim)
        return losses, bits(await model.state_dict())

    losses, found = asyncio.run(run())
    alone = small()
    assert losses == train_alone(alone, adam(), 40)
    assert found == bits(alone.state_dict())


@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_between_forward_and_backward_is_resolved_by_the_primary(cluster, tmp_path, victim):
    model = cluster.serve_model(small, adam(), name="model", replicas=2, store=tmp_path / "store")

    async def run():
        outputs = await asyncio.gather(*[model(batch(n)[0]) for n in range(4)])  # on both
        pairs = [(output, batch(n)[1]) for n, output in enumerate(outputs)]
        held.extend(await asyncio.to_thread(forwards, cluster))
        await asyncio.to_thread(kill, cluster, "model", victim)
        applied = 0
        for output, y in pairs:
            try:
                await ln.loss.mse(output, y).backward()
                applied += 1
            except StaleGradient as error:  # of the one that was killed: the weights have changed since
                refused.append(error.applied)
        return applied

    refused, held = [], []
    applied = asyncio.run(run())
    assert min(held) > 0
    assert applied >= held[1 - victim]  # those of the part that lives
    assert set(refused) <= {"no"}
    wait_restarted(cluster, "model", number=victim)
    assert cluster.models()[0].version == applied


@pytest.mark.parametrize("victim", [0, 1])
def test_many_trainers_lose_and_double_nothing_while_parts_are_killed(cluster, tmp_path, victim):
    cluster.serve_model(small, adam(), name="model", replicas=2, store=tmp_path / "store")

    async def trainer(number):
        model, applied, step = cluster.remote_model("model", client=f"trainer {number}"), 0, 0
        while applied < 25:
            x, y = batch(step)
            step += 1
            try:
                await ln.loss.mse(await model(x), y).backward()
                applied += 1
            except StaleGradient:  # the part that held the call has died, and others have trained since
                continue
        return applied

    async def run():
        training = asyncio.gather(*[trainer(number) for number in range(4)])
        for times in (1, 2):
            await asyncio.to_thread(kill, cluster, "model", victim)
            await asyncio.to_thread(wait_restarted, cluster, "model", times, victim)
        return sum(await training)

    applied = asyncio.run(run())
    assert cluster.models()[0].version == applied == 100


def test_a_replica_that_is_stopped_for_a_while_catches_up(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=2)
    pid = process_of(cluster, "model", 1)

    async def run():
        await trained(model, 4, "")
        os.kill(pid, signal.SIGSTOP)
        try:
            going = asyncio.ensure_future(trained(model, 6, ""))
            await asyncio.sleep(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)
        await going
        return [await model(batch(0)[0]) for _ in range(6)]

    outputs = asyncio.run(run())
    assert len({output.numpy().tobytes() for output in outputs}) == 1
    assert cluster.models()[0].version == 10


def test_replicas_need_a_module(cluster):
    with pytest.raises(ServeError, match="replicas need a Module"):
        cluster.serve_model(lambda: lambda x: x, name="model", replicas=2)


def test_a_pipeline_may_have_stages_with_replicas(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=3)

    async def run():
        pipeline = cluster.pipeline(model, micro_batches=4)
        return [await pipeline.step(*batch(step, 8), loss=ln.loss.mse) for step in range(10)]

    losses = asyncio.run(run())
    alone = small()
    np.testing.assert_allclose(losses, train_alone(alone, adam(), 10, rows=8), rtol=0, atol=1e-6)
    assert cluster.models()[0].version == 10


def test_a_gradient_with_infinity_is_refused_and_changes_nothing(cluster):
    model = cluster.serve_model(small, adam(), name="model", replicas=2)

    async def run():
        for _ in range(2):
            total = (await model(ln.ones((1, 3)))).sum()
            with pytest.raises(BadGradient, match="NaN or infinity"):
                await total.backward(ln.asarray(float("inf")))

    asyncio.run(run())
    assert cluster.models()[0].version == 0
