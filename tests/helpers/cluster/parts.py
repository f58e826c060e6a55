"""Find the parts of a cluster and their processes, kill them, break their connections, and wait for them."""

import os
import signal

from tests.helpers.cluster.waits import until


def process_of(cluster, name, number=0):
    """Return the process that serves a part of a model."""
    worker = next(
        r
        for r in cluster.client.sync(cluster.client.scheduler.labnet_models)
        if r["number"] == number and r["name"] == name
    )["worker"]
    return cluster.client.run(os.getpid, workers=[worker])[worker]


def kill(cluster, name, number=0):
    """Kill the process that serves a part of a model."""
    os.kill(process_of(cluster, name, number), signal.SIGKILL)


def part(cluster, name, number=0):
    """Return the row of a part."""
    return next(row for row in cluster.models() if row.name == name and row.part.endswith(str(number or "primary")))


def wait_restarted(cluster, name, times=1, number=0):
    until(lambda: part(cluster, name, number).restarts >= times and part(cluster, name, number).state == "running")


def able(dask_scheduler):
    """Return how many workers can serve."""
    return len(dask_scheduler.plugins["labnet"]._candidates())


def abort(dask_worker):
    """Break the connection of a worker to its scheduler."""
    dask_worker.loop.call_later(0.05, dask_worker.batched_stream.comm.abort)  # this call is answered first
