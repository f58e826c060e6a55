"""Servers as curl sees them."""

import json
import subprocess

import numpy as np

import labnet as ln
from labnet import nn
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.raw_http import JSON


def curl(*arguments):
    done = subprocess.run(["curl", "-s", "-S", *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    return json.loads(done.stdout)


def test_curl_shows_the_statistics_without_a_token():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        blocking(server)(ln.ones((1, 2)))
        found = curl(f"localhost:{server.port}/statistics")
        assert found["forward"]["hits"] == 1
        assert found["forward"]["seconds"] > 0


def test_curl_runs_the_model_with_a_json_body():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server:
        arguments = ["-H", f"X-Labnet-Token: {server.token}", "-H", f"Content-Type: {JSON}", "-d", "[[1.0, 2.0]]"]
        found = curl(*arguments, f"http://127.0.0.1:{server.port}/forward")
    np.testing.assert_allclose(found, model(ln.asarray([[1.0, 2.0]])).numpy(), rtol=1e-6)


def test_curl_without_a_token_is_told_what_is_missing():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        found = curl("-H", f"Content-Type: {JSON}", "-d", "[[1.0, 2.0]]", server.url + "/forward")
    assert found["error"] == "Unauthorized"
    assert "X-Labnet-Token" in found["message"]
