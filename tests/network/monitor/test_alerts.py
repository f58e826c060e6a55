"""Alerts: each kind begins once, ends when its reason does, and never disturbs the training."""

import pytest

import labnet as ln
from labnet.network.monitor.alerts import Alerts


def kinds(alerts):
    return [alert.kind for alert in alerts.latest]


def test_a_plateau_is_told_once_and_again_after_progress():
    alerts = Alerts()
    alerts.plateau_updates = 10
    for version in range(1, 40):
        alerts.updated(version, loss=1.0, staleness=0, now=0.0)
    assert kinds(alerts) == ["plateau"]
    for version in range(40, 100):
        alerts.updated(version, loss=0.5, staleness=0, now=0.0)
    alerts.updated(100, loss=0.4, staleness=0, now=0.0)
    assert kinds(alerts)[:1] == ["plateau"]
    falling = Alerts()
    falling.plateau_updates = 10
    for version in range(1, 200):
        falling.updated(version, loss=100.0 * 0.9**version, staleness=0, now=0.0)
    assert kinds(falling) == []


def test_silence_begins_after_an_update_and_not_while_paused():
    alerts = Alerts()
    alerts.look(now=1e6)
    assert kinds(alerts) == []
    alerts.updated(1, loss=None, staleness=None, now=0.0)
    alerts.look(now=59.0)
    assert kinds(alerts) == []
    alerts.look(now=61.0)
    alerts.look(now=70.0)
    assert kinds(alerts) == ["silence"]
    alerts.updated(2, loss=None, staleness=None, now=71.0)
    alerts.pause()
    alerts.look(now=1e6)
    assert kinds(alerts) == ["silence"]


def test_stale_gradients_are_told_until_they_are_fresh_again():
    alerts = Alerts()
    for version, staleness in enumerate([0, 40, 50, 2, 33]):
        alerts.updated(version, loss=None, staleness=staleness, now=0.0)
    assert kinds(alerts) == ["staleness", "staleness"]


def test_a_gradient_that_is_not_finite_is_an_alert():
    with ln.network.serve_model(ln.nn.Linear(2, 1), "sgd", port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        with pytest.raises(ln.errors.BadGradient):
            (remote(ln.ones((1, 2))).sum() * float("nan")).backward()
        assert kinds(server.alerts) == ["nan"]
        assert server.statistics()["server"]["version"] == 0


def test_what_is_no_number_is_refused_by_the_server_and_by_the_client():
    with ln.network.serve({"f": lambda: 1}, port=0) as server:
        with pytest.raises(TypeError, match="accuracy must be a number, got 'high'"):
            server.log(accuracy="high")
        for number in range(64):
            server.log(**{f"metric {number}": number})
        with pytest.raises(ValueError, match="at most 64 names"):
            server.log(another=1)
        with pytest.raises(ln.errors.BadRequest, match="at most 64 names"):
            ln.network.remote_model(server.url, blocking=True).log(another=1)


def test_a_handler_logs_through_the_server():
    def seen(x):
        server.log(total=x.sum())
        return x

    with ln.network.serve({"seen": seen}, port=0) as server:
        for value in (1.0, 2.0):
            ln.network.tfetch(server.url + "/seen", ln.ones(2) * value, blocking=True)
        assert server.snapshot()["metrics"]["total"] == {"steps": [1, 2], "values": [2.0, 4.0]}
