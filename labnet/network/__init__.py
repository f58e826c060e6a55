"""Serving and calling models over HTTP."""

from labnet.io import decode, encode
from labnet.network.client.remote_model import RemoteModel, all, remote_model, tfetch
from labnet.network.client.retry import Backoff, backoff
from labnet.network.handle import Server, servers
from labnet.network.monitor.http_logger import HttpLogger
from labnet.network.runner.remote_runner import CommandResult, RemoteRunner, remote_runner
from labnet.network.runner.service import serve_runner
from labnet.network.serve import serve, serve_model

__all__ = [
    "Backoff",
    "CommandResult",
    "HttpLogger",
    "RemoteModel",
    "RemoteRunner",
    "Server",
    "all",
    "backoff",
    "decode",
    "encode",
    "remote_model",
    "remote_runner",
    "serve",
    "serve_model",
    "serve_runner",
    "servers",
    "tfetch",
]
