"""Servers that speak https, and clients that expect something else."""

import socket
import ssl
import time

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import ProtocolMismatch, ServeError, Unauthorized, Unreachable
from labnet.network.threads import IO
from labnet.network.transport.client import pool
from tests.helpers.constants import SECONDS
from tests.helpers.network.certificates import self_signed
from tests.helpers.network.raw_http import read_reply

X, Y = ln.ones((4, 2)), ln.zeros((4, 1))
#: Much less than the timeout of a request; a client that gives up only then waits for 60 s.
QUICKLY = SECONDS / 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificates"), name="another")


def serve(certificate, **options):
    return ln.network.serve_model(
        nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, **{"ssl": certificate.files, **options}
    )


def train(remote, steps=5):
    losses = []
    for _ in range(steps):
        loss = ln.loss.mse(remote(X), Y)
        loss.backward()
        losses.append(loss.item())
    return losses


def channels():
    """Return the open channels of the loop of blocking calls."""

    async def found():
        return [link.channel for link in (await pool())._links.values() if link.channel and link.channel.is_open]

    return IO.run(found())


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))]


@pytest.mark.parametrize("host", HOSTS)
def test_a_model_is_trained_over_a_channel_in_tls(certificate, host):
    with serve(certificate, host=host) as server:
        assert server.url == f"https://{'[::1]' if ':' in host else host}:{server.port}"
        remote = ln.network.remote_model(server.url, ssl=certificate.trusted(), blocking=True)
        losses = train(remote)
        assert losses[-1] < losses[0]
        assert server.statistics()["server"]["version"] == 5
        (channel,) = channels()
        assert channel._transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")


def test_large_bodies_pass_through_tls_in_both_directions(certificate):
    x = np.arange(1 << 22, dtype="float32")
    with ln.network.serve({"echo": lambda x: x}, port=0, ssl=certificate.files) as server:
        found = ln.network.tfetch(server.url + "/echo", x, ssl=certificate.trusted(), blocking=True)
    np.testing.assert_array_equal(found.numpy(), x)


def test_localhost_is_found_by_its_name(certificate):
    with serve(certificate) as server:
        remote = ln.network.remote_model(f"https://localhost:{server.port}", ssl=certificate.trusted(), blocking=True)
        train(remote, steps=1)


def test_a_context_can_be_given_in_place_of_files(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*certificate.files)
    with serve(certificate, ssl=context) as server:
        train(ln.network.remote_model(server.url, ssl=certificate.trusted(), blocking=True), steps=1)


def test_a_server_in_tls_needs_its_token(certificate):
    with serve(certificate) as server:
        remote = ln.network.remote_model(server.url, token="wrong", ssl=certificate.trusted(), blocking=True)
        with pytest.raises(Unauthorized, match="the token is wrong"):
            remote(X)


def told(error_class, url, *, words, **options):
    """Check that a call fails quickly with one error that has these words."""
    remote = ln.network.remote_model(url, token="any", blocking=True, **options)
    began = time.monotonic()
    with pytest.raises(error_class) as caught:
        remote(X)
    assert time.monotonic() - began < QUICKLY
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_certificate_of_another_authority_is_one_clear_error(certificate, another):
    with serve(certificate) as server:
        told(Unreachable, server.url, ssl=another.trusted(), words=[server.url, "certificate verify failed"])
        told(Unreachable, server.url, words=[server.url, "certificate verify failed"])


def test_a_certificate_for_another_name_is_one_clear_error(tmp_path):
    elsewhere = self_signed(tmp_path, names="DNS:elsewhere.example")
    with serve(elsewhere) as server:
        told(Unreachable, server.url, ssl=elsewhere.trusted(), words=[server.url, "127.0.0.1", "not valid for"])


def test_https_to_a_plain_server_says_so_quickly(certificate):
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        url = server.url.replace("http", "https")
        told(Unreachable, url, ssl=certificate.trusted(), words=[url, "does the server speak https"])
        assert ln.network.tfetch(server.url + "/health", blocking=True)["status"]


def test_http_to_a_server_in_tls_says_so_quickly(certificate):
    with serve(certificate) as server:
        url = server.url.replace("https", "http")
        told(ProtocolMismatch, url, words=[url, "this server speaks https"])


def test_a_plain_request_leaves_a_server_in_tls_as_it_was(certificate):
    with serve(certificate) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with sock.makefile("rb") as file:
                reply = read_reply(file)
        assert (reply.status, reply.json()["error"]) == (400, "ProtocolMismatch")
        train(ln.network.remote_model(server.url, ssl=certificate.trusted(), blocking=True), steps=1)


def test_the_model_of_a_port_is_replaced_only_with_tls_as_before(certificate):
    with serve(certificate, name="model") as server:
        with pytest.raises(OSError, match="stop that server to change TLS"):
            ln.network.serve_model(nn.Linear(2, 1), port=server.port, name="model")
        with ln.network.serve_model(nn.Linear(2, 1), port=server.port, name="model", ssl=certificate.files) as same:
            assert same.url == server.url


@pytest.mark.parametrize("given", ["server.pem", 1, True, ("server.pem",), ("a", "b", "c"), {"certificate": "a"}])
def test_tls_is_a_context_or_two_files(given):
    with pytest.raises(ServeError, match=r"ssl must be an ssl\.SSLContext, or \(certificate, key\)"):
        ln.network.serve({"hello": lambda: "hi"}, port=0, ssl=given)


def test_files_that_cannot_be_loaded_are_named(certificate, another, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for files in [(tmp_path / "missing.pem", certificate.key), (broken, certificate.key), (1, 2)]:
        with pytest.raises(ServeError, match=r"ssl: certificate .* with key "):
            ln.network.serve({"hello": lambda: "hi"}, port=0, ssl=files)
    with pytest.raises(ServeError, match=r"ssl: certificate .*server\.pem.* with key .*another\.key"):
        ln.network.serve_model(nn.Linear(1, 1), port=0, ssl=(certificate.certificate, another.key))
    assert ln.network.servers() == {}
