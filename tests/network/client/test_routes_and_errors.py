"""Other routes of a remote model, and the callback for its errors."""

import pytest

import labnet as ln
from labnet import nn


def test_a_model_is_called_at_the_routes_that_the_client_names():
    with ln.network.serve({"double": lambda x: x * 2}, port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True, forward="double")
        with ln.no_grad():
            assert remote(ln.ones(2)).tolist() == [2.0, 2.0]
        with pytest.raises(ln.errors.RouteNotFound, match="/optimise"):
            ln.network.remote_model(server.url, blocking=True, forward="/optimise")(ln.ones(2))


def test_errors_are_given_to_the_callback_and_raised():
    seen = []
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True, on_error=seen.append)
        remote(ln.ones((1, 2)))
        assert seen == []
        with pytest.raises(ln.errors.RemoteShapeError) as caught:
            remote(ln.ones((1, 3)))
    assert seen == [caught.value]


@pytest.mark.parametrize("options", [{"forward": ""}, {"backward": 3}, {"forward": "/"}])
def test_a_route_without_a_name_is_refused(options):
    with pytest.raises(ValueError, match="name of a route"):
        ln.network.remote_model("localhost:1", **options)


def test_a_callback_that_is_none_is_refused():
    with pytest.raises(TypeError, match="on_error"):
        ln.network.remote_model("localhost:1", on_error=3)
