"""Both transports: the tests that ask for `transport` run over channels, and over plain HTTP."""

import pytest


@pytest.fixture(params=["channel", "http"])
def transport(request, monkeypatch):
    """Carry the calls of this process and of the servers that it starts over one of the transports."""
    monkeypatch.setenv("LABNET_TRANSPORT", request.param)
    return request.param
