"""Models are served, found, listed, stopped and restarted by their names."""

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import dask.config
import pytest

import labnet as ln
from labnet.cluster.directory import Directory
from labnet.cluster.model import ClusterModel
from labnet.errors import ServeError, Unreachable
from labnet.network.client.options import ClientOptions
from tests.helpers.cluster.models import adam, batch, bits, fill, small, train_alone
from tests.helpers.cluster.parts import able, kill, part, wait_restarted
from tests.helpers.cluster.waits import SECONDS, until


def train(model, steps, begin=0):
    losses = []
    for step in range(begin, begin + steps):
        x, y = batch(step)
        loss = ln.loss.mse(model(x), y)
        loss.backward()
        losses.append(loss.item())
    return losses


def test_a_model_is_trained_by_name_as_if_it_were_here(cluster):
    model = cluster.serve_model(small, adam(), name="encoder", blocking=True)
    alone = small()
    assert train(model, 5) == train_alone(alone, adam(), 5)
    assert bits(model.state_dict()) == bits(alone.state_dict())


def test_another_client_finds_the_model_by_its_name(cluster):
    cluster.serve_model(small, adam(), name="encoder")
    with ln.cluster.connect(cluster.client.scheduler.address) as other:
        model = other.remote_model("encoder", blocking=True)
        train(model, 2)
        assert model.statistics()["server"]["version"] == 2


def test_a_model_is_awaited_unless_it_blocks(cluster):
    cluster.serve_model(small, adam(), name="encoder")
    model = cluster.remote_model("encoder")
    x, y = batch(0)

    async def step():
        await ln.loss.mse(await model(x), y).backward()
        return (await model.statistics())["server"]["version"]

    assert asyncio.run(step()) == 1


def test_the_table_shows_worker_url_version_hits_latency_and_restarts(cluster):
    model = cluster.serve_model(small, adam(), name="encoder", blocking=True)
    train(model, 3)
    (row,) = cluster.models()
    assert (row.name, row.part, row.state, row.version, row.hits, row.restarts) == (
        "encoder",
        "primary",
        "running",
        3,
        6,
        0,
    )
    assert row.worker in cluster.client.scheduler_info()["workers"]
    assert row.url == model.url
    assert row.p99 > 0
    assert "encoder" in repr(cluster.models())
    html = cluster.models()._repr_html_()
    assert "<table" in html
    assert "restarts" in html
    assert "trouble" not in html  # there is none


def test_models_are_spread_over_the_workers(cluster):
    for name in ("a", "b", "c"):
        cluster.serve_model(small, name=name)
    assert len({row.worker for row in cluster.models()}) == 3


def test_what_a_model_writes_is_in_its_logs_and_in_no_others(cluster):
    def talking():
        print("hello from", os.getpid())

        def model(x):
            print("called with", x.shape)
            return x * 2

        return model

    model = cluster.serve_model(talking, name="talking", blocking=True)
    cluster.serve_model(small, name="silent")
    model(ln.ones((2, 3)))
    text = "\n".join(cluster.logs("talking"))
    assert "hello from" in text
    assert "called with (2, 3)" in text
    assert "called with" not in "\n".join(cluster.logs("silent"))


def test_a_stopped_model_is_gone_for_its_clients_at_once(cluster):
    model = cluster.serve_model(small, name="encoder", blocking=True)
    model(batch(0)[0])
    cluster.stop("encoder")
    assert len(cluster.models()) == 0
    with pytest.raises(Unreachable, match="does not serve 'encoder' any more"):
        model(batch(0)[0])


def test_serving_again_under_a_name_replaces_the_model(cluster):
    model = cluster.serve_model(lambda: lambda x: x * 2, name="encoder", blocking=True)
    assert model(ln.ones(1)).item() == 2
    cluster.serve_model(lambda: lambda x: x * 3, name="encoder")
    assert model(ln.ones(1)).item() == 3
    assert len(cluster.models()) == 1


@pytest.mark.parametrize("ask", ["remote_model", "logs", "stop"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(cluster, ask):
    cluster.serve_model(small, name="encoder")
    with pytest.raises(LookupError, match=r"no model 'decoder': it serves \['encoder'\]"):
        getattr(cluster, ask)("decoder")


def failing():
    raise ValueError("the weights are missing")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factory": failing}, r"in failing: ValueError: the weights are missing"),
        ({"factory": lambda: None}, "the factory returned None"),
        ({"factory": 3}, "expected a function that returns the model, got int 3"),
        ({"name": "a/b"}, "a name is text without '/', got 'a/b'"),
        ({"replicas": 0}, "replicas must be a number from 1 on, got 0"),
        ({"resources": {"GPU": 1}}, r"no worker has the resources \{'GPU': 1.0\}"),
        ({"workers": "ana"}, r"no worker is called \['ana'\]"),
        ({"accumulate": 0}, "accumulate must be a number from 1 on, got 0"),
        ({"durability": "often"}, "durability must be one of"),
    ],
)
def test_what_cannot_be_served_is_a_clear_error_and_leaves_nothing(cluster, given, message):
    with pytest.raises(ServeError, match=message):
        cluster.serve_model(**{"factory": small, "name": "encoder", **given})
    assert len(cluster.models()) == 0


def test_a_model_of_this_process_is_copied_to_its_worker(cluster):
    here = fill(ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 2)))
    model = cluster.serve_model(lambda: here, ln.optim.Adam(lr=0.01), name="encoder", blocking=True)
    assert train(model, 5) == train_alone(here, adam(), 5)
    assert bits(model.state_dict()) == bits(here.state_dict())


def test_a_factory_may_bring_the_optimizer_of_some_parameters(cluster):
    def half():
        model = small()
        return model, ln.optim.SGD(lr=0.1, parameters=[model[0].weight])

    model = cluster.serve_model(half, name="encoder", blocking=True)
    before = bits(model.state_dict())
    train(model, 1)
    after = bits(model.state_dict())
    assert [name for name in before if before[name] != after[name]] == ["0.weight"]
    there = small()
    with pytest.raises(ServeError, match="parameters of this process"):
        cluster.serve_model(small, ln.optim.SGD(parameters=there.parameters()), name="other")


def test_what_cannot_be_sent_to_a_worker_is_a_clear_error_here(cluster):
    import threading

    lock = threading.Lock()
    with pytest.raises(ServeError, match=r"cannot be sent to a worker: TypeError"):
        cluster.serve_model(lambda: lock, name="encoder")
    assert len(cluster.models()) == 0


def test_a_killed_worker_s_model_comes_back_from_its_store_and_training_goes_on_to_the_bit(cluster, tmp_path):
    model = cluster.serve_model(small, adam(), name="encoder", store=tmp_path / "store", blocking=True)
    losses = train(model, 5)
    kill(cluster, "encoder")
    losses += train(model, 5, begin=5)
    alone = small()
    assert losses == train_alone(alone, adam(), 10)
    assert bits(model.state_dict()) == bits(alone.state_dict())
    row = part(cluster, "encoder")
    assert (row.restarts, row.version) == (1, 10)
    assert any("was lost" in line for line in cluster.logs("encoder"))


def test_a_model_waits_for_its_worker_where_no_other_one_is_allowed(cluster):
    worker = next(iter(cluster.client.scheduler_info()["workers"].values()))["name"]
    model = cluster.serve_model(small, name="encoder", workers=str(worker), blocking=True)
    before = model(batch(0)[0]).tolist()
    kill(cluster, "encoder")
    assert model(batch(0)[0]).tolist() == before
    wait_restarted(cluster, "encoder")


def test_a_factory_finds_the_models_of_its_cluster(cluster):
    def composed():
        inner = ln.cluster.connect().remote_model("inner")

        async def model(x):
            return await inner(x) + 1

        return model

    cluster.serve_model(lambda: lambda x: x * 2, name="inner")
    outer = cluster.serve_model(composed, name="outer", blocking=True)
    assert outer(ln.ones(1)).item() == 3


def test_a_cluster_that_is_there_is_used(cluster):
    with ln.cluster.connect(cluster.client) as same:
        same.serve_model(small, name="encoder")
    assert [row.name for row in cluster.models()] == ["encoder"]


def test_without_dask_the_error_says_what_to_install():
    code = """
import sys
sys.modules["distributed"] = None
import labnet as ln
try:
    ln.cluster
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "labnet[dask]"' in result.stdout


def test_importing_labnet_and_its_network_imports_no_dask():
    code = "import sys, labnet as ln; ln.network; print([m for m in ('dask', 'distributed') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_worker_whose_start_takes_long_keeps_its_place_in_a_local_cluster(cluster):
    victim = next(iter(cluster.client.scheduler_info()["workers"]))
    pid = cluster.client.run(os.getpid, workers=[victim])[victim]
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        os.kill(pid, signal.SIGKILL)
        until(lambda: victim not in cluster.client.scheduler_info()["workers"])
        until(lambda: cluster.client.run_on_scheduler(able) == 3)


def test_a_scheduler_that_does_not_answer_holds_up_no_forward(monkeypatch):
    monkeypatch.setattr("labnet.cluster.model._REFRESH_SECONDS", 0.05)
    with ln.network.serve_model(ln.nn.Linear(2, 1), port=0) as server:
        endpoint = {"number": 0, "url": server.url, "token": server.token, "incarnation": "first"}
        found = {"id": "cluster", "replicas": 2, "endpoints": [endpoint]}  # a part is missing, so it is asked for
        directory = Directory("model", found, lambda operation, **given: Future(), None)
        model = ClusterModel(directory, ClientOptions(timeout=SECONDS), blocking=True)
        assert model(ln.ones((1, 2))).shape == (1, 1)


def test_a_question_that_dask_cancels_leaves_what_is_known():
    def cancelled(operation, **given):
        asked = Future()
        asked.cancel()
        return asked

    directory = Directory("model", {"id": "cluster", "replicas": 1, "endpoints": []}, cancelled, None)
    asyncio.run(directory.refresh())
    assert directory.endpoints == []
