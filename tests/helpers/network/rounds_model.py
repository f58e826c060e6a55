"""A model of held gradients: one remote model twice in one loss, so that both gradients must make one update.

A middle server M has called an inner server I twice and was asked for the backward. Its journal has the two calls, so
it begins anew after a crash; its client asks until it is told. The network and the reductions are those of `protocol`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.helpers.network.protocol_model import Event


class RoundRules(NamedTuple):
    """The rules of rounds; each one can be switched off."""

    calls_of_one_backward_are_held: bool = True
    keys_name_the_edge: bool = True
    holding_again_keeps_the_key: bool = True
    settling_names_the_originals: bool = True
    replies_last_as_long_as_the_hold: bool = True
    dropped_holds_lose_their_graph: bool = True
    stale_backwards_are_given_up: bool = True


class RoundFaults(NamedTuple):
    """How many faults of each kind may still happen: as in `Faults`, and holds of I that are dropped for room."""

    crashes: int = 2
    evictions: int = 1
    dropped: int = 1
    others: int = 1


class Request(NamedTuple):
    """A request: `hold`, `forward`, `give up` or `settle`; the last one names calls."""

    kind: str
    key: str
    call: str = ""
    original: str = ""
    part: int = 0
    calls: tuple[str, ...] = ()


class Answer(NamedTuple):
    """A reply: `output`, `held`, `applied`, `mismatch`, 410 with `yes` or `no`, or `settled` with a state per call."""

    kind: str
    call: str = ""
    output: int = 0
    states: tuple[str, ...] = ()


class Hold(NamedTuple):
    """A gradient that waits for the other one."""

    key: str
    call: str
    original: str
    part: int


class Inner(NamedTuple):
    """The knowledge of the inner server; a crash leaves the journal, which is everything up to `refused`."""

    epoch: int = 0
    updates: tuple[tuple[int, ...], ...] = ()
    outcomes: frozenset[tuple[str, str]] = frozenset()
    used: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()
    holds: frozenset[Hold] = frozenset()
    answers: frozenset[tuple[str, str, Answer]] = frozenset()


class Part(NamedTuple):
    """One of the two calls as the middle server sees it, and its next request; `number` is the order of arrival."""

    call: str
    next: str = "hold"
    renewals: int = 0
    number: int = -1


class RoundState(NamedTuple):
    """A state of `Rounds`."""

    parts: tuple[Part, Part]
    inner: Inner
    sent: frozenset[Request]
    faults: RoundFaults
    told: str = ""


ORIGINALS = ("a", "b")


class Rounds:
    """A middle server has two calls of an inner server in one loss."""

    def __init__(self, rules: RoundRules | None = None, faults: RoundFaults | None = None):
        self._rules = rules or RoundRules()
        self._faults = faults or RoundFaults()
        self._most = self._faults.crashes + self._faults.evictions + self._faults.dropped

    def start(self) -> RoundState:
        """Return the first state: both forwards are made."""
        return RoundState(_anew(), Inner(graphs=frozenset(ORIGINALS)), frozenset(), self._faults)

    def violation(self, state: RoundState) -> str:
        """Return what is wrong in a state."""
        counts = tuple(sum(update.count(part) for update in state.inner.updates) for part in (0, 1))
        if max(counts) > 1:
            return f"a and b are applied {counts} times"
        if state.told == "applied" and counts != (1, 1):
            return f"the client was told that a and b are applied, and they are {counts} times"
        if state.told == "stale" and counts != (0, 0):
            return f"the client was told applied: no, and a and b are applied {counts} times"
        return ""

    def has_ended(self, state: RoundState) -> bool:
        """Return whether the client was told that both are applied, or that none is."""
        return state.told in ("applied", "stale")

    def events(self, state: RoundState) -> Iterator[Event]:
        """Return everything that may happen next."""
        if not state.told:
            for position in self._unsettled(state.parts):
                yield self._deliver(self._numbered(state, position), position)
            if all(part.next == "settle" for part in state.parts):
                yield self._deliver(state, None)
        for request in sorted(state.sent):
            inner, answer = self._serve(state.inner, request)
            if inner != state.inner:
                words = f"late, doubled or without a reply: {_words(request)}; I answers {_reply(answer)} to nobody"
                yield Event(words, state._replace(inner=inner), True)
        yield from self._fail(state)

    # The middle server.

    def _unsettled(self, parts: tuple[Part, Part]) -> list[int]:
        return [position for position, part in enumerate(parts) if part.next != "settle"]

    def _numbered(self, state: RoundState, position: int) -> RoundState:
        """Number a part in the order in which the parts are asked for."""
        if state.parts[position].number >= 0:
            return state
        number = sum(part.number >= 0 for part in state.parts)
        return self._changed(state, position, number=number)

    def _changed(self, state: RoundState, position: int, **changes: Any) -> RoundState:
        parts = list(state.parts)
        parts[position] = parts[position]._replace(**changes)
        return self._in_network(state._replace(parts=(parts[0], parts[1])))

    def _in_network(self, state: RoundState) -> RoundState:
        """Put the requests of the middle server into the network."""
        requests = {self._request(state.parts, position) for position in self._unsettled(state.parts)}
        if not requests:
            requests = {self._request(state.parts, None)}
        return state._replace(sent=state.sent | requests)

    def _request(self, parts: tuple[Part, Part], position: int | None) -> Request:
        if position is None:
            calls = ORIGINALS if self._rules.settling_names_the_originals else tuple(part.call for part in parts)
            return Request("settle", "settle", calls=calls)
        part, original = parts[position], ORIGINALS[position]
        if part.next == "forward":
            return Request("forward", f"{original}>again{part.renewals}", part=position)
        key = f"back {original}" if self._rules.keys_name_the_edge else f"back {part.number}"
        key += f" {part.renewals}" if part.renewals and not self._rules.holding_again_keeps_the_key else ""
        return Request(part.next, key, part.call, original, position)

    def _deliver(self, state: RoundState, position: int | None) -> Event:
        state = self._in_network(state)
        request = self._request(state.parts, position)
        inner, answer = self._serve(state.inner, request)
        after = self._receive(state._replace(inner=inner), position, answer)
        end = f"; M tells its client: {after.told}" if after.told else ""
        return Event(f"M asks I: {_words(request)}; I answers {_reply(answer)}{end}", after)

    def _receive(self, state: RoundState, position: int | None, answer: Answer) -> RoundState:
        if position is None:
            return self._settled(state, answer.states)
        part = state.parts[position]
        if answer.kind in ("held", "applied", "yes"):
            state = self._changed(state, position, next="settle")
            apart = not self._rules.calls_of_one_backward_are_held and not self._unsettled(state.parts)
            return state._replace(told="applied") if apart else state
        if answer.kind == "output":
            return self._compared(state, position, answer)
        if answer.kind == "no" and part.next == "give up":
            return state._replace(told="stale")
        if answer.kind == "no" and part.renewals < self._most:
            return self._changed(state, position, next="forward", renewals=part.renewals + 1)
        return state._replace(told="mismatch" if answer.kind == "mismatch" else "failed")

    def _compared(self, state: RoundState, position: int, answer: Answer) -> RoundState:
        if answer.output == 0:
            return self._changed(state, position, next="hold", call=answer.call)
        if self._rules.stale_backwards_are_given_up:
            return self._changed(state, position, next="give up")
        return state._replace(told="stale")

    def _settled(self, state: RoundState, states: tuple[str, ...]) -> RoundState:
        if set(states) == {"yes"}:
            return state._replace(told="applied")
        for position, told in enumerate(states):
            renewals = state.parts[position].renewals
            if told == "no" and renewals == self._most:
                return state._replace(told="failed")
            if told == "no":
                state = self._changed(state, position, next="forward", renewals=renewals + 1)
        return state

    # The inner server.

    def _serve(self, inner: Inner, request: Request) -> tuple[Inner, Answer]:
        if request.kind == "settle":
            return self._settle(inner, request)
        answer = self._recall(inner, request)
        if answer is not None:
            return inner, answer
        if request.kind == "forward":
            call = f"{request.key}@{inner.epoch}"
            answer = Answer("output", call, len(inner.updates))
            return self._store(inner._replace(graphs=inner.graphs | {call}), request, answer), answer
        if {request.call, request.original} & inner.used:
            return inner, Answer("yes")
        if request.kind == "give up":
            return inner._replace(refused=inner.refused | {request.original}), Answer("no")
        if request.original in inner.refused or request.call not in inner.graphs:
            return inner, Answer("no")
        return self._hold(inner, request)

    def _recall(self, inner: Inner, request: Request) -> Answer | None:
        """Return the stored reply to a request, or that of a gradient which is held."""
        for key, original in inner.outcomes:
            if key == request.key:
                return Answer("applied" if original == request.original else "mismatch")
        if request.kind == "give up":
            return None
        if any(hold.call == request.call for hold in inner.holds):
            return Answer("held")
        holds = {(hold.key, hold.original, Answer("held")) for hold in inner.holds}
        for key, original, answer in inner.answers | holds:
            if key == request.key:
                return answer if original == request.original else Answer("mismatch")
        return None

    @staticmethod
    def _store(inner: Inner, request: Request, answer: Answer) -> Inner:
        return inner._replace(answers=inner.answers | {(request.key, request.original, answer)})

    def _hold(self, inner: Inner, request: Request) -> tuple[Inner, Answer]:
        hold = Hold(request.key, request.call, request.original, request.part)
        inner = inner._replace(graphs=inner.graphs - {request.call})
        if not self._rules.calls_of_one_backward_are_held:
            return self._apply(inner, [hold]), Answer("applied")
        inner = inner._replace(holds=inner.holds | {hold})
        if not self._rules.replies_last_as_long_as_the_hold:
            inner = self._store(inner, request, Answer("held"))
        return inner, Answer("held")

    def _settle(self, inner: Inner, request: Request) -> tuple[Inner, Answer]:
        """Apply the gradients of all named calls if all are held; return the state of each."""
        by_name = {self._name(hold): hold for hold in sorted(inner.holds) if hold.original not in inner.refused}
        if all(call in by_name and call not in inner.used for call in request.calls):
            inner = self._apply(inner, [by_name[call] for call in request.calls])
        states = (("yes" if c in inner.used else "held" if c in by_name else "no") for c in request.calls)
        return inner, Answer("settled", states=tuple(states))

    def _name(self, hold: Hold) -> str:
        return hold.original if self._rules.settling_names_the_originals else hold.call

    @staticmethod
    def _apply(inner: Inner, holds: list[Hold]) -> Inner:
        """Write one update with the outcomes of all, and swap the weights."""
        return inner._replace(
            updates=(*inner.updates, tuple(hold.part for hold in holds)),
            outcomes=inner.outcomes | {(hold.key, hold.original) for hold in holds},
            used=inner.used | {call for hold in holds for call in (hold.call, hold.original)},
            holds=inner.holds - set(holds),
        )

    # Faults.

    def _fail(self, state: RoundState) -> Iterator[Event]:
        inner, faults = state.inner, state.faults
        if faults.crashes:
            less = faults._replace(crashes=faults.crashes - 1)
            journal = Inner(inner.epoch + 1, inner.updates, inner.outcomes, inner.used, inner.refused)
            yield Event("I crashes and restarts", state._replace(inner=journal, faults=less), True)
            if not state.told:
                yield Event("M crashes and restarts", state._replace(parts=_anew(), faults=less), True)
        if faults.evictions:
            less = faults._replace(evictions=faults.evictions - 1)
            for call in sorted(inner.graphs):
                without = inner._replace(graphs=inner.graphs - {call})
                yield Event(f"I drops the graph of {call}", state._replace(inner=without, faults=less), True)
        if faults.dropped and inner.holds:
            less = faults._replace(dropped=faults.dropped - 1)
            graphs = frozenset() if self._rules.dropped_holds_lose_their_graph else {hold.call for hold in inner.holds}
            without = inner._replace(holds=frozenset(), graphs=inner.graphs | graphs)
            yield Event("I drops what it holds", state._replace(inner=without, faults=less), True)
        if faults.others:
            less = faults._replace(others=faults.others - 1)
            trained = inner._replace(updates=(*inner.updates, ()))
            yield Event("another client trains I", state._replace(inner=trained, faults=less), True)


def _anew() -> tuple[Part, Part]:
    """Return the parts as the journal of the middle server has them."""
    return Part(ORIGINALS[0]), Part(ORIGINALS[1])


def _words(request: Request) -> str:
    if request.kind == "settle":
        return f"settle {' and '.join(request.calls)}"
    if request.kind == "forward":
        return f"forward {request.key}"
    renews = f", which renews {request.original}" if request.original != request.call else ""
    return f"{request.kind} {request.key!r} of call {request.call}{renews}"


def _reply(answer: Answer) -> str:
    if answer.kind == "output":
        return f"call {answer.call}, output after {answer.output} updates"
    if answer.kind in ("yes", "no"):
        return f"410, applied: {answer.kind}"
    return " and ".join(answer.states) or answer.kind
