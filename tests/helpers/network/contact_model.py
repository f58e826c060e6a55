"""A model of a route with an effect on a server without a store, which forgets everything in a crash.

One client makes two requests, one after the other. The first is its first contact with the server. The network and the
reductions are those of `protocol`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tests.helpers.network.protocol_model import Event


class ContactRules(NamedTuple):
    """The rules of first contact; each one can be switched off."""

    epoch_is_asked_for: bool = True
    first_attempts_name_the_epoch: bool = True
    retries_name_the_same_epoch: bool = True


class Request(NamedTuple):
    """A request by its number, and the epoch that it names: `?` asks for it, an empty one is not named."""

    number: int
    epoch: str


class Client(NamedTuple):
    """The client: its last request, the epoch that it heard last, and what its requests were told."""

    request: Request | None
    heard: str
    tries: int = 0
    pinned: str = ""
    told: tuple[str, ...] = ()


class ContactState(NamedTuple):
    """A state of `FirstContact`; `done` are the requests in the ledger, `effects` those that took effect."""

    client: Client
    epoch: int
    done: frozenset[int]
    effects: tuple[int, ...]
    sent: frozenset[Request]
    crashes: int


REQUESTS = 2


class FirstContact:
    """A client asks a server without a store for two effects."""

    def __init__(self, rules: ContactRules | None = None, crashes: int = 2):
        self._rules = rules or ContactRules()
        self._crashes = crashes

    def start(self) -> ContactState:
        """Return the first state."""
        client = self._next(Client(None, ""))
        return ContactState(client, 0, frozenset(), (), _in_network(frozenset(), client), self._crashes)

    def violation(self, state: ContactState) -> str:
        """Return what is wrong in a state."""
        for number in range(REQUESTS):
            count = state.effects.count(number)
            if count > 1:
                return f"request {number} took effect {count} times"
            if state.client.told[number : number + 1] == ("done",) and count != 1:
                return f"request {number} was answered, and took effect {count} times"
        return ""

    def has_ended(self, state: ContactState) -> bool:
        """Return whether the client was told of both requests."""
        return state.client.request is None

    def events(self, state: ContactState) -> Iterator[Event]:
        """Return everything that may happen next."""
        client, epoch = state.client, f"e{state.epoch}"
        if client.request is not None:
            served, answer = self._serve(state, client.request)
            words = f"C asks: {_words(client.request)}; S answers {answer}"
            yield self._changed(words, served, self._receive(client, answer, epoch))
            if client.tries == 0:
                yield self._changed("C has no reply, and tries again", state, self._again(client), is_fault=True)
            if client.heard != epoch:
                words = f"C hears of epoch {epoch} in the reply to something else"
                yield self._changed(words, state, client._replace(heard=epoch), is_fault=True)
        for request in sorted(state.sent):
            served, answer = self._serve(state, request)
            if served != state:
                yield Event(f"late or without a reply: {_words(request)}; S answers {answer} to nobody", served, True)
        if state.crashes:
            less = state._replace(epoch=state.epoch + 1, done=frozenset(), crashes=state.crashes - 1)
            yield Event("S crashes and restarts", less, True)

    @staticmethod
    def _changed(words: str, state: ContactState, client: Client, *, is_fault: bool = False) -> Event:
        return Event(words, state._replace(client=client, sent=_in_network(state.sent, client)), is_fault)

    @staticmethod
    def _serve(state: ContactState, request: Request) -> tuple[ContactState, str]:
        if request.number in state.done:
            return state, "done"
        if request.epoch == "?":
            return state, "428"
        if request.epoch not in ("", f"e{state.epoch}"):
            return state, "409, applied: unknown"
        done, effects = state.done | {request.number}, tuple(sorted((*state.effects, request.number)))
        return state._replace(done=done, effects=effects), "done"

    def _next(self, client: Client) -> Client:
        """Return the client with its next request."""
        number = len(client.told)
        if number == REQUESTS:
            return client._replace(request=None)
        epoch = client.heard if self._rules.first_attempts_name_the_epoch else ""
        if not client.heard and self._rules.epoch_is_asked_for:
            epoch = "?"
        return client._replace(request=Request(number, epoch), tries=0, pinned=client.heard)

    def _again(self, client: Client) -> Client:
        """Return the client with its request for the second time, in doubt of the first."""
        assert client.request is not None
        epoch = client.pinned if self._rules.retries_name_the_same_epoch else client.heard
        if client.request.epoch == "?":
            epoch = "?"
        return client._replace(request=client.request._replace(epoch=epoch), tries=1)

    def _receive(self, client: Client, answer: str, epoch: str) -> Client:
        """Return the client after a reply, which names the epoch of the server."""
        client = client._replace(heard=epoch)
        if answer == "428" and client.request is not None:
            return client._replace(request=client.request._replace(epoch=epoch), pinned=epoch, tries=0)
        return self._next(client._replace(told=(*client.told, answer)))


def _in_network(sent: frozenset[Request], client: Client) -> frozenset[Request]:
    return sent if client.request is None else sent | {client.request}


def _words(request: Request) -> str:
    return f"request {request.number}" + (f" with epoch {request.epoch}" if request.epoch else "")
