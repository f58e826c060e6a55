"""The primary of a model with replicas, or one of its replicas, in a process of its own.

``python -m tests.helpers.network.replica_server FOLDER PORT DURABILITY [PRIMARY]``; a replica has the URL of its
primary, and no store. `Listing` is what a client asks where they are, in place of the scheduler of a cluster. From the
environment: SERVER_HOST, SERVER_TOKEN and SERVER_LONG, as for `tests.helpers.network.store_server`.
"""

import json
import os
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import labnet as ln
from labnet.cluster.directory import Directory
from labnet.cluster.model import ClusterModel
from labnet.errors import Unreachable
from labnet.network.client.options import ClientOptions
from labnet.network.client.session import Caller
from labnet.network.model.staleness import Policy
from labnet.network.replication.messages import new_lineage
from labnet.network.replication.primary import Primary
from labnet.network.replication.replica import Replica
from labnet.network.serve import Given, Place, serve_part
from labnet.network.transport.address import Address
from tests.helpers.network.store_server import QUICK, fail_when_told, limit_journal, make_model, make_optimizer

#: Seconds in which a primary that was killed together with a replica is back.
_BACK_SECONDS = 60.0


class Listing:
    """Where the parts of a model are.

    Parameters
    ----------
    parts : callable
        Returns the parts that are served at present, the primary first: number, URL, token and incarnation of each.
    """

    def __init__(self, parts, count):
        self._parts, self._count = parts, count

    def ask(self, operation, **arguments):
        """Answer as a scheduler does."""
        answer = Future()
        answer.set_result(self._found())
        return answer

    def _found(self):
        names = ("number", "url", "token", "incarnation")
        endpoints = [dict(zip(names, part, strict=True)) for part in self._parts()]
        return {"id": "chaos", "replicas": self._count, "endpoints": endpoints}

    def client(self, **options):
        """Return a remote model whose forwards go to whichever part is least busy."""
        directory = Directory("model", self._found(), self.ask, None)
        return ClusterModel(directory, ClientOptions(**options), blocking=False)


def epoch_of(url, token):
    """Return the incarnation of a server that may just be starting."""
    until = time.monotonic() + _BACK_SECONDS
    while True:
        server = ln.network.remote_model(url, token=token, blocking=True, backoff=QUICK)
        try:
            return server.statistics()["server"]["epoch"]
        except Unreachable:
            if time.monotonic() > until:
                raise


def main(folder, port="0", durability="group", primary=""):
    fail_when_told()
    limit_journal()
    token, host = os.environ.get("SERVER_TOKEN", "auto"), os.environ.get("SERVER_HOST", "127.0.0.1")
    place = Place(int(port), host, "replicated", token)
    if primary:
        caller = Caller(Address.parse(primary), ClientOptions(timeout=60.0, token=token, backoff=QUICK))
        role, given = Replica(caller, epoch_of(primary, token)), Given(make_model(), None, {}, Policy())
    else:
        role = Primary(new_lineage())
        given = Given(make_model(), make_optimizer(), {}, Policy(), Path(folder), durability)
    server = serve_part(given, place, role)
    state = server.statistics()["server"]
    said = {"url": server.url, "port": server.port, "version": state["version"], "incarnation": state["epoch"]}
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
