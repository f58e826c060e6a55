"""Searches every order of events of the exactly-once protocol: crashes, and messages that are lost, late or doubled."""

import itertools
from typing import Any, NamedTuple

import pytest

from tests.helpers.network.contact_model import ContactRules, FirstContact
from tests.helpers.network.protocol_model import Chain, Faults, Rules
from tests.helpers.network.rounds_model import RoundFaults, RoundRules, Rounds

ONE_STEP = "F0 B0"
#: Both forwards come before both backwards, so that the second gradient may be stale.
PIPELINED = "F0 F1 B0 B1"


class Found(NamedTuple):
    """The result of a search: the number of states, and the shortest way to what is wrong, if something is."""

    states: int
    problem: str = ""
    trace: tuple[str, ...] = ()

    def report(self) -> str:
        """Return the result in words."""
        lines = [f"{number}. {words}" for number, words in enumerate(self.trace, 1)]
        return "\n".join([f"{self.states:,} states: {self.problem or 'nothing is wrong'}", *lines])


class Search:
    """The states of a model, breadth first.

    Attributes
    ----------
    followers : list of list of int
        For every state, where the events lead that are no faults.
    """

    def __init__(self, model: Any):
        self._model = model
        self.states = [model.start()]
        self._number = {self.states[0]: 0}
        self._parents = [0]
        self.followers: list[list[int]] = []

    def run(self) -> Found:
        """Look at every state; return the first that is wrong, or that has no good end."""
        for number, state in enumerate(self.states):  # which grows meanwhile
            problem = self._model.violation(state)
            if problem:
                return self._found(number, problem)
            following = [(self._add(number, event.state), event.is_fault) for event in self._model.events(state)]
            self.followers.append([other for other, is_fault in following if not is_fault])
        return self._wedge() or Found(len(self.states))

    def _add(self, parent: int, state: Any) -> int:
        number = self._number.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self._parents.append(parent)
        return number

    def _wedge(self) -> Found | None:
        """Return the first state without a way to a good end, or else the first that need not come to one."""
        ended = [number for number, state in enumerate(self.states) if self._model.has_ended(state)]
        for problem, good in (
            ("no good end can be reached any more", reaching(ended, self.followers, some=True)),
            ("a run without further faults need not end well", reaching(ended, self.followers, some=False)),
        ):
            if len(good) < len(self.states):
                return self._found(next(n for n in range(len(self.states)) if n not in good), problem)
        return None

    def _found(self, number: int, problem: str) -> Found:
        """Return the way to a state, and how it goes on without faults."""
        path, seen = [number], {number}
        while path[-1]:
            path.append(self._parents[path[-1]])
        path.reverse()
        while len(self.followers) > number and (more := [n for n in self.followers[path[-1]] if n not in seen]):
            path.append(more[0])
            seen.add(more[0])
        steps = itertools.pairwise(path)
        return Found(len(self.states), problem, tuple(self._words(one, other) for one, other in steps))

    def _words(self, one: int, other: int) -> str:
        events = self._model.events(self.states[one])
        return str(next(event.words for event in events if event.state == self.states[other]))


def reaching(ended: list[int], followers: list[list[int]], *, some: bool) -> set[int]:
    """Return the states from which some way, or every way, leads to an end."""
    before: list[list[int]] = [[] for _ in followers]
    for number, following in enumerate(followers):
        for other in following:
            before[other].append(number)
    left = [1 if some else len(following) for following in followers]
    good, todo = set(ended), list(ended)
    while todo:
        for number in before[todo.pop()]:
            left[number] -= 1
            if left[number] <= 0 and number not in good:
                good.add(number)
                todo.append(number)
    return good


SOUND = {
    "two steps": Chain(),
    "two steps, both forwards first": Chain(program=PIPELINED),
    "two steps, updates that do not show": Chain(changes_show=False),
    "two steps, dropout": Chain(dropout=True),
    "one step, another trainer": Chain(faults=Faults(others=1), program=ONE_STEP),
    "one step, a timeout": Chain(faults=Faults(timeouts=1), program=ONE_STEP),
    "one step, a forgotten reply": Chain(faults=Faults(forgotten=1), program=ONE_STEP),
    "one model twice": Rounds(faults=RoundFaults(2, 1, 0, 0)),
    "one model twice, a dropped hold": Rounds(faults=RoundFaults(2, 0, 1, 0)),
    "one model twice, a dropped graph and hold": Rounds(faults=RoundFaults(1, 1, 1, 0)),
    "one model twice, another trainer": Rounds(faults=RoundFaults(2, 0, 0, 1)),
    "one model twice, a dropped hold, another trainer": Rounds(faults=RoundFaults(1, 0, 1, 1)),
    "first contact": FirstContact(),
}

#: Faults that show what a rule is for.
CRASHES = Faults(crashes=2, evictions=0)
BROKEN = {
    "renewals_keep_the_key": Chain(Rules(renewals_keep_the_key=False), CRASHES, program=ONE_STEP),
    "renewals_use_up_the_original": Chain(
        Rules(renewals_use_up_the_original=False), Faults(forgotten=1), program=ONE_STEP
    ),
    "fingerprints_name_the_original": Chain(Rules(fingerprints_name_the_original=False), CRASHES, program=ONE_STEP),
    "refusals_are_not_stored": Chain(
        Rules(refusals_are_not_stored=False), Faults(crashes=1, evictions=0), program=ONE_STEP
    ),
    "forward_keys_name_the_body": Chain(
        Rules(forward_keys_name_the_body=False), CRASHES, program=ONE_STEP, dropout=True
    ),
    "backward_keys_come_from_the_forward": Chain(
        Rules(backward_keys_come_from_the_forward=False), Faults(timeouts=1, evictions=0), program=ONE_STEP
    ),
    "intents_come_before_sending": Chain(Rules(intents_come_before_sending=False), CRASHES, program=ONE_STEP),
    "intents_are_replayed": Chain(Rules(intents_are_replayed=False), CRASHES, program=ONE_STEP),
    "journals_come_before_replies": Chain(Rules(journals_come_before_replies=False), CRASHES, program=ONE_STEP),
    "attempts_wait_for_each_other": Chain(
        Rules(attempts_wait_for_each_other=False), Faults(timeouts=1, evictions=0), program=ONE_STEP
    ),
    "stale_backwards_are_given_up": Chain(Rules(stale_backwards_are_given_up=False), program=ONE_STEP),
    "calls_of_one_backward_are_held": Rounds(RoundRules(calls_of_one_backward_are_held=False), RoundFaults(1, 1, 0, 0)),
    "keys_name_the_edge": Rounds(RoundRules(keys_name_the_edge=False), RoundFaults(1, 0, 0, 0)),
    "replies_last_as_long_as_the_hold": Rounds(
        RoundRules(replies_last_as_long_as_the_hold=False), RoundFaults(1, 0, 1, 0)
    ),
    "rounds: stale_backwards_are_given_up": Rounds(
        RoundRules(stale_backwards_are_given_up=False), RoundFaults(2, 0, 1, 0)
    ),
    "settling_names_the_originals, dropped_holds_lose_their_graph": Rounds(
        RoundRules(settling_names_the_originals=False, dropped_holds_lose_their_graph=False), RoundFaults(1, 0, 1, 0)
    ),
    "settling_names_the_originals, holding_again_keeps_the_key": Rounds(
        RoundRules(settling_names_the_originals=False, holding_again_keeps_the_key=False), RoundFaults(2, 1, 0, 0)
    ),
    **{rule: FirstContact(ContactRules(**{rule: False})) for rule in ContactRules._fields},
}


@pytest.mark.parametrize("name", SOUND)
def test_no_order_of_events_loses_or_doubles_a_gradient_or_blocks_a_client(name):
    found = Search(SOUND[name]).run()
    print(f"{name}: {found.report()}")
    assert not found.problem, found.report()


@pytest.mark.parametrize("name", BROKEN)
def test_without_a_rule_the_search_finds_what_goes_wrong(name):
    found = Search(BROKEN[name]).run()
    print(f"without {name}: {found.report()}")
    assert found.problem
    assert found.trace


def test_every_rule_is_switched_off_somewhere():
    rules = {*Rules._fields, *RoundRules._fields, *ContactRules._fields}
    assert {rule for name in BROKEN for rule in name.removeprefix("rounds: ").split(", ")} == rules
