"""Metrics that users log are in the store, whatever ends the process."""

import json
import signal

import pytest

import labnet as ln
from labnet.store import Store, metric_log
from labnet.store.metric_log import FILE, StoredMetrics
from tests.helpers.network.server_process import child
from tests.helpers.network.store_server import batch, make_model, make_optimizer

SERVER = "tests.helpers.network.store_server"


def opened(folder, version=100):
    return StoredMetrics(folder, version, lambda: None)


def curve(metrics, name):
    points = metrics.summary()[name]
    return points["steps"], points["values"]


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_metrics_are_there_after_a_restart(tmp_path, end):
    with child(tmp_path, module=SERVER) as (said, process):
        remote = ln.network.remote_model(said["url"], token=said["token"], blocking=True)
        for number in range(3):
            x, y = batch(number)
            ln.loss.mse(remote(x), y).backward()
            remote.log(accuracy=number / 4, temperature=20.0 if number == 1 else float("nan"))
        if end == "killed":
            process.send_signal(signal.SIGKILL)
    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path) as server:
        assert server.statistics()["server"]["metrics"] == {"accuracy": 0.5, "temperature": 20.0}
        assert server.snapshot()["metrics"]["accuracy"] == {"steps": [1, 2, 3], "values": [0.0, 0.25, 0.5]}
        server.log(accuracy=1.0)
    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path) as server:
        assert server.snapshot()["metrics"]["accuracy"]["values"] == [0.0, 0.25, 0.5, 1.0]
    server.log(accuracy=2.0)  # too late: the store is another server's by now
    assert curve(opened(tmp_path), "accuracy") == ([1, 2, 3, 3], [0.0, 0.25, 0.5, 1.0])


def test_a_cell_that_is_run_again_goes_on_with_its_metrics(tmp_path):
    place = {"port": 0, "name": "kept", "store": tmp_path}
    with ln.network.serve_model(make_model(), make_optimizer(), **place) as server:
        server.log(accuracy=0.5)
        place["port"] = server.port
        again = ln.network.serve_model(make_model(), make_optimizer(), **place)
        again.log(accuracy=0.75)
        assert again.snapshot()["metrics"]["accuracy"]["values"] == [0.5, 0.75]
        plain = ln.network.serve_model(make_model(), make_optimizer(), port=server.port, name="kept")
        assert plain.statistics()["server"]["metrics"] == {}
        plain.stop()


@pytest.mark.parametrize("rest", [b'[3, {"a": 1', b"[3]\n", b'["3", {"a": 1}]\n', b'[9, {"a": 1.0}]\n', b"\xff\n"])
def test_a_line_that_is_torn_or_of_a_lost_update_is_left_out(tmp_path, rest):
    opened(tmp_path).log(2, {"a": 0.5})
    with (tmp_path / FILE).open("ab") as file:
        file.write(rest)
    metrics = opened(tmp_path, version=5)
    assert curve(metrics, "a") == ([2], [0.5])
    metrics.log(3, {"a": 0.75})
    assert curve(opened(tmp_path), "a") == ([2, 3], [0.5, 0.75])


def test_points_of_updates_that_were_in_memory_only_are_lost_with_them(tmp_path):
    Store(tmp_path, make_model(), make_optimizer(), durability="memory").close()
    store = Store(tmp_path, make_model(), make_optimizer(), durability="memory")
    store.metrics.log(0, {"a": 1.0})
    store.metrics.log(7, {"a": 2.0})
    store.abandon()
    assert curve(Store(tmp_path, make_model(), make_optimizer(), durability="memory").metrics, "a") == ([0], [1.0])


def test_a_long_file_is_replaced_by_the_points_of_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_log, "_LONG", 10_000)
    metrics, longest = opened(tmp_path, version=10_000), 0
    for step in range(10_000):
        metrics.log(step, {"a": 1e9 if step == 77 else float(step)})
        longest = max(longest, (tmp_path / FILE).stat().st_size)
    assert longest < 100_000
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]
    steps, values = curve(opened(tmp_path, version=10_000), "a")
    assert (steps[0], steps[-1], values[-1], max(values)) == (0, 9999, 9999.0, 1e9)
    assert steps == sorted(steps)


def test_a_disk_that_fails_is_said_once_and_costs_points_of_the_file_only(tmp_path, caplog):
    (tmp_path / FILE).mkdir()
    metrics = opened(tmp_path)
    for step in range(3):
        metrics.log(step, {"a": 1.0})
    assert curve(metrics, "a") == ([0, 1, 2], [1.0, 1.0, 1.0])
    assert caplog.text.count("metrics cannot be written") == 1
    (tmp_path / FILE).rmdir()
    metrics.log(3, {"a": 2.0})
    assert curve(opened(tmp_path), "a") == ([3], [2.0])


def test_another_folder_in_the_place_of_the_store_gets_no_metrics(tmp_path, caplog):
    folder, other = tmp_path / "store", tmp_path / "moved"
    store = Store(folder, make_model(), make_optimizer())
    store.metrics.log(0, {"a": 1.0})
    folder.rename(other)
    folder.mkdir()
    store.metrics.log(0, {"a": 2.0})
    assert list(folder.iterdir()) == []
    assert "another folder" in caplog.text
    assert json.loads((other / FILE).read_text()) == [0, {"a": 1.0}]
    store.abandon()
