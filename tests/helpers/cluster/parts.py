"""What hurts a cluster: processes killed, connections broken."""

import os
import signal

from tests.cluster.conftest import until


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
