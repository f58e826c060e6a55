"""Serving and calling models over HTTP."""

from labnet.network.client import RemoteModel, all, remote_model, tfetch
from labnet.network.retry import Backoff
from labnet.network.server import Server, serve, serve_model, servers

__all__ = ["Backoff", "RemoteModel", "Server", "all", "remote_model", "serve", "serve_model", "servers", "tfetch"]
