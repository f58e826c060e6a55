"""Who may find and reach the models of a cluster, and what nobody gets to see."""

import logging
import shutil
import ssl
import subprocess
import time

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

import labnet as ln
from labnet.cluster.registry import address_of
from labnet.errors import ProtocolMismatch, Unauthorized, Unreachable
from tests.helpers.cluster.models import adam, batch, small
from tests.helpers.cluster.parts import able, kill, wait_restarted
from tests.helpers.cluster.waits import SECONDS, until


def tokens(cluster, name):
    """Return the tokens of a model, as the scheduler tells them to clients."""
    found = cluster.client.sync(cluster.client.scheduler.labnet_resolve, name=name)
    return [endpoint["token"] for endpoint in found["endpoints"]]


def test_a_token_is_in_no_table_log_repr_or_information_of_the_cluster(cluster, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    model = cluster.serve_model(small, adam(), name="encoder", replicas=2, blocking=True)
    found = tokens(cluster, "encoder")
    kill(cluster, "encoder")
    ln.loss.mse(model(batch(0)[0]), batch(0)[1]).backward()
    wait_restarted(cluster, "encoder")
    found += tokens(cluster, "encoder")
    shown = [
        repr(cluster.models()),
        cluster.models()._repr_html_(),
        *cluster.logs("encoder"),
        repr(model),
        repr(cluster),
        str(cluster.client.scheduler_info()),
        str(cluster.client.get_worker_logs()),
        str(model.statistics()),
        str(cluster.client.get_scheduler_logs()),
        str(cluster.client.get_events()),
        repr(vars(model._directory)),
        *(record.getMessage() for record in caplog.records),
        *capfd.readouterr(),
    ]
    assert len(set(found)) >= 3
    assert not [text for text in shown for token in found if token in text]


def test_a_server_of_the_cluster_needs_its_token(cluster):
    model = cluster.serve_model(small, adam(), name="encoder")
    stranger = ln.network.remote_model(model.url, token="a guess", blocking=True)
    with pytest.raises(Unauthorized):
        stranger(batch(0)[0])


def test_a_worker_that_the_cluster_does_not_have_is_given_nothing(cluster):
    scheduler = cluster.client.scheduler
    assert cluster.client.sync(scheduler.labnet_ready, worker="tcp://192.0.2.1:4000") is False
    cluster.serve_model(small, name="encoder")
    assert "192.0.2.1" not in repr(cluster.models())


@pytest.mark.parametrize(
    "given", [{"url": "http://192.0.2.1:80"}, {"endpoints": []}, {"address": "192.0.2.1"}, {"token": "mine"}]
)
def test_no_client_can_give_an_address_or_a_token_to_a_name(cluster, given):
    with pytest.raises(TypeError, match=next(iter(given))):
        cluster.client.sync(
            cluster.client.scheduler.labnet_serve,
            name="encoder",
            program=b"",
            replicas=1,
            resources={},
            store=None,
            options={},
            workers=[],
            **given,
        )
    assert len(cluster.models()) == 0


@pytest.mark.parametrize("port", [0, -1, 1 << 16, "80@evil.example", "80", 80.0, True, None])
def test_a_worker_s_answer_can_name_no_other_host(port):
    with pytest.raises(ValueError, match="a port is a number from 1 to 65535"):
        address_of("tcp://10.0.0.7:4000", {"port": port, "host": "evil.example", "url": "http://evil.example"})
    assert address_of("tcp://10.0.0.7:4000", {"port": 80, "host": "evil.example"}) == "http://10.0.0.7:80"


def test_another_server_at_the_port_of_a_dead_one_gets_no_request_carried_out(cluster):
    """A client that finds somebody else there asks the scheduler anew: the token is another one."""
    worker = next(iter(cluster.client.scheduler_info()["workers"].values()))["name"]
    model = cluster.serve_model(small, adam(), name="encoder", workers=str(worker), blocking=True)
    port = int(model.url.rpartition(":")[2])
    kill(cluster, "encoder")
    calls = []
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            impostor = ln.network.serve({"forward": lambda x: calls.append(x)}, port=port)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with impostor:
        assert model(batch(0)[0]).shape == (1, 2)
    assert calls == []


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """Give a cluster whose connections are encrypted, with certificates for this test only."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates of this test, is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=labnet"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    roles = {
        f"tls_{role}_{what}": path
        for role in ("client", "scheduler", "worker")
        for what, path in (("key", key), ("cert", certificate))
    }
    security = Security(tls_ca_file=certificate, require_encryption=True, **roles)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, security=security, protocol="tls://", dashboard_address=":0"
    ) as dask:
        yield dask, security


def test_servers_speak_tls_where_the_cluster_does(encrypted):
    dask, security = encrypted
    with Client(dask, security=security, set_as_default=False) as client, ln.cluster.connect(client) as cluster:
        until(lambda: cluster.client.run_on_scheduler(able) == 2)
        model = cluster.serve_model(small, adam(), name="encoder", replicas=2, blocking=True)
        for step in range(5):
            x, y = batch(step)
            ln.loss.mse(model(x), y).backward()
        assert [row.url.partition(":")[0] for row in cluster.models()] == ["https", "https"]
        assert cluster.models()[0].version == 5
        plain = ln.network.remote_model(model.url.replace("https", "http"), token="any", blocking=True, timeout=10)
        with pytest.raises(ProtocolMismatch, match="speaks https"):
            plain(batch(0)[0])
        anybody = ssl.create_default_context()
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        stranger = ln.network.remote_model(model.url, token="any", ssl=anybody, blocking=True, timeout=10)
        with pytest.raises(Unreachable):  # it has no certificate of the cluster
            stranger(batch(0)[0])
        kill(cluster, "encoder")
        x, y = batch(5)
        assert model(x).shape == (1, 2)
