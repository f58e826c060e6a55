"""Kills at named moments: traps on the way between servers, and servers with stores that are killed and come back."""

import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import labnet as ln
from tests.helpers.constants import SECONDS
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.fork_server import fork_server
from tests.helpers.ports import free_port

TOKEN = "the token of the servers behind traps"


@dataclass
class Spring:
    """What happens at a moment, and whether it has come."""

    route: bytes
    after: bool
    left: int
    action: object
    sprung: bool = False


class Trap(Proxy):
    """A proxy that does something at named moments, once each, and breaks the connection then."""

    def __init__(self, port, *, latency=0.0):
        self._springs = []
        super().__init__(port, share=0.0, latency=latency)

    def set(self, route, action, *, after=False, number=1):
        """Have the n-th request of a route from now on call `action`, instead of passing on the request or the reply.

        Parameters
        ----------
        after : bool
            Count requests that the server has answered with a success, not those that are about to be passed on. Its
            reply is held until `action` returns, and lost then.
        """
        spring = Spring(route.encode(), after, number, action)
        with self._lock:
            self._springs.append(spring)
        return spring

    def _sprung(self, request, *, after):
        """Count a request; return whether one of the traps was sprung by it."""
        path = request[0].split(b" ", 2)[1]
        if b"labnet-epoch: ?" in request[0].lower():  # it asks for the epoch, and is not carried out
            return False
        due = []
        with self._lock:
            for spring in self._springs:
                if (spring.route, spring.after) == (path, after):
                    spring.left -= 1
                    if spring.left == 0:
                        due.append(spring)
        for spring in due:
            spring.action()
            spring.sprung = True
        return bool(due)

    def _do_none(self, client, request):
        if self._sprung(request, after=False):
            return False
        reply = self._ask(request)
        succeeded = reply[0].split(b" ", 2)[1].startswith(b"2")
        if succeeded and self._sprung(request, after=True):
            return False
        client.sendall(reply.data)
        return True


class PathProxy(Trap):
    """One host in front of several servers, each under a path of its own."""

    def __init__(self, ports):
        self._ports = {name.encode(): port for name, port in ports.items()}
        super().__init__(0)

    def _connect(self, request):
        raise AssertionError("each path leads to a server of its own")

    def _tunnel(self, client, file, upgrade):
        client.sendall(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        return True

    def _ask(self, request):
        method, path, rest = request.head.split(b" ", 2)
        name, _, route = path[1:].partition(b"/")
        head = b" ".join((method, b"/" + route, rest))
        with Proxy(self._ports[name], share=0.0) as onwards:
            return onwards._ask(request._replace(head=head, data=head + request.body))


class Running:
    """A server of `tests.helpers.network.store_server` in a process of its own, at a port that stays; used in ``with``.

    Parameters
    ----------
    model : str
        What is served, as `tests.helpers.network.store_server` takes it.
    """

    def __init__(self, folder, model="", **environment):
        self.folder, self.model, self.port = Path(folder), model, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment, self._starts, self._restarting = environment, 0, None
        self._start()

    def _start(self):
        self._starts += 1
        given = {"SERVER_TOKEN": TOKEN, "SERVER_SEED": str(self._starts), **self._environment}
        self.process = fork_server().start(self.folder, self.port, "group", 0, self.model, **given)
        assert self.process.said, "the server did not start"

    def _kill(self):
        self.process.signal(signal.SIGKILL)

    def _come_back(self):
        self.process.wait()
        self._start()

    def restart(self):
        """Kill it, and wait until it is there again."""
        self._kill()
        self._come_back()

    def settle(self):
        """Wait until it is there again, where it was killed."""
        if self._restarting is not None:
            self._restarting.join(SECONDS)

    def client(self, **options):
        """Return a remote model of it, in a way that does not see what is between."""
        return connect(self.url, **options)

    @property
    def version(self):
        self.settle()
        return self.client().statistics()["server"]["version"]

    @property
    def weights(self):
        """Its weights by name, without the name of the layer that models with other servers have."""
        self.settle()
        return {name.removeprefix("own."): t.numpy() for name, t in self.client().state_dict().items()}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.settle()
        self.process.end()


def connect(url, **options):
    """Return a remote model that blocks, is quick to try again, and gives up before a test does."""
    given = {"backoff": ln.network.Backoff(first=0.01, longest=0.1, attempt=1.0), "timeout": 2 * SECONDS}
    return ln.network.remote_model(url, blocking=True, token=TOKEN, **given | options)


def die(*servers):
    """Kill servers at the same moment, and have them start again side by side."""
    for server in servers:
        server._kill()
    for server in servers:
        server._restarting = threading.Thread(target=server._come_back)
        server._restarting.start()
