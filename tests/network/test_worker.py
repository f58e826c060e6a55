"""The thread that computes for an event loop: every job ends, in its order, whatever it raises."""

import asyncio
import random
import time

import pytest

from labnet.network.threads import Worker


@pytest.fixture
def worker():
    made = Worker("test-compute")
    yield made
    made.stop()
    made.join(10.0)


@pytest.mark.parametrize("seed", range(5))
def test_jobs_of_any_length_end_in_their_order(worker, seed):
    """Around the moment for which the loop waits by itself, a wake-up could be lost."""
    draw, ended = random.Random(seed), []

    async def ask(number):
        length = draw.choice([0, 0, 1e-4, 2e-4, 3e-4, 1e-3])
        assert await worker.run(lambda: (time.sleep(length), ended.append(number), number)[-1]) == number

    async def ask_for_all():
        async with asyncio.timeout(30):
            for first in range(0, 200, 4):
                await asyncio.gather(*(ask(number) for number in range(first, first + draw.randrange(1, 5))))

    asyncio.run(ask_for_all())
    assert ended == sorted(ended)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError])
def test_what_a_job_raises_is_raised_and_the_thread_goes_on(worker, error, seconds):
    def fail():
        time.sleep(seconds)
        raise error("why")

    async def ask():
        with pytest.raises(ValueError if error is ValueError else RuntimeError, match="why"):
            await worker.run(fail)
        return await worker.run(lambda: "on")

    assert asyncio.run(ask()) == "on"


def test_whoever_is_cancelled_leaves_the_job_to_its_end(worker):
    ended = []

    async def ask():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await worker.run(lambda: (time.sleep(0.1), ended.append(1)))
        return await worker.run(lambda: "on")

    assert asyncio.run(ask()) == "on"
    assert ended == [1]


def test_what_nobody_waits_for_any_more_is_not_begun(worker):
    begun = []

    async def ask():
        first = asyncio.ensure_future(worker.run(lambda: time.sleep(0.1)))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await worker.run(lambda: begun.append(1))
        await first
        return await worker.run(lambda: "on")

    assert asyncio.run(ask()) == "on"
    assert begun == []


def test_a_thread_that_was_stopped_refuses_what_it_would_never_compute():
    worker = Worker("test-compute")

    async def ask():
        last = asyncio.ensure_future(worker.run(lambda: (time.sleep(0.01), "last")[1]))
        await asyncio.sleep(0)
        worker.stop()
        with pytest.raises(RuntimeError, match="stopped"):
            await asyncio.wait_for(worker.run(lambda: "too late"), 10)
        return await last

    assert asyncio.run(ask()) == "last"
