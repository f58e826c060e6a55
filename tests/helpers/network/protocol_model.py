"""A model of the exactly-once protocol: what clients and servers remember, and every event that may come next.

A state is a tuple of plain values. A model lists the events of a state, says what is wrong in one, and which states
are good ends; `test_protocol` searches them all. `Chain` is a client that trains a middle server, whose model calls an
inner server. `protocol_rounds` and `protocol_contact` have the other two models. `Rules` switches each rule off.

The network keeps every request for ever and delivers it at any time, any number of times: this is loss, delay and
duplication at once, without a bound. Three reductions shorten the search and lose no behaviour:

- A reply arrives when it is given. A lost reply is a request that was delivered late, and a slow reply is a request
  that is delivered again: servers repeat their stored replies, and a refusal that is not stored changes nothing. A
  receiver reacts by sending requests, which may wait in the network.
- A write to a journal is one event with the sending or the swap of weights that follows it. A crash between a write and
  a sending is a request that is never delivered; a crash between a write and a swap leaves the journal only.
- A late forward is delivered to the middle server only while the client waits for it. Afterwards it makes a call whose
  id is never sent to anyone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

#: The step of an update that another client makes.
OTHER = -1


class Rules(NamedTuple):
    """The rules of the protocol for `Chain`; each one can be switched off."""

    renewals_keep_the_key: bool = True
    renewals_use_up_the_original: bool = True
    fingerprints_name_the_original: bool = True
    refusals_are_not_stored: bool = True
    forward_keys_name_the_body: bool = True
    backward_keys_come_from_the_forward: bool = True
    intents_come_before_sending: bool = True
    intents_are_replayed: bool = True
    journals_come_before_replies: bool = True
    attempts_wait_for_each_other: bool = True
    stale_backwards_are_given_up: bool = True


class Faults(NamedTuple):
    """How many faults of each kind may still happen.

    Attributes
    ----------
    crashes : int
        Of either server, each with a restart.
    evictions : int
        Graphs that a server drops.
    timeouts : int
        Attempts that the middle server ends with a failure before it hears from the inner one.
    forgotten : int
        Replies to backwards that the inner server forgets.
    others : int
        Updates by another client, at either server.
    """

    crashes: int = 2
    evictions: int = 1
    timeouts: int = 0
    forgotten: int = 0
    others: int = 0


class Event(NamedTuple):
    """One step from a state to the next; a good run needs no faults."""

    words: str
    state: Any
    is_fault: bool = False


class Forward(NamedTuple):
    """A request for an output."""

    key: str
    body: str


class Backward(NamedTuple):
    """A request to apply a gradient; without a call, it gives up every call that renews the original."""

    key: str
    call: str
    original: str
    step: int


Request = Forward | Backward


class Answer(NamedTuple):
    """A reply: `output`, `applied`, `stale`, `failed`, `mismatch` (422), or 410 with `yes`, `no` or `unknown`."""

    kind: str
    call: str = ""
    output: str = ""


class Graph(NamedTuple):
    """A kept forward; on the middle server also the inner forward in it."""

    call: str
    key: str = ""
    body: str = ""
    inner_call: str = ""
    inner_original: str = ""
    output: str = ""
    renewals: int = 0


class Attempt(NamedTuple):
    """A request that the middle server carries out, and what it asks the inner server for."""

    asks: str
    request: Request
    body: str = ""


class Server(NamedTuple):
    """The knowledge of a server; a crash leaves the journal, which is everything up to `intents`.

    Attributes
    ----------
    outcomes : frozenset of (str, str)
        Keys and fingerprints of the backwards that were applied.
    used, refused : frozenset of str
        Calls whose gradients were applied, and calls that were given up.
    answers : frozenset of (str, str, Answer)
        Keys, fingerprints and replies of other requests.
    unwritten : tuple or None
        The journal on the disk, where updates are answered before they are written.
    """

    epoch: int = 0
    updates: tuple[int, ...] = ()
    outcomes: frozenset[tuple[str, str]] = frozenset()
    used: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    intents: frozenset[Graph] = frozenset()
    graphs: frozenset[Graph] = frozenset()
    answers: frozenset[tuple[str, str, Answer]] = frozenset()
    attempts: frozenset[Attempt] = frozenset()
    unwritten: Any = None


class Step(NamedTuple):
    """What the client knows of a step; `told` is the end of it."""

    call: str = ""
    original: str = ""
    output: str = ""
    renewals: int = 0
    attempts: int = 0
    told: str = ""


class Client(NamedTuple):
    """The client: its place in its program, and its steps."""

    at: int
    renews: bool
    steps: tuple[Step, ...]


class ChainState(NamedTuple):
    """A state of `Chain`; `lie` is a 410 that said something wrong of an update."""

    client: Client
    middle: Server
    inner: Server
    sent_to_middle: frozenset[Request]
    sent_to_inner: frozenset[Request]
    faults: Faults
    lie: str = ""


class Chain:
    """A client C trains a middle server M, whose model calls an inner server I; both have a store.

    Parameters
    ----------
    program : str
        Forwards and backwards of numbered steps, in their order.
    changes_show : bool
        Whether an update changes later outputs; if not, every renewed forward gives the same bytes.
    dropout : bool
        Whether a forward that is computed anew after a crash of M sends another body.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        faults: Faults | None = None,
        *,
        program: str = "F0 B0 F1 B1",
        changes_show: bool = True,
        dropout: bool = False,
    ):
        self._rules = rules or Rules()
        self._faults = faults or Faults()
        #: Renewals of a backward: every one follows a fault.
        self._most = self._faults.crashes + self._faults.evictions + self._faults.timeouts
        self._program = [(word[0], int(word[1:])) for word in program.split()]
        self._changes_show = changes_show
        self._dropout = dropout

    def start(self) -> ChainState:
        """Return the first state."""
        steps = (Step(),) * (1 + max(number for _, number in self._program))
        return ChainState(Client(0, False, steps), Server(), Server(), frozenset(), frozenset(), self._faults)

    def violation(self, state: ChainState) -> str:
        """Return what is wrong in a state."""
        for number, step in enumerate(state.client.steps):
            counts = state.inner.updates.count(number), state.middle.updates.count(number)
            if max(counts) > 1:
                return f"step {number} is applied {counts[0]} times at I and {counts[1]} times at M"
            if step.told in ("applied", "yes") and counts != (1, 1):
                return f"C was told that step {number} is applied, and it is {counts[0]} times at I, {counts[1]} at M"
            if step.told == "stale" and counts != (0, 0):
                return f"C was told applied: no of step {number}, and it is applied {counts[0]} times at I"
        return state.lie

    def has_ended(self, state: ChainState) -> bool:
        """Return whether the client has finished, each step being applied or stale.

        Where the inner server has forgotten a reply, the middle one cannot go on, and a failure is an end too.
        """
        ends = {"applied", "yes", "stale"} | ({"failed"} if self._faults.forgotten else set())
        return state.client.at == len(self._program) and all(step.told in ends for step in state.client.steps)

    def events(self, state: ChainState) -> Iterator[Event]:
        """Return everything that may happen next."""
        live = self._live(state.client)
        if live is not None:
            yield from self._deliver_to_middle(state, live)
        for attempt in sorted(state.middle.attempts):
            yield self._deliver_to_inner(state, attempt)
        if state.inner.unwritten is not None:
            yield Event("I writes its journal", state._replace(inner=state.inner._replace(unwritten=None)))
        yield from self._deliver_late(state, live)
        yield from self._crash(state)
        yield from self._forget(state)
        yield from self._time_out(state)
        yield from self._train_elsewhere(state)

    # The network.

    def _deliver_to_middle(self, state: ChainState, live: Request) -> Iterator[Event]:
        middle, answer = self._serve_middle(state.middle, live)
        client, lie, sent = state.client, state.lie, state.sent_to_middle
        if isinstance(live, Backward):
            sent = sent | {live}
        if answer is not None:
            client = self._receive(client, answer)
            lie = lie or _lie_of("M", answer, live, state.middle.updates + state.inner.updates)
        if (middle, client) != (state.middle, state.client):
            words = f"C asks M: {_words(live)}; M {_reply(answer)}"
            yield Event(words, self._sent(state._replace(client=client, middle=middle, sent_to_middle=sent, lie=lie)))

    def _deliver_to_inner(self, state: ChainState, attempt: Attempt) -> Event:
        request = self._inner_request(state.middle, attempt)
        inner, answer = self._serve_inner(state.inner, request)
        middle = self._go_on(state.middle, attempt, answer)
        lie = state.lie or _lie_of("I", answer, request, state.inner.updates)
        words = f"M asks I for {attempt.request.key}: {_words(request)}; I {_reply(answer)}"
        words += "; M writes and applies its own update" if middle.updates != state.middle.updates else ""
        return Event(words, self._sent(state._replace(middle=middle, inner=inner, lie=lie)))

    def _sent(self, state: ChainState) -> ChainState:
        """Put the requests of the middle server into the network."""
        requests = {self._inner_request(state.middle, attempt) for attempt in state.middle.attempts}
        return state._replace(sent_to_inner=state.sent_to_inner | requests)

    def _deliver_late(self, state: ChainState, live: Request | None) -> Iterator[Event]:
        for request in sorted(state.sent_to_middle | ({live} if live else set())):
            middle, _ = self._serve_middle(state.middle, request)
            if middle != state.middle:
                words = f"late, doubled or without a reply, to M: {_words(request)}"
                yield Event(words, self._sent(state._replace(middle=middle)), True)
        for request in sorted(state.sent_to_inner):
            inner, answer = self._serve_inner(state.inner, request)
            if inner != state.inner:
                words = f"late, doubled or without a reply, to I: {_words(request)}; I {_reply(answer)} to nobody"
                yield Event(words, state._replace(inner=inner), True)

    # Faults of servers.

    def _crash(self, state: ChainState) -> Iterator[Event]:
        if state.faults.crashes:
            less = state.faults._replace(crashes=state.faults.crashes - 1)
            yield Event("M crashes and restarts", state._replace(middle=self._restart(state.middle), faults=less), True)
            yield Event("I crashes and restarts", state._replace(inner=self._restart(state.inner), faults=less), True)

    def _forget(self, state: ChainState) -> Iterator[Event]:
        inner, faults = state.inner, state.faults
        if faults.evictions:
            less = faults._replace(evictions=faults.evictions - 1)
            for graph in sorted(inner.graphs):
                without = inner._replace(graphs=inner.graphs - {graph})
                yield Event(f"I drops the graph of {graph.call}", state._replace(inner=without, faults=less), True)
        if faults.forgotten:
            less = faults._replace(forgotten=faults.forgotten - 1)
            for outcome in sorted(inner.outcomes):
                without = inner._replace(outcomes=inner.outcomes - {outcome})
                yield Event(f"I forgets its reply to {outcome[0]}", state._replace(inner=without, faults=less), True)

    def _time_out(self, state: ChainState) -> Iterator[Event]:
        if state.faults.timeouts:
            less = state.faults._replace(timeouts=state.faults.timeouts - 1)
            for attempt in sorted(state.middle.attempts):
                if isinstance(attempt.request, Backward):
                    middle = self._end(state.middle, attempt, Answer("failed"))
                    words = f"M waits for I no longer, and fails {attempt.request.key}"
                    yield Event(words, state._replace(middle=middle, faults=less), True)

    def _train_elsewhere(self, state: ChainState) -> Iterator[Event]:
        if state.faults.others:
            less = state.faults._replace(others=state.faults.others - 1)
            middle = state.middle._replace(updates=(*state.middle.updates, OTHER))
            inner = state.inner._replace(updates=(*state.inner.updates, OTHER))
            yield Event("another client trains M", state._replace(middle=middle, faults=less), True)
            yield Event("another client trains I", state._replace(inner=inner, faults=less), True)

    def _restart(self, server: Server) -> Server:
        """Return the knowledge of a server after a crash: its journal, and the forwards that it replays."""
        updates, outcomes, used = server.unwritten or (server.updates, server.outcomes, server.used)
        graphs = server.intents if self._rules.intents_are_replayed else frozenset()
        return Server(server.epoch + 1, updates, outcomes, used, server.refused, server.intents, graphs)

    # The ledger and the calls of either server.

    def _fingerprint(self, request: Request) -> str:
        if isinstance(request, Forward):
            return request.body
        return request.original if self._rules.fingerprints_name_the_original else request.call

    def _recall(self, server: Server, request: Request) -> Answer | None:
        """Return the stored reply to a request."""
        fingerprint = self._fingerprint(request)
        for key, other in server.outcomes:
            if key == request.key:
                return Answer("applied" if other == fingerprint else "mismatch")
        for key, other, answer in server.answers:
            if key == request.key:
                return answer if other == fingerprint else Answer("mismatch")
        return None

    def _refusal(self, server: Server, request: Backward) -> Answer | None:
        """Return the 410 to a backward, None if its graph is there to be used."""
        originals = {request.original} if self._rules.renewals_use_up_the_original else set()
        if ({request.call} | originals) & server.used:
            return Answer("yes")
        if request.original in server.refused:
            return Answer("no")
        if any(graph.call == request.call for graph in server.graphs):
            return None
        return Answer("unknown" if any(graph.call == request.call for graph in server.intents) else "no")

    def _refuse(self, server: Server, request: Backward, answer: Answer) -> Server:
        if not request.call and answer.kind == "no":
            return server._replace(refused=server.refused | {request.original})
        return server if self._rules.refusals_are_not_stored else self._store(server, request, answer)

    def _store(self, server: Server, request: Request, answer: Answer) -> Server:
        return server._replace(answers=server.answers | {(request.key, self._fingerprint(request), answer)})

    def _apply(self, server: Server, request: Backward) -> Server:
        """Write an update together with its outcome, and swap the weights."""
        used = {request.call, request.original} if self._rules.renewals_use_up_the_original else {request.call}
        return server._replace(
            updates=(*server.updates, request.step),
            outcomes=server.outcomes | {(request.key, self._fingerprint(request))},
            used=server.used | used,
            intents=frozenset(graph for graph in server.intents if graph.call != request.call),
            graphs=frozenset(graph for graph in server.graphs if graph.call != request.call),
        )

    # The inner server.

    def _serve_inner(self, inner: Server, request: Request) -> tuple[Server, Answer]:
        answer = self._recall(inner, request)
        if answer is not None:
            return inner, answer
        if isinstance(request, Forward):
            call = f"{request.key}@{inner.epoch}"
            answer = Answer("output", call, self._computed(request.body, inner))
            inner = inner._replace(graphs=inner.graphs | {Graph(call)})
            return self._store(inner, request, answer), answer
        answer = self._refusal(inner, request)
        if answer is not None:
            return self._refuse(inner, request, answer), answer
        before = inner.unwritten or (inner.updates, inner.outcomes, inner.used)
        inner = self._apply(inner, request)
        if not self._rules.journals_come_before_replies:
            inner = inner._replace(unwritten=before)
        return inner, Answer("applied")

    def _computed(self, text: str, server: Server) -> str:
        """Return what the weights of a server make of something."""
        return f"{text}:{len(server.updates)}" if self._changes_show else text

    # The middle server.

    def _serve_middle(self, middle: Server, request: Request) -> tuple[Server, Answer | None]:
        """Return the knowledge of the server, and its reply, None while there is none."""
        answer = self._recall(middle, request)
        if answer is not None or any(attempt.request.key == request.key for attempt in middle.attempts):
            return middle, answer
        if isinstance(request, Forward):
            body = self._computed(request.body, middle) + (f"!{middle.epoch}" if self._dropout else "")
            return _begin(middle, Attempt("forward", request, body)), None
        if any(isinstance(a.request, Backward) and a.request.call == request.call for a in middle.attempts):
            return middle, None if self._rules.attempts_wait_for_each_other else Answer("yes")
        answer = self._refusal(middle, request)
        if answer is not None:
            return self._refuse(middle, request, answer), answer
        if self._rules.intents_come_before_sending and all(graph.call != request.call for graph in middle.intents):
            middle = middle._replace(intents=middle.intents | {_graph_of(middle, request.call)})
        return _begin(middle, Attempt("backward", request)), None

    def _inner_request(self, middle: Server, attempt: Attempt) -> Request:
        """Return the request of an attempt to the inner server."""
        rules, request = self._rules, attempt.request
        if isinstance(request, Forward):
            return Forward(f"{request.key}>{attempt.body if rules.forward_keys_name_the_body else ''}", attempt.body)
        graph = _graph_of(middle, request.call)
        if attempt.asks == "renewal":
            return Forward(f"{graph.key}>again{graph.renewals}", graph.body)
        key = f"{graph.key if rules.backward_keys_come_from_the_forward else request.key}>back"
        key += "" if rules.renewals_keep_the_key else str(graph.renewals)
        call = "" if attempt.asks == "end" else graph.inner_call
        return Backward(key, call, graph.inner_original, request.step)

    def _go_on(self, middle: Server, attempt: Attempt, answer: Answer) -> Server:
        """Return the knowledge of the middle server after a reply of the inner one."""
        if answer.kind not in ("output", "applied", "no"):
            return self._end(middle, attempt, Answer("mismatch" if answer.kind == "mismatch" else "failed"))
        if isinstance(attempt.request, Forward):
            return self._keep(middle, attempt, answer)
        graph = _graph_of(middle, attempt.request.call)
        if answer.kind == "applied":
            return self._apply(middle._replace(attempts=middle.attempts - {attempt}), attempt.request)
        if answer.kind == "no":
            return self._renew(middle, attempt, graph)
        if answer.output == graph.output:
            return _begin(_changed(middle, graph, inner_call=answer.call), attempt._replace(asks="backward"), attempt)
        if self._rules.stale_backwards_are_given_up:
            return _begin(middle, attempt._replace(asks="end"), attempt)
        return self._end(middle, attempt, Answer("stale"))

    def _renew(self, middle: Server, attempt: Attempt, graph: Graph) -> Server:
        if attempt.asks == "end":
            return self._end(middle, attempt, Answer("stale"))
        if graph.renewals == self._most:
            return self._end(middle, attempt, Answer("failed"))
        middle = _changed(middle, graph, renewals=graph.renewals + 1)
        return _begin(middle, attempt._replace(asks="renewal"), attempt)

    def _keep(self, middle: Server, attempt: Attempt, answer: Answer) -> Server:
        key = attempt.request.key
        graph = Graph(f"{key}@{middle.epoch}", key, attempt.body, answer.call, answer.call, answer.output)
        middle = middle._replace(graphs=middle.graphs | {graph})
        return self._end(middle, attempt, Answer("output", graph.call, graph.output))

    def _end(self, middle: Server, attempt: Attempt, answer: Answer) -> Server:
        return self._store(middle._replace(attempts=middle.attempts - {attempt}), attempt.request, answer)

    # The client.

    def _live(self, client: Client) -> Request | None:
        """Return the request that the client waits for."""
        if client.at == len(self._program):
            return None
        kind, number = self._program[client.at]
        step = client.steps[number]
        if kind == "F" or client.renews:
            return Forward(f"f{number}.{step.renewals}", str(number))
        key = f"b{number}.{step.attempts}" + ("" if self._rules.renewals_keep_the_key else f".{step.renewals}")
        return Backward(key, step.call, step.original, number)

    def _receive(self, client: Client, answer: Answer) -> Client:
        """Return the client after a reply."""
        kind, number = self._program[client.at]
        step = client.steps[number]
        if answer.kind == "output" and kind == "F":
            return self._move_on(client, Step(answer.call, answer.call, answer.output))
        if answer.kind == "output" and answer.output == step.output:
            return self._try_again(client, step._replace(call=answer.call))
        if answer.kind == "output":
            return self._move_on(client, step._replace(told="stale"))
        if answer.kind == "no" and step.renewals < self._most:
            return self._try_again(client, step._replace(renewals=step.renewals + 1), renews=True)
        if answer.kind == "failed" and step.attempts < self._faults.timeouts:
            return self._try_again(client, step._replace(attempts=step.attempts + 1))
        return self._move_on(client, step._replace(told=answer.kind))

    def _try_again(self, client: Client, step: Step, *, renews: bool = False) -> Client:
        number = self._program[client.at][1]
        steps = (*client.steps[:number], step, *client.steps[number + 1 :])
        return client._replace(steps=steps, renews=renews)

    def _move_on(self, client: Client, step: Step) -> Client:
        """Go on to the next request of a step that has not ended."""
        client, at = self._try_again(client, step), client.at + 1
        while at < len(self._program) and client.steps[self._program[at][1]].told:
            at += 1
        return client._replace(at=at)


def _begin(middle: Server, attempt: Attempt, before: Attempt | None = None) -> Server:
    return middle._replace(attempts=(middle.attempts - {before}) | {attempt})


def _graph_of(middle: Server, call: str) -> Graph:
    return next(graph for graph in middle.graphs if graph.call == call)


def _changed(middle: Server, graph: Graph, **changes: Any) -> Server:
    return middle._replace(graphs=(middle.graphs - {graph}) | {graph._replace(**changes)})


def _lie_of(server: str, answer: Answer, request: Request, updates: tuple[int, ...]) -> str:
    """Return what a 410 says wrong of an update."""
    if isinstance(request, Backward):
        if answer.kind == "no" and request.step in updates:
            return f"{server} says applied: no of step {request.step}, which is applied"
        if answer.kind == "yes" and request.step not in updates:
            return f"{server} says applied: yes of step {request.step}, which is not applied"
    return ""


def _words(request: Request) -> str:
    if isinstance(request, Forward):
        return f"forward {request.key}"
    if not request.call:
        return f"give up backward {request.key} of call {request.original}"
    renews = f", which renews {request.original}" if request.original != request.call else ""
    return f"backward {request.key} of call {request.call}{renews}"


def _reply(answer: Answer | None) -> str:
    if answer is None:
        return "begins"
    if answer.kind == "output":
        return f"answers call {answer.call}, output {answer.output}"
    if answer.kind in ("yes", "no", "unknown"):
        return f"answers 410, applied: {answer.kind}"
    return f"answers {answer.kind}"
