"""The panel of a cluster: its models as a tree, while workers come and go."""

import pytest

import labnet as ln
from labnet.cluster.source import Tree, snapshot_of
from labnet.jupyter.picture import picture
from tests.helpers.cluster.models import adam, batch, small
from tests.helpers.cluster.parts import kill
from tests.helpers.cluster.waits import until


def server(panel, *path):
    """Return what the panel tells of a part of the tree."""
    document = panel.data["branches"]["known"]
    for name in path:
        document = document.get(name, {})
    return document.get("server", {})


def test_the_panel_shows_every_model_with_its_replicas_and_what_becomes_of_them(cluster):
    model = cluster.serve_model(small, adam(), name="encoder", replicas=2, blocking=True)
    cluster.serve_model(small, name="<b>decoder")
    panel = cluster.panel()
    for step in range(3):
        x, y = batch(step)
        ln.loss.mse(model(x), y).backward()
    until(lambda: server(panel, "encoder").get("version") == 3)
    assert server(panel, "encoder", "replica 1")["name"].startswith("on tcp://")
    drawn = picture(panel.data)
    assert "&lt;b&gt;decoder" in drawn
    assert "replica 1" in drawn
    assert panel.data["connect"] == f"cluster = ln.cluster.connect({cluster.client.scheduler.address!r})"
    kill(cluster, "encoder")
    until(lambda: "1 restart" in server(panel, "encoder").get("name", ""))
    panel.close()


def test_a_panel_outlives_its_cluster(running):
    class Gone:
        address = "tcp://10.0.0.1:8786"
        closing = False

        def tree(self):
            raise RuntimeError("the client is closed")

        def __repr__(self):
            return "Cluster(gone)"

    tree = Tree(Gone())
    assert "the client is closed" in tree.snapshot()["unreachable"]
    tree.close()


def test_a_panel_ends_with_what_was_served_when_its_cluster_was_closed(running):
    with ln.cluster.connect(running.client.scheduler.address) as cluster:
        cluster.serve_model(small, name="last")
        panel = cluster.panel()
        assert panel.data["running"]
        rows = len(cluster.models())
    until(lambda: not panel.data["running"])
    assert panel.data["state"] == "closed"
    assert "unreachable" not in panel.data
    drawn = picture(panel.data)
    assert f"of {rows} servers ran" in drawn
    assert "last" in panel.data["branches"]["known"]
    assert "closed" in drawn
    with pytest.raises(ln.errors.Unreachable, match=r"the cluster is closed: ln.cluster.connect"):
        cluster.models()
    panel.close()
    running.stop("last")


def test_a_panel_of_an_own_cluster_ends_with_what_was_served_before_its_servers_were_stopped(monkeypatch):
    with ln.cluster.connect(workers=1) as cluster:
        cluster.serve_model(small, name="last")
        panel = cluster.panel()
        ask = cluster._ask

        def asking(operation, **arguments):
            answer = ask(operation, **arguments)
            if operation == "labnet_stop":
                panel.source.renew()  # the panel asks when nothing is served any more
            return answer

        monkeypatch.setattr(cluster, "_ask", asking)
    until(lambda: not panel.data["running"])
    assert panel.data["state"] == "closed"
    assert panel.data["statistics"]["server"]["name"] == "cluster: 1 of 1 servers ran"
    assert "last" in panel.data["branches"]["known"]
    panel.close()


@pytest.mark.parametrize("state", ["waiting", "starting", "running"])
def test_a_part_without_statistics_is_drawn_too(state):
    row = {
        "name": "mlp",
        "number": 0,
        "state": state,
        "worker": "tcp://a:1",
        "restarts": 0,
        "url": "",
        "trouble": "",
        "statistics": None,
    }
    drawn = picture(snapshot_of("tcp://a:1", [row]))
    assert "mlp" in drawn
    assert "<table" not in drawn  # a cluster has no routes
    row["statistics"] = {"loss": {"steps": [1, 2], "values": [2.0, 1.0]}}
    assert "tcp://a:1<div><div" in picture(snapshot_of("tcp://a:1", [row]))  # curves begin a line of their own
