"""Training through proxies, each a process of its own: over a channel where one passes it on, else over HTTP."""

import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import ProtocolMismatch, Unauthorized
from labnet.network.threads import IO
from labnet.network.transport.client import pool
from tests.helpers.constants import SECONDS
from tests.helpers.jupyter.jupyterlab import jupyterlab
from tests.helpers.network.certificates import self_signed
from tests.helpers.network.exact_training import QUICK
from tests.helpers.network.proxies import UPGRADING, haproxy, nginx
from tests.helpers.network.store_process import end, expected, reopened, same, start
from tests.helpers.network.store_server import batch
from tests.helpers.ports import free_port
from tests.helpers.threads import wait_until

X, Y = ln.ones((4, 2)), ln.zeros((4, 1))


@pytest.fixture
def server():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        yield server


def remote_at(url, server, **options):
    return ln.network.remote_model(url, token=server.token, blocking=True, **options)


def train(remote, steps=10):
    losses = []
    for _ in range(steps):
        loss = ln.loss.mse(remote(X), Y)
        loss.backward()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def version(server):
    return server.statistics()["server"]["version"]


def has_channel():
    """Return whether the loop of blocking calls has an open channel."""

    async def found():
        return any(link.channel is not None and link.channel.is_open for link in (await pool())._links.values())

    return IO.run(found())


def assert_trains(url, server, *, over_channel):
    train(remote_at(url, server))
    assert version(server) == 10
    assert has_channel() is over_channel


def test_nginx_without_upgrades_is_used_over_http_and_asked_once_for_a_channel(server, tmp_path):
    with nginx(tmp_path / "nginx", server) as proxy:
        assert_trains(proxy.url, server, over_channel=False)
        wait_until(lambda: len(proxy.requests("/optimize")) >= 10)  # nginx notes a request after its reply
        assert [row[2] for row in proxy.requests("/channel")] == ["426"]
        assert len(proxy.requests("/forward")) == len(proxy.requests("/optimize")) == 10
        train(remote_at(proxy.url, server))  # remembered for further models of the process too
        wait_until(lambda: len(proxy.requests("/optimize")) >= 20)
        assert len(proxy.requests("/channel")) == 1


def test_nginx_with_upgrades_passes_the_channel_on(server, tmp_path):
    with nginx(tmp_path / "nginx", server, directives=UPGRADING) as proxy:
        assert_trains(proxy.url, server, over_channel=True)
        assert len(proxy.requests("/forward")) <= 1  # before the channel was open


def test_nginx_may_serve_under_a_prefix(server, tmp_path):
    for name, directives in (("plain", ""), ("upgrading", UPGRADING)):
        with nginx(tmp_path / name, server, directives=directives, prefix="/models/small") as proxy:
            train(remote_at(proxy.url, server))
            assert has_channel() is bool(directives)
            assert {row[1] for row in proxy.requests()} <= {
                f"/models/small/{x}" for x in ("channel", "forward", "optimize")
            }


def test_nginx_may_speak_https_to_the_server(tmp_path):
    certificate = self_signed(tmp_path)
    with (
        ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, ssl=certificate.files) as server,
        nginx(tmp_path / "nginx", server, directives=UPGRADING) as proxy,
    ):
        assert_trains(proxy.url, server, over_channel=True)


def test_large_bodies_pass_through_nginx(tmp_path):
    x = np.arange(1 << 22, dtype="float32")
    with ln.network.serve({"echo": lambda x: x}, port=0) as server:
        for name, directives in (("plain", ""), ("upgrading", UPGRADING)):
            with nginx(tmp_path / name, server, directives=directives) as proxy:
                found = ln.network.tfetch(proxy.url + "/echo", x, token=server.token, blocking=True)
                np.testing.assert_array_equal(found.numpy(), x)
                assert has_channel() is bool(directives)


def test_a_wrong_token_is_refused_through_a_proxy(server, tmp_path):
    for name, directives in (("plain", ""), ("upgrading", UPGRADING)):
        with nginx(tmp_path / name, server, directives=directives) as proxy:
            remote = ln.network.remote_model(proxy.url, token="wrong", blocking=True)
            with pytest.raises(Unauthorized, match="the token is wrong"):
                remote(X)


def test_haproxy_passes_the_channel_on(server, tmp_path):
    with haproxy(tmp_path / "haproxy", server) as proxy:
        assert_trains(proxy.url, server, over_channel=True)


def test_haproxy_that_drops_the_upgrade_is_used_over_http(server, tmp_path):
    drops = "http-request del-header Upgrade\n    http-request set-header Connection keep-alive"
    with haproxy(tmp_path / "haproxy", server, directives=drops) as proxy:
        assert_trains(proxy.url, server, over_channel=False)


def test_a_call_through_a_proxy_that_cuts_a_slow_reply_is_made_once(tmp_path):
    """A proxy gives up after a second with 504; the repetition waits for the reply of the same call."""
    began, release = [], threading.Event()

    def slow(x):
        began.append(1)
        release.wait(SECONDS)
        return x

    with ln.network.serve({"slow": slow}, port=0) as server:
        with nginx(tmp_path / "nginx", server, read_seconds=1) as proxy:

            def let_go_after_the_first_refusal():
                wait_until(lambda: any(row[2] == "504" for row in proxy.requests("/slow")))
                release.set()

            watching = threading.Thread(target=let_go_after_the_first_refusal)
            watching.start()
            found = ln.network.tfetch(proxy.url + "/slow", X, token=server.token, blocking=True)
            watching.join(SECONDS)
        assert found.shape == X.shape
        assert len(began) == 1


@pytest.mark.parametrize("directives", ["", UPGRADING], ids=["http", "channel"])
def test_training_continues_when_the_server_behind_nginx_restarts_and_each_step_counts_once(tmp_path, directives):
    port, folder = free_port(), tmp_path / "store"
    at = SimpleNamespace(url=f"http://127.0.0.1:{port}")
    with nginx(tmp_path / "nginx", at, directives=directives) as proxy:
        remote = ln.network.remote_model(proxy.url, token="secret", blocking=True, backoff=QUICK)

        def steps(begin, end):
            for number in range(begin, end):
                x, y = batch(number)
                ln.loss.mse(remote(x), y).backward()

        process, _ = start(folder, port, "every", SERVER_TOKEN="secret")
        steps(0, 3)
        end(process, signal.SIGKILL)
        training = threading.Thread(target=steps, args=(3, 6))
        training.start()
        wait_until(lambda: any(row[2] == "502" for row in proxy.requests("/forward")))
        process, _ = start(folder, port, "every", SERVER_TOKEN="secret")
        training.join(6 * SECONDS)
        assert not training.is_alive()
        end(process)
    found, store = reopened(folder)
    assert store.version == 6
    assert same(found, expected(6))


def test_a_model_behind_a_jupyter_server_is_trained(server, tmp_path):
    with jupyterlab(tmp_path, application=("jupyter_server",), prefix="/user/ana") as address:
        base, _, rest = address("x").partition("/lab/tree/")
        headers = {"Authorization": f"token {rest.partition('token=')[2].partition('&')[0]}"}
        url = f"{base}/proxy/{server.port}"
        train(remote_at(url, server, headers=headers))
        assert version(server) == 10
        with pytest.raises(ProtocolMismatch, match="status 403 without labnet's error document"):
            remote_at(url, server)(X)  # without the token of Jupyter
