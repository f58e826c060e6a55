"""The graphs that are kept between forward and backward: bookkeeping without sockets or clocks."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from labnet.network.model.calls import CallRecord, Calls, Limits
from labnet.network.protocol.outcome import Expired


def kept(graph="graph", *, nbytes=1, born=0.0):
    return CallRecord(graph, version=0, nbytes=nbytes, born=born)


def applied(calls, call, now=0.0):
    with pytest.raises(Expired) as caught:
        calls.take(call, now=now)
    return caught.value.applied


def test_two_calls_in_flight_keep_their_own_graphs_in_any_order():
    calls = Calls()
    calls.keep("a", kept("graph of a"))
    calls.keep("b", kept("graph of b"))
    assert calls.take("a", now=0.0).graph == "graph of a"
    assert calls.take("b", now=0.0).graph == "graph of b"


def test_a_call_is_used_up_by_its_backward():
    calls = Calls()
    calls.keep("a", kept())
    calls.take("a", now=0.0)
    assert applied(calls, "a") == "yes"


def test_looking_leaves_the_graph_there():
    calls = Calls()
    calls.keep("a", kept())
    calls.look("a", now=0.0)
    assert calls.take("a", now=0.0).graph == "graph"


def test_an_unknown_call_is_told_from_a_dropped_one():
    calls = Calls(Limits(count=1))
    calls.keep("a", kept())
    calls.keep("b", kept())
    assert applied(calls, "a") == "no"
    assert applied(calls, "never seen") == "unknown"


def test_the_oldest_goes_first_when_there_are_too_many():
    calls = Calls(Limits(count=2))
    for call in "abc":
        calls.keep(call, kept())
    assert applied(calls, "a") == "no"
    assert len(calls) == 2
    assert calls.summary() == {"count": 2, "bytes": 2, "evicted": 1}


def test_the_oldest_goes_first_and_looking_does_not_make_it_younger():
    calls = Calls(Limits(count=2))
    calls.keep("a", kept())
    calls.keep("b", kept())
    calls.look("a", now=0.0)
    calls.keep("c", kept())
    assert applied(calls, "a") == "no"
    assert calls.take("b", now=0.0).graph == "graph"


def test_a_graph_given_back_can_be_taken_again():
    calls = Calls()
    calls.keep("a", kept())
    calls.release("a", calls.take("a", now=0.0))
    assert calls.take("a", now=0.0).graph == "graph"
    assert applied(calls, "a") == "yes"


def test_a_graph_given_back_in_doubt_is_not_said_to_be_unused_once_it_is_dropped():
    calls = Calls(Limits(count=1))
    calls.keep("a", kept())
    calls.release("a", calls.take("a", now=0.0), in_doubt=True)
    calls.keep("b", kept())
    assert applied(calls, "a") == "unknown"


def test_a_graph_that_is_discarded_was_not_used():
    calls = Calls()
    calls.keep("a", kept())
    calls.discard("a")
    calls.discard("a")
    assert applied(calls, "a") == "no"


def test_bytes_are_bounded():
    calls = Calls(Limits(nbytes=10))
    for call in "abc":
        calls.keep(call, kept(nbytes=4))
    assert applied(calls, "a") == "no"
    assert calls.nbytes == 8


def test_a_graph_over_the_bound_on_bytes_is_kept_alone():
    calls = Calls(Limits(nbytes=10))
    calls.keep("small", kept(nbytes=1))
    calls.keep("big", kept(nbytes=100))
    assert applied(calls, "small") == "no"
    assert calls.take("big", now=0.0).nbytes == 100
    assert calls.nbytes == 0


@pytest.mark.parametrize("later", ["expire", "look", "keep"])
def test_age_is_bounded_whatever_is_asked(later):
    calls = Calls(Limits(seconds=10))
    calls.keep("a", kept(born=0.0))
    if later == "expire":
        calls.expire(10.5)
    elif later == "look":
        with pytest.raises(Expired):
            calls.look("other", now=10.5)
    else:
        calls.keep("b", kept(born=10.5))
    assert applied(calls, "a", now=10.5) == "no"


def test_a_graph_of_just_the_greatest_age_is_still_there():
    calls = Calls(Limits(seconds=10))
    calls.keep("a", kept(born=0.0))
    assert calls.take("a", now=10.0).graph == "graph"


def test_used_calls_are_remembered_longer_than_their_graphs_but_not_forever():
    calls = Calls(Limits(remembered=2))
    for call in "abc":
        calls.keep(call, kept())
        calls.take(call, now=0.0)
    assert [applied(calls, call) for call in "abc"] == ["unknown", "yes", "yes"]


def test_clearing_drops_every_graph_and_remembers_that_none_was_applied():
    calls = Calls()
    calls.keep("a", kept(nbytes=5))
    calls.clear()
    assert (len(calls), calls.nbytes) == (0, 0)
    assert applied(calls, "a") == "no"


def test_a_dropped_graph_is_not_referred_to_any_more():
    import weakref

    class Graph:
        pass

    graph = Graph()
    gone = weakref.ref(graph)
    calls = Calls()
    calls.keep("a", kept(graph))
    calls.take("a", now=0.0)
    del graph
    assert gone() is None


class AgainstANaiveList(RuleBasedStateMachine):
    """The same operations on a plain list of what is kept, searched from the start every time."""

    LIMITS = Limits(count=4, nbytes=20, seconds=10.0, remembered=6)
    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.real = Calls(self.LIMITS)
        self.kept = []
        self.gone = []
        self.now = 0.0
        self.serial = 0

    def drop(self, item, applied):
        self.kept.remove(item)
        self.gone = [*self.gone, (item[0], applied)][-self.LIMITS.remembered :]

    def drop_old(self):
        for item in list(self.kept):
            if self.now - item[2] > self.LIMITS.seconds:
                self.drop(item, "no")

    @rule(target=calls, nbytes=st.integers(0, 30))
    def keep(self, nbytes):
        self.serial += 1
        call = f"call {self.serial}"
        self.real.keep(call, kept(call, nbytes=nbytes, born=self.now))
        self.kept.append((call, nbytes, self.now))
        self.drop_old()
        while len(self.kept) > self.LIMITS.count or (
            len(self.kept) > 1 and sum(n for _, n, _ in self.kept) > self.LIMITS.nbytes
        ):
            self.drop(self.kept[0], "no")
        return call

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now += seconds

    @rule(call=calls)
    def take(self, call):
        self.drop_old()
        found = [item for item in self.kept if item[0] == call]
        if found:
            assert self.real.take(call, now=self.now).graph == call
            self.drop(found[0], "yes")
        else:
            assert applied(self.real, call, self.now) == dict(self.gone).get(call, "unknown")

    @rule(call=consumes(calls))
    def take_for_the_last_time(self, call):
        self.take(call)

    @rule()
    def clear(self):
        self.real.clear()
        for item in list(self.kept):
            self.drop(item, "no")

    @invariant()
    def the_figures_are_true(self):
        self.drop_old()
        self.real.expire(self.now)
        assert len(self.real) == len(self.kept) <= self.LIMITS.count
        assert self.real.nbytes == sum(n for _, n, _ in self.kept)


TestAgainstANaiveList = AgainstANaiveList.TestCase
