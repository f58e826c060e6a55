"""Factories that end or block their worker, or fail: the worker, other models and the reason stay."""

import asyncio
import os
import sys
import time

import pytest

import labnet as ln
from labnet.cluster.directory import Directory
from labnet.cluster.model import ClusterModel
from labnet.errors import RemoteTimeout, ServeError, Unreachable
from labnet.network.client.options import ClientOptions
from tests.helpers.cluster.models import adam, batch, small
from tests.helpers.cluster.parts import able, kill, part
from tests.helpers.cluster.waits import until
from tests.helpers.ports import free_port


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


def test_a_model_that_waits_says_for_what_and_gives_up_in_time(cluster, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("labnet.cluster.handle._TELL_SECONDS", 0.05)
    going_on = tmp_path / "go on"

    def hangs():
        while not going_on.exists():
            time.sleep(0.01)
        return small()

    with pytest.raises(ServeError, match=r"was not served within 3 s: it waits for its factory, which runs on worker"):
        cluster.serve_model(hangs, name="waiting", timeout=3)
    assert "labnet: 'waiting' waits for its factory, which runs on worker tcp://" in capsys.readouterr().out
    assert [row.name for row in cluster.models()] == []
    model = cluster.serve_model(small, adam(), name="waiting", blocking=True)  # while the first factory still runs
    model(batch(0)[0])
    going_on.touch()
    model(batch(0)[0])
    assert part(cluster, "waiting").restarts == 0


def test_an_interrupt_cancels_what_waits(cluster, monkeypatch, tmp_path):
    started = tmp_path / "started"

    def hangs():
        started.touch()
        while True:
            time.sleep(0.01)

    def interrupt(real):
        def call(function, *arguments, **given):
            if function.__name__ != "placing":
                return real(function, *arguments, **given)
            real(lambda: until_started(function))
            raise KeyboardInterrupt

        return call

    async def until_started(function):
        task = asyncio.ensure_future(function())
        while not started.exists():
            await asyncio.sleep(0.01)
        task.cancel()

    monkeypatch.setattr(cluster.client, "sync", interrupt(cluster.client.sync))
    with pytest.raises(KeyboardInterrupt):
        cluster.serve_model(hangs, name="waiting")
    monkeypatch.undo()
    assert len(cluster.models()) == 0


def test_the_model_of_another_client_is_not_replaced_silently_and_its_old_handles_end(cluster):
    model = cluster.serve_model(small, adam(), name="encoder", blocking=True)
    model(batch(0)[0])
    with ln.cluster.connect(cluster.address) as other:
        with pytest.raises(ServeError, match=r"the name belongs to .*pass replace=True"):
            other.serve_model(small, name="encoder")
        model(batch(0)[0])
        taken = other.serve_model(small, name="encoder", replace=True, blocking=True)
        with pytest.raises(Unreachable, match=r"'encoder' was replaced by a model of .*: remote_model\('encoder'\)"):
            model(batch(0)[0])
        taken(batch(0)[0])
        cluster.remote_model("encoder", blocking=True)(batch(0)[0])


def test_a_module_is_served_as_it_is(cluster):
    here = small()
    there = cluster.serve_model(here, adam(), name="encoder", workers=[0, 1], blocking=True)
    x, _ = batch(0)
    assert there(x).tolist() == here(x).tolist()
    assert part(cluster, "encoder").restarts == 0


def test_a_factory_that_needs_arguments_is_refused_with_what_it_needs(cluster):
    with pytest.raises(
        ServeError, match=r"a function without arguments that returns the model.*missing a required argument"
    ):
        cluster.serve_model(ln.nn.Linear, name="encoder")


def failing():
    print("reading the weights")
    raise ValueError("the weights are missing")


def test_the_output_of_a_model_that_could_not_be_served_is_kept(cluster):
    with pytest.raises(ServeError, match="the weights are missing"):
        cluster.serve_model(failing, name="encoder")
    assert "reading the weights" in cluster.logs("encoder")


def test_a_call_of_a_model_that_cannot_be_restarted_says_why(cluster, tmp_path):
    once = tmp_path / "once"

    def fails_at_restart():
        if once.exists():
            raise ValueError("the weights are missing")
        once.touch()
        return small()

    cluster.serve_model(fails_at_restart, name="encoder")
    kill(cluster, "encoder")
    until(lambda: "the weights are missing" in "".join(cluster.logs("encoder")))
    answer = cluster._ask("labnet_resolve", name="encoder")
    gone = {"number": 0, "url": f"http://127.0.0.1:{free_port()}", "token": "t", "incarnation": "of the killed one"}
    directory = Directory("encoder", {**answer, "endpoints": [gone]}, cluster._submit, None)
    model = ClusterModel(directory, ClientOptions(timeout=5.0), blocking=True)
    with pytest.raises((Unreachable, RemoteTimeout), match="the weights are missing"):
        model(batch(0)[0])
