"""The thread of the panels: when it calls them, and what the end of a cell waits for."""

import threading

import pytest

from labnet.jupyter import ticker
from labnet.jupyter.ticker import Ticker
from tests.helpers.constants import SECONDS
from tests.helpers.threads import wait_until


class Panel:
    """Counts its calls; `ticked` is set by each tick."""

    def __init__(self):
        self.live = True
        self.ticked, self.ended = threading.Event(), threading.Event()
        self.caught_up = 0

    def tick(self, now):
        self.ticked.set()

    def catch_up(self):
        self.caught_up += 1

    def end(self):
        self.ended.set()


@pytest.fixture
def panel():
    panel = Panel()
    yield panel
    panel.live = False


def test_the_end_of_a_cell_waits_until_all_panels_show_what_has_happened(panel, monkeypatch):
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels, other = Ticker(), Panel()
    panels.add(panel)
    panels.add(other)
    for count in range(1, 4):
        panels.catch_up()
        assert (panel.caught_up, other.caught_up) == (count, count)
    other.live = False
    panels.catch_up()
    assert other.ended.is_set()


def test_panels_move_on_after_any_number_of_short_cells(panel):
    panels = Ticker()
    panels.add(panel)
    for _ in range(300):  # a minute, if each put the next tick off by a turn
        panels.catch_up()
    panel.ticked.clear()
    assert panel.ticked.wait(SECONDS)


def test_a_panel_that_is_held_up_is_waited_for_once(panel, monkeypatch):
    panels, entered, opened = Ticker(), threading.Event(), threading.Event()
    panel.catch_up = lambda: (entered.set(), opened.wait(SECONDS))
    panels.add(panel)
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 0.01)
    panels.catch_up()
    assert entered.wait(SECONDS)
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels.catch_up()  # comes back although nothing has moved
    opened.set()
    panel.ticked.clear()
    assert panel.ticked.wait(SECONDS)
    panel.catch_up = lambda: None
    panels.catch_up()


def test_a_panel_that_is_held_up_after_a_tick_is_waited_for_once(panel, monkeypatch):
    """The tick that was going on when the cell ended answers nobody who waits."""
    panels, ticked, going_on, entered, opened = Ticker(), *(threading.Event() for _ in range(4))
    answered = []
    panel.tick = lambda now: (ticked.set(), going_on.wait(SECONDS))
    panel.catch_up = lambda: (entered.set(), answered.append(opened.wait(SECONDS)))
    panels.add(panel)
    assert ticked.wait(SECONDS)
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 0.01)
    panels.catch_up()
    going_on.set()
    assert entered.wait(SECONDS)
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels.catch_up()  # comes back although nothing has moved
    opened.set()
    wait_until(lambda: answered)
    assert answered[0]


def test_the_next_panel_is_waited_for_when_one_that_was_held_up_has_ended(panel, monkeypatch):
    panels, ticked, going_on, caught_up = Ticker(), *(threading.Event() for _ in range(3))
    panel.tick = lambda now: (ticked.set(), going_on.wait(SECONDS), 1 / 0)
    panels.add(panel)
    thread = panels._thread
    assert ticked.wait(SECONDS)
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 0.01)
    panels.catch_up()
    going_on.set()
    thread.join(SECONDS)
    assert not thread.is_alive()
    following = Panel()
    following.catch_up = caught_up.set
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels.add(following)
    panels.catch_up()
    assert caught_up.is_set()
    following.live = False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_without_a_thread_nobody_waits_and_the_next_panel_starts_one(panel, monkeypatch):
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels, broken = Ticker(), Panel()

    def leave(now):
        raise SystemExit

    broken.tick = leave
    panels.add(broken)
    thread = panels._thread
    thread.join(SECONDS)
    assert not thread.is_alive()
    panels.catch_up()
    broken.live = False
    panels.add(panel)
    assert panel.ticked.wait(SECONDS)


def test_a_panel_that_asks_for_itself_does_not_wait_for_itself(panel, monkeypatch):
    monkeypatch.setattr(ticker, "_CATCH_UP_SECONDS", 300.0)
    panels = Ticker()
    panel.catch_up = panels.catch_up
    panels.add(panel)
    panels.catch_up()
