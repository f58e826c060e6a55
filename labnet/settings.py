"""Temporary settings of context variables, for blocks and functions."""

import contextlib
import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar, Token
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
#: A suspendable body: a generator, a coroutine, or one step of an asynchronous generator.
Steps = Any


class Setting(contextlib.ContextDecorator):
    """A context manager and decorator that sets a context variable.

    It decorates functions of any kind. In coroutines and generators the setting applies while their bodies run; while
    they are suspended, the caller's context is unchanged.

    Examples
    --------
    >>> variable = ContextVar("variable", default=1)
    >>> with Setting(variable, 2):
    ...     variable.get()
    2
    >>> variable.get()
    1
    """

    __slots__ = ("_tokens", "_value", "_variable")

    def __init__(self, variable: ContextVar[Any], value: Any):
        self._variable = variable
        self._value = value
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> None:
        self._tokens.append(self._variable.set(self._value))

    def __exit__(self, *exception: object) -> None:
        self._variable.reset(self._tokens.pop())

    def __call__(self, function: F) -> F:
        """Decorate a function, coroutine function, generator or asynchronous generator."""
        for is_kind, decorate in _KINDS:
            if is_kind(function) or is_kind(getattr(function, "__call__", None)):  # noqa: B004
                return cast("F", functools.wraps(function)(decorate(self, function)))
        return super().__call__(function)

    def _recreate_cm(self) -> "Setting":
        """Return a new setting for each call of a decorated function."""
        return Setting(self._variable, self._value)

    def run(self) -> "Stretches":
        """Return the runner of one coroutine or generator in this setting."""
        return Stretches(self._variable, self._value)


class Stretches:
    """Runs a coroutine or generator so that a context variable is set in its body only.

    Parameters
    ----------
    variable : ContextVar
    value : object
        Initial value of the variable; changes by the body are restored whenever it resumes.
    """

    __slots__ = ("_value", "_variable")

    def __init__(self, variable: ContextVar[Any], value: Any):
        self._variable = variable
        self._value = value

    def _step(self, function: Callable[[Any], Any], given: Any) -> Any:
        """Run a body up to its next suspension."""
        token = self._variable.set(self._value)
        try:
            return function(given)
        finally:
            self._value = self._variable.get()
            self._variable.reset(token)

    @types.coroutine
    def carry(self, steps: Steps) -> Generator[Any, Any, Any]:
        """Run steps to their end, and forward yielded, sent and raised values."""
        function, given = steps.send, None
        while True:
            try:
                found = self._step(function, given)
            except StopIteration as stop:
                return stop.value
            try:
                function, given = steps.send, (yield found)
            except GeneratorExit:
                self._step(lambda _: steps.close(), None)
                raise
            except BaseException as error:
                function, given = steps.throw, error


def _coroutine(setting: Setting, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **named: Any) -> Any:
        return await setting.run().carry(function(*args, **named))

    return call


def _generator(setting: Setting, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Generator[Any, Any, Any]:
        return (yield from setting.run().carry(function(*args, **named)))

    return call


def _async_generator(setting: Setting, function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **named: Any) -> AsyncGenerator[Any, Any]:
        body, stretches = function(*args, **named), setting.run()
        step = body.asend(None)
        while True:
            try:
                found = await stretches.carry(step)
            except StopAsyncIteration:
                return
            try:
                step = body.asend((yield found))
            except GeneratorExit:
                await stretches.carry(body.aclose())
                raise
            except BaseException as error:
                step = body.athrow(error)

    return call


_KINDS = (
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.isgeneratorfunction, _generator),
)
