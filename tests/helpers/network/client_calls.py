"""Calls of labnet's client in one line: blocking, on a loop of their own, or with little time."""

import asyncio
import contextlib

import labnet as ln
from labnet.network.transport.client import pool


def run(coroutine):
    """Run a coroutine on a loop of its own, and close the connections that the client kept there."""

    async def closing():
        try:
            return await coroutine
        finally:
            (await pool()).close()

    return asyncio.run(closing())


def blocking(server, **options):
    return ln.network.remote_model(server.url, blocking=True, **options)


@contextlib.contextmanager
def hurried(model, seconds):
    """Give the requests of a model so little time, for what is to fail; everything else may take as long as it does."""
    before = model._caller._timeout
    model._caller._timeout = seconds
    try:
        yield
    finally:
        model._caller._timeout = before


def fetch(url, *arguments, **options):
    return ln.network.tfetch(url, *arguments, blocking=True, **options)
