"""The thread that computes for an event loop: every job ends, in its order, whatever it raises."""

import asyncio
import contextvars
import functools
import random
import threading
import time

import pytest

from labnet.network.threads import Worker, begin_together, in_task
from tests.helpers.constants import SECONDS


@pytest.fixture
def worker():
    made = Worker("test-compute")
    yield made
    made.stop()
    made.join(SECONDS)


@pytest.mark.parametrize("seed", range(5))
def test_jobs_of_any_length_end_in_their_order(worker, seed):
    """Around the moment for which the loop waits by itself, a wake-up could be lost."""
    draw, ended = random.Random(seed), []

    async def ask(number):
        length = draw.choice([0, 0, 1e-4, 2e-4, 3e-4, 1e-3])
        assert await worker.run(lambda: (time.sleep(length), ended.append(number), number)[-1]) == number

    async def ask_for_all():
        async with asyncio.timeout(SECONDS):
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
    ended, released = [], threading.Event()

    async def ask():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await worker.run(lambda: (released.wait(SECONDS), ended.append(1)))
        released.set()
        return await worker.run(lambda: "on")

    assert asyncio.run(ask()) == "on"
    assert ended == [1]


def test_what_nobody_waits_for_any_more_is_not_begun(worker):
    begun, released = [], threading.Event()

    async def ask():
        first = asyncio.ensure_future(worker.run(lambda: released.wait(SECONDS)))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await worker.run(lambda: begun.append(1))
        released.set()
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
            await asyncio.wait_for(worker.run(lambda: "too late"), SECONDS)
        return await last

    assert asyncio.run(ask()) == "last"


def begun_together(*coroutines):
    """Begin coroutines from a callback of a loop, and return the tasks in which some went on, after they have ended."""

    async def ask():
        tasks, errors = [], []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
        begun = asyncio.Event()
        loop.call_soon(lambda: (begin_together(coroutines, tasks.append), begun.set()))
        await begun.wait()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*tasks, return_exceptions=True)
        return tasks, errors

    return asyncio.run(ask())


@pytest.mark.parametrize("seed", range(5))
def test_jobs_that_begin_together_end_in_their_order(worker, seed):
    draw, ended, answered = random.Random(seed), [], []

    def compute(part, number, length):
        time.sleep(length)
        ended.append((part, number))
        return number

    async def ask(number):
        for part in range(2):
            length = draw.choice([0, 0, 1e-4, 3e-4, 1e-3])
            assert await worker.run(functools.partial(compute, part, number, length)) == number
        answered.append(number)

    begun_together(*(ask(number) for number in range(16)))
    assert [number for part, number in ended if part == 0] == list(range(16))
    assert [number for part, number in ended if part == 1] == list(range(16))
    assert answered == list(range(16))


def test_a_coroutine_that_waits_goes_on_in_a_task_and_in_its_context():
    variable, seen = contextvars.ContextVar("variable", default="outside"), []

    async def wait():
        variable.set("inside")
        seen.append(asyncio.current_task())
        await asyncio.sleep(0.01)
        async with asyncio.timeout(SECONDS):
            seen.append((asyncio.current_task(), variable.get()))

    async def at_once():
        seen.append(variable.get())

    (task,), errors = begun_together(wait(), at_once())
    assert (seen, errors) == ([None, "outside", (task, "inside")], [])


def test_a_timeout_is_possible_in_a_task():
    seen = []

    async def wait():
        await in_task()
        async with asyncio.timeout(SECONDS):
            seen.append(asyncio.current_task())

    (task,), _ = begun_together(wait())
    assert seen == [task]


@pytest.mark.parametrize("waits", [False, True])
def test_a_coroutine_that_is_cancelled_where_it_waits_cleans_up(worker, waits):
    ended, going = [], threading.Event()

    async def wait():
        try:
            await (worker.run(going.wait) if waits else asyncio.get_running_loop().create_future())
        finally:
            ended.append("clean")

    async def ask():
        tasks = []
        asyncio.get_running_loop().call_soon(lambda: begin_together([wait()], tasks.append))
        while not tasks:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        going.set()

    asyncio.run(ask())
    assert ended == ["clean"]


def test_a_coroutine_that_fails_does_not_hold_up_the_others(worker):
    answered = []

    async def fail():
        raise ValueError("why")

    async def ask():
        answered.append(await worker.run(lambda: "on"))

    _, errors = begun_together(fail(), ask(), fail())
    assert answered == ["on"]
    assert [str(error) for error in errors] == ["why", "why"]
