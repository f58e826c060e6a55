"""Factories that end or block their worker, or fail: the worker, other models and the reason stay."""

import os
import sys
import threading
import time

import pytest

import labnet as ln
from labnet.errors import ServeError
from tests.helpers.cluster.models import adam, batch, small
from tests.helpers.cluster.parts import able, part, process_of
from tests.helpers.cluster.waits import until


def exits():
    print("about to leave")
    sys.exit(3)


def parses():
    import argparse

    argparse.ArgumentParser(prog="trainer").parse_args(["--unknown"])


@pytest.mark.parametrize(
    ("factory", "message"),
    [(exits, "in exits: SystemExit: 3: it called sys.exit"), (parses, "SystemExit: 2: it called sys.exit")],
)
def test_a_factory_that_calls_sys_exit_is_an_error_and_its_worker_stays(cluster, factory, message):
    workers = [str(worker) for worker in cluster.client.scheduler_info()["workers"]]
    kept = cluster.serve_model(small, adam(), name="kept", blocking=True)
    kept(batch(0)[0])
    with pytest.raises(ServeError, match=message):
        cluster.serve_model(factory, name="leaving", workers=[part(cluster, "kept").worker])
    kept(batch(0)[0])
    assert sorted(cluster.client.scheduler_info()["workers"]) == sorted(workers)
    assert part(cluster, "kept").restarts == 0


def test_a_factory_that_ends_its_process_is_named_as_that(cluster):
    with pytest.raises(ServeError, match=r"ended or was cut off while it started: the factory called os\._exit"):
        cluster.serve_model(lambda: os._exit(0), name="leaving")
    until(lambda: cluster.client.run_on_scheduler(able) == 3)
