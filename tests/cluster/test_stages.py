"""A model in stages on three workers trains like the whole one; micro-batches keep the stages busy."""

import asyncio
import itertools

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GradientError
from labnet.stats.losses import LossWatch
from tests.helpers.cluster.models import adam, batch, bits, fill, train_alone
from tests.helpers.cluster.parts import kill
from tests.helpers.cluster.waits import until


def whole():
    return fill(nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 2)))


def first():
    return whole()[0]


def second():
    return whole()[1]


def third():
    return whole()[2]


NAMES = ("first", "second", "third")


@pytest.fixture
def stages(cluster, tmp_path):
    return [
        cluster.serve_model(factory, adam(), name=name, store=tmp_path / name)
        for name, factory in zip(NAMES, (first, second, third), strict=True)
    ]


async def weights(stages):
    return [bits(await stage.state_dict()) for stage in stages]


def local(model):
    return [bits(layer.state_dict()) for layer in model]


async def train(pipeline, steps, rows=8):
    return [await pipeline.step(*batch(step, rows), loss=ln.loss.mse) for step in range(steps)]


def test_three_stages_train_to_the_bit_like_the_model_in_one_piece(stages):
    async def run():
        losses = []
        for step in range(10):
            x, y = batch(step, rows=8)
            for stage in stages:
                x = await stage(x)
            loss = ln.loss.mse(x, y)
            await loss.backward()
            losses.append(loss.item())
        return losses, await weights(stages)

    losses, found = asyncio.run(run())
    model = whole()
    assert losses == train_alone(model, adam(), 10, rows=8)
    assert found == local(model)


def test_a_pipeline_of_one_micro_batch_is_the_model_in_one_piece_to_the_bit(cluster, stages):
    async def run():
        losses = await train(cluster.pipeline(*NAMES, micro_batches=1), 10)
        return losses, await weights(stages)

    losses, found = asyncio.run(run())
    model = whole()
    assert losses == train_alone(model, adam(), 10, rows=8)
    assert found == local(model)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_micro_batches_make_the_update_of_the_whole_batch(cluster, stages, count):
    async def run():
        losses = await train(cluster.pipeline(*stages, micro_batches=count), 10)
        return losses, [await stage.state_dict() for stage in stages]

    losses, found = asyncio.run(run())
    model = whole()
    np.testing.assert_allclose(losses, train_alone(model, adam(), 10, rows=8), rtol=0, atol=1e-6)
    for layer, state in zip(model, found, strict=True):
        for name, tensor in layer.state_dict().items():
            np.testing.assert_allclose(state[name].numpy(), tensor.numpy(), rtol=0, atol=1e-6)
    assert [row.version for row in cluster.models()] == [10, 10, 10]


def test_the_loss_that_is_shown_is_that_of_a_micro_batch_not_its_share(cluster, stages):
    x, y = (np.concatenate([part.numpy()] * 4) for part in batch(0, 2))

    async def run():
        with LossWatch() as watch:
            loss = await cluster.pipeline(*NAMES, micro_batches=4).step(x, y, loss=ln.loss.mse)
        return loss, [watch.value, *cluster.tree()[-1]["statistics"]["loss"]["values"]]

    loss, shown = asyncio.run(run())
    assert shown == pytest.approx([loss, loss])  # in the progress bar, and in the panel


@pytest.mark.parametrize("victim", NAMES)
def test_a_stage_that_dies_in_the_middle_of_steps_loses_and_doubles_nothing(cluster, stages, victim):
    async def run():
        pipeline = cluster.pipeline(*stages, micro_batches=4)
        losses = await train(pipeline, 5)
        training = asyncio.ensure_future(train_on(pipeline, 5, 20))
        await asyncio.to_thread(kill, cluster, victim)
        losses += await training
        return losses, await weights(stages)

    async def train_on(pipeline, begin, end):
        return [await pipeline.step(*batch(step, 8), loss=ln.loss.mse) for step in range(begin, end)]

    losses, found = asyncio.run(run())
    assert (losses, found) == asyncio.run(undisturbed(cluster))
    assert {row.version for row in cluster.models()} == {20}


async def undisturbed(cluster):
    """Train the same stages without a fault, under other names."""
    stages = [
        cluster.serve_model(factory, adam(), name=f"calm {name}")
        for name, factory in zip(NAMES, (first, second, third), strict=True)
    ]
    losses = await train(cluster.pipeline(*stages, micro_batches=4), 20)
    found = await weights(stages)
    for name in NAMES:
        cluster.stop(f"calm {name}")
    return losses, found


def meeting(folder, own, other, call):
    """Return a factory of a stage whose forwards from a call on begin and then wait until the other stage's have."""

    def factory():
        linear, calls = fill(nn.Linear(4, 4)), itertools.count(1)

        def model(x):
            if next(calls) >= call:
                (folder / own).touch()
                until((folder / other).exists)
            return linear(x)

        return model

    return factory


def test_micro_batches_keep_several_stages_busy_at_the_same_time(cluster, tmp_path):
    meetings = (("early", "late", 2), ("middle", "middle", 1), ("late", "early", 1))
    stages = [
        cluster.serve_model(meeting(tmp_path, *given), name=name) for name, given in zip(NAMES, meetings, strict=True)
    ]
    x, y = ln.ones((6, 4)), ln.zeros((6, 4))
    asyncio.run(cluster.pipeline(*stages, micro_batches=6).step(x, y, loss=ln.loss.mse))
    chart = cluster.timeline(*NAMES)
    forwards = [[(b, e) for kind, b, e in given if kind == "forward"] for given in chart.parts.values()]
    overlaps = [(one, other) for one in forwards[0] for other in forwards[2] if one[0] < other[1] and other[0] < one[1]]
    assert overlaps  # the first stage computes while the last one does
    assert "<rect" in chart.svg()


@pytest.mark.parametrize(
    ("x", "y"), [(ln.ones((3, 3)), ln.ones((3, 2))), (ln.ones((8, 3)), ln.ones((7, 2))), (1.0, 2.0)]
)
def test_a_batch_that_cannot_be_cut_is_refused(cluster, stages, x, y):
    with pytest.raises(ValueError, match="at least 4 for as many micro-batches"):
        asyncio.run(cluster.pipeline(*stages).step(x, y, loss=ln.loss.mse))


def test_a_pipeline_says_what_it_needs(cluster, stages):
    with pytest.raises(ValueError, match="at least one stage"):
        cluster.pipeline()
    with pytest.raises(ValueError, match="micro_batches must be a number from 1 on, got 0"):
        cluster.pipeline("first", micro_batches=0)
    with pytest.raises(ValueError, match="must not block"):
        cluster.pipeline(cluster.remote_model("first", blocking=True))
    with pytest.raises(GradientError, match="no step to be finished"):
        asyncio.run(cluster.pipeline("first").resume())
