"""Settings decorate functions of every kind: they hold in the body, and nowhere else."""

import asyncio
import functools
import inspect

import pytest

import labnet as ln
from labnet.nn.modules import calling_mode

weight = ln.ones(1, requires_grad=True)


def recorded():
    return (weight * 2).requires_grad


@ln.no_grad()
async def coroutine(pause):
    before = recorded()
    await pause
    return before, recorded()


@ln.no_grad()
def generator():
    received = []
    try:
        while True:
            try:
                received.append(((yield recorded()), recorded()))
            except ValueError as error:
                received.append((error, recorded()))
    finally:
        received.append(recorded())
        generator.seen = received


@ln.no_grad()
async def asynchronous_generator(count):
    try:
        for _ in range(count):
            await asyncio.sleep(0)
            try:
                got = yield recorded()
                asynchronous_generator.seen.append((got, recorded()))
            except ValueError:
                asynchronous_generator.seen.append(("raised", recorded()))
    finally:
        await asyncio.sleep(0)
        asynchronous_generator.seen.append(recorded())


def test_kinds_of_functions_stay_what_they_are():
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(asynchronous_generator)
    assert coroutine.__name__ == "coroutine"


def test_the_body_of_a_coroutine_runs_in_the_setting_and_the_caller_does_not():
    async def main():
        gate = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(coroutine(gate))
        await asyncio.sleep(0)
        outside = recorded()
        gate.set_result(None)
        return outside, await task, await coroutine(asyncio.sleep(0)), recorded()

    assert asyncio.run(main()) == (True, (False, False), (False, False), True)


def test_a_suspended_coroutine_leaves_the_context_of_whoever_drives_it_alone():
    class Pause:
        def __await__(self):
            yield "paused"

    driven = coroutine(Pause())
    assert (driven.send(None), recorded()) == ("paused", True)
    with pytest.raises(StopIteration) as stopped:
        driven.send(None)
    assert (stopped.value.value, recorded()) == ((False, False), True)


def test_generators_are_in_the_setting_at_each_step():
    steps = generator()
    assert (next(steps), recorded()) == (False, True)
    assert (steps.send("sent"), recorded()) == (False, True)
    failure = ValueError()
    assert (steps.throw(failure), recorded()) == (False, True)
    steps.close()
    assert generator.seen == [("sent", False), (failure, False), False]
    assert recorded()


def test_asynchronous_generators_are_in_the_setting_at_each_step():
    async def main():
        asynchronous_generator.seen = []
        found = [(value, recorded()) async for value in asynchronous_generator(2)]
        steps = asynchronous_generator(5)
        found.append((await anext(steps), recorded()))
        found.append((await steps.asend("sent"), recorded()))
        found.append((await steps.athrow(ValueError()), recorded()))
        await steps.aclose()
        return found

    assert asyncio.run(main()) == [(False, True)] * 5
    seen = [(None, False), (None, False), False, ("sent", False), ("raised", False), False]
    assert asynchronous_generator.seen == seen


def test_what_a_body_sets_itself_comes_back_after_a_pause():
    @calling_mode(False)
    async def body():
        with ln.no_grad():
            await asyncio.sleep(0)
            inner = recorded()
        await asyncio.sleep(0)
        return inner, recorded(), ln.nn.Dropout().training

    async def main():
        return await asyncio.gather(body(), body())

    assert asyncio.run(main()) == [(False, True, False)] * 2


def test_errors_of_a_body_reach_the_caller_and_reset_the_context():
    @ln.no_grad()
    async def fails():
        await asyncio.sleep(0)
        raise LookupError("none")

    async def main():
        with pytest.raises(LookupError):
            await fails()
        return recorded()

    assert asyncio.run(main())


def test_a_cancelled_body_cleans_up_in_the_setting():
    seen = []

    @ln.no_grad()
    async def waits():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append(recorded())

    async def main():
        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [False]


def test_methods_partial_functions_and_objects_are_decorated_too():
    class Model:
        @ln.no_grad()
        async def evaluate(self):
            return recorded()

        async def __call__(self):
            return recorded()

    partial = ln.no_grad()(functools.partial(Model.evaluate, Model()))
    for function in (Model().evaluate, partial, ln.no_grad()(Model())):
        assert asyncio.run(function()) is False


def test_plain_functions_may_call_themselves():
    @ln.no_grad()
    def count(depth):
        return [recorded(), *(count(depth - 1) if depth else [])]

    assert count(3) == [False] * 4
    assert recorded()
