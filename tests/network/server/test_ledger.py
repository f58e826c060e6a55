"""What a server remembers of requests by their key: bookkeeping without sockets or clocks."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from labnet.network.protocol.keys import Key
from labnet.network.protocol.outcome import Expired
from labnet.network.server.ledger import Bounds, Forgotten, Ledger, Mismatch


def key(sequence, client="ana"):
    return Key(client, (sequence,))


def answer(ledger, name, reply="reply", *, nbytes=1, now=0.0):
    """Carry out a request that is new."""
    assert ledger.begin(name, "print", now=now) is None
    ledger.finish(name, reply, nbytes=nbytes, now=now)


def test_a_key_that_comes_again_gets_the_same_reply():
    ledger = Ledger()
    answer(ledger, key(1))
    assert ledger.begin(key(1), "print", now=0.0).reply == "reply"
    assert ledger.summary()["replayed"] == 1


def test_a_key_that_comes_while_it_is_carried_out_is_told_so():
    ledger = Ledger()
    ledger.begin(key(1), "print", now=0.0)
    assert ledger.begin(key(1), "print", now=0.0).running
    assert ledger.summary()["joined"] == 1


def test_a_key_with_another_request_is_refused():
    ledger = Ledger()
    ledger.begin(key(1), "print", now=0.0)
    with pytest.raises(Mismatch):
        ledger.begin(key(1), "other", now=0.0)


def test_a_key_older_than_the_window_is_refused():
    ledger = Ledger(Bounds(window=2))
    for sequence in (2, 3, 4):
        answer(ledger, key(sequence))
    for sequence in (1, 2):
        with pytest.raises(Forgotten):
            ledger.begin(key(sequence), "print", now=0.0)


def test_one_client_does_not_push_the_keys_of_another_out_of_its_window():
    ledger = Ledger(Bounds(window=2))
    answer(ledger, key(1, "bea"))
    for sequence in range(10):
        answer(ledger, key(sequence))
    assert ledger.begin(key(1, "bea"), "print", now=0.0).reply == "reply"


def test_a_request_that_was_not_carried_out_may_come_again():
    ledger = Ledger()
    ledger.begin(key(1), "print", now=0.0)
    ledger.forget(key(1))
    assert ledger.begin(key(1), "print", now=0.0) is None


def test_keys_outlive_their_replies_and_say_that_they_were_applied():
    ledger = Ledger(Bounds(nbytes=10))
    answer(ledger, key(1), nbytes=6)
    answer(ledger, key(2), nbytes=6)
    with pytest.raises(Expired) as caught:
        ledger.begin(key(1), "print", now=0.0)
    assert caught.value.applied == "yes"
    assert ledger.nbytes == 6
    assert ledger.summary()["evicted"] == 1


def test_the_newest_reply_is_kept_however_large():
    ledger = Ledger(Bounds(nbytes=10))
    answer(ledger, key(1), nbytes=100)
    assert ledger.begin(key(1), "print", now=0.0).reply == "reply"


def test_replies_that_the_client_has_are_dropped_and_its_keys_remembered():
    ledger = Ledger()
    for sequence in (1, 2, 3):
        answer(ledger, key(sequence), nbytes=5)
    ledger.acknowledge("ana", 3)
    assert ledger.nbytes == 5
    with pytest.raises(Expired):
        ledger.begin(key(2), "print", now=0.0)
    assert ledger.begin(key(3), "print", now=0.0).reply == "reply"


def test_what_is_carried_out_is_never_forgotten():
    ledger = Ledger(Bounds(window=2, count=3, seconds=1.0))
    ledger.begin(key(1), "print", now=0.0)
    for sequence in range(2, 9):
        answer(ledger, key(sequence), now=float(sequence))
    assert ledger.begin(key(1), "print", now=100.0).running
    ledger.finish(key(1), "late", nbytes=1, now=100.0)
    assert ledger.begin(key(1), "print", now=100.0).reply == "late"


def test_an_idle_client_is_forgotten_but_not_its_last_key():
    ledger = Ledger(Bounds(seconds=10.0))
    answer(ledger, key(7), nbytes=5)
    ledger.expire(10.5)
    assert (ledger.summary()["clients"], ledger.nbytes) == (0, 0)
    with pytest.raises(Forgotten):
        ledger.begin(key(7), "print", now=11.0)
    assert ledger.begin(key(8), "print", now=11.0) is None


def test_all_keys_together_are_bounded():
    ledger = Ledger(Bounds(count=10))
    for sequence in range(100):
        answer(ledger, key(sequence % 10, client=f"client {sequence // 10}"))
    assert ledger.summary()["keys"] == 10


@pytest.mark.parametrize("text", ["", '""', "x" * 513])
def test_a_key_must_have_a_sensible_length(text):
    with pytest.raises(ValueError, match="1 to 512"):
        Key.parse(text)


@pytest.mark.parametrize("text", ["a:b", "no-colon", ":5", "a:1.", "a:٣", "a:" + "9" * 30])
def test_a_key_of_another_form_stands_for_itself(text):
    assert Key.parse(text) == Key(text, (0,))


class AgainstANaiveModel(RuleBasedStateMachine):
    """The same operations on plain lists, which know everything and are searched from the start."""

    BOUNDS = Bounds(window=4, count=9, nbytes=20, seconds=10.0)
    keys = st.builds(key, st.integers(0, 12), st.sampled_from(["ana", "bea", "cem"]))

    def __init__(self):
        super().__init__()
        self.real = Ledger(self.BOUNDS)
        self.now = 0.0
        self.known = {}  # key -> [fingerprint, reply or None while it is carried out]
        self.executed = {}  # key -> how often it was carried out to its end

    @rule(name=keys, print_=st.sampled_from(["same", "same", "other"]))
    def begin(self, name, print_):
        try:
            entry = self.real.begin(name, print_, now=self.now)
        except Mismatch:
            assert self.known[name][0] != print_
        except Forgotten:
            assert name not in self.known or self.known[name][1] is not None
        except Expired:
            assert self.known[name][0] == print_
            assert self.known[name][1] is not None
        else:
            if entry is None:
                assert self.executed.get(name, 0) == 0, "carried out twice"
                assert name not in self.known or self.known[name][1] is not None
                self.known[name] = [print_, None]
            else:
                assert self.known[name] == [print_, entry.reply]
                assert entry.running == (entry.reply is None)

    def running(self):
        return [name for name, (_, reply) in self.known.items() if reply is None]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), nbytes=st.integers(0, 30))
    def finish(self, data, nbytes):
        name = data.draw(st.sampled_from(self.running()))
        self.known[name][1] = f"reply to {name}"
        self.executed[name] = self.executed.get(name, 0) + 1
        self.real.finish(name, self.known[name][1], nbytes=nbytes, now=self.now)
        entry = self.real.begin(name, self.known[name][0], now=self.now)
        assert entry.reply == self.known[name][1]

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def forget(self, data):
        name = data.draw(st.sampled_from(self.running()))
        self.real.forget(name)
        del self.known[name]

    @rule(client=st.sampled_from(["ana", "bea"]), below=st.integers(0, 13))
    def acknowledge(self, client, below):
        self.real.acknowledge(client, below)

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now += seconds
        self.real.expire(self.now)

    @invariant()
    def it_stays_within_its_bounds(self):
        running = len(self.running())
        summary = self.real.summary()
        assert summary["keys"] <= self.BOUNDS.count + running
        assert summary["bytes"] <= max(self.BOUNDS.nbytes, 30)


TestAgainstANaiveModel = AgainstANaiveModel.TestCase


def test_a_key_of_a_client_of_which_nothing_is_known_any_more_is_refused():
    ledger = Ledger(Bounds(count=10, clients=10))
    answer(ledger, key(1, client="the first"))
    answer(ledger, Key.parse("a key of its own"))
    for number in range(100):
        answer(ledger, key(1, client=f"client {number}"))
        answer(ledger, Key.parse(f"key {number}"))
    for old in (key(1, client="the first"), key(2, client="the first"), Key.parse("a key of its own")):
        with pytest.raises(Forgotten):
            ledger.begin(old, "print", now=0.0)
    assert ledger.begin(key(1, client="a new one"), "print", now=0.0) is None


def test_many_keys_of_their_own_push_out_no_client():
    ledger = Ledger(Bounds(count=10, clients=10))
    answer(ledger, key(1, client="ana"))
    for number in range(100):
        answer(ledger, Key.parse(f"key {number}"))
    with pytest.raises(Forgotten):
        ledger.begin(key(1, client="ana"), "print", now=0.0)
    assert ledger.begin(key(2, client="ana"), "print", now=0.0) is None
