"""A short part of `make chaos`, and that its checker sees what it is there to see."""

import signal

import numpy as np
import pytest

from tests import chaos
from tests.helpers.network import machine_faults
from tests.helpers.network import trainers as clients
from tests.helpers.network.fork_server import ForkServer
from tests.helpers.network.topologies import TOPOLOGIES, without_faults


def test_mixed_faults_lose_and_double_nothing(tmp_path, capsys, transport):
    report = tmp_path / "chaos.json"
    assert chaos.main(["--kinds", "mixed", "--faults", "12", "--seed", "3", "--json", str(report)]) == 0
    assert "seed 3" in capsys.readouterr().out
    assert report.exists()


def test_several_trainers_leave_the_weights_that_the_journal_gives(tmp_path, transport):
    options = ["--kinds", "mixed", "--faults", "10", "--seed", "4", "--trainers", "3", "--durability", "group"]
    assert chaos.main([*options, "--json", str(tmp_path / "chaos.json")]) == 0


@pytest.mark.parametrize("kind", machine_faults.KINDS)
def test_faults_of_the_machine_lose_and_double_nothing(tmp_path, kind):
    if reason := machine_faults.missing(kind):
        pytest.skip(reason)
    for durability in ("group", "every") if kind in machine_faults.TRACED else ("group",):
        events, steps = chaos.schedule([kind], 6, seed=5)
        outcome = chaos.carry_out(events, steps, durability=durability, folder=tmp_path / durability)
        assert outcome.good, outcome
        assert outcome.faults >= 3


@pytest.mark.parametrize("kind", clients.KINDS)
def test_what_a_client_was_answered_is_there_once_however_the_client_ends(tmp_path, kind):
    events, steps = chaos.schedule([kind], 6, seed=7)
    outcome = chaos.carry_out(events, steps, folder=tmp_path)
    assert outcome.good, outcome
    assert outcome.answered + outcome.doubt >= 6
    assert outcome.doubt <= (6 if kind == "client killed" else 0)


@pytest.mark.parametrize("kinds", [("kill",), ("kill two",), chaos.ANYWHERE])
@pytest.mark.parametrize("topology", [name for name, shape in TOPOLOGIES.items() if len(shape.parts) > 1])
def test_faults_of_several_servers_leave_all_of_them_whole(tmp_path, topology, kinds):
    events, steps = chaos.schedule(kinds, 10, seed=6)
    outcome = chaos.carry_out(events, steps, topology=topology, folder=tmp_path)
    assert outcome.good, outcome
    assert outcome.versions == [steps] * len(TOPOLOGIES[topology].parts)


@pytest.mark.parametrize("kinds", [("kill",), chaos.NETWORK])
def test_a_loss_that_uses_one_model_twice_makes_one_update_of_each_step(tmp_path, kinds, transport):
    events, steps = chaos.schedule(kinds, 10, seed=8)
    outcome = chaos.carry_out(events, steps, topology="twice", folder=tmp_path)
    assert outcome.good, outcome


@pytest.mark.parametrize("topology", ["composed", "chain"])
@pytest.mark.parametrize("kinds", [("kill",), ("kill two",), ("cut request", "lose reply", "delay")])
def test_dropout_before_another_server_is_called_loses_and_doubles_no_step(tmp_path, topology, kinds):
    events, steps = chaos.schedule(kinds, 10, seed=9)
    outcome = chaos.carry_out(events, steps, topology=topology, dropout=0.5, folder=tmp_path)
    assert outcome.good, outcome


@pytest.mark.parametrize("topology", ["chain", "replicas"])
def test_links_that_take_their_time_lose_and_double_nothing(tmp_path, topology):
    events, steps = chaos.schedule(("delay", "kill", "duplicate"), 8, seed=10)
    outcome = chaos.carry_out(events, steps, topology=topology, latency=10.0, folder=tmp_path)
    assert outcome.good, outcome


def test_several_trainers_of_replicas_leave_the_weights_that_the_journal_gives(tmp_path):
    events, steps = chaos.schedule(("kill", "kill two", "lose reply"), 10, seed=11)
    outcome = chaos.carry_out(events, steps, topology="replicas", trainers=3, folder=tmp_path)
    assert outcome.good, outcome


def test_servers_without_faults_train_as_one_process_does(tmp_path):
    """The reference is of use only if it depends on what each topology is."""
    found = {name: without_faults(5, shape) for name, shape in TOPOLOGIES.items()}
    assert {name: len(weights) for name, weights in found.items()} == {
        name: len(shape.parts) for name, shape in TOPOLOGIES.items()
    }
    inner, outer = found["composed"]
    assert sorted(outer) == ["own.bias", "own.weight"]
    same = [np.array_equal(inner["0.weight"], found[name][0]["0.weight"]) for name in TOPOLOGIES]
    assert same == [name == "composed" for name in TOPOLOGIES]
    assert all(np.array_equal(one, found["single"][0][name]) for name, one in found["replicas"][2].items())


@pytest.mark.parametrize(("topology", "kind"), [("single", "kill two"), ("replicas", "client killed")])
def test_what_a_topology_cannot_do_is_said_and_left_out(tmp_path, capsys, topology, kind):
    options = ["--topology", topology, "--kinds", kind, "--faults", "1", "--json", str(tmp_path / "chaos.json")]
    assert chaos.main(options) == 0
    assert f"{kind:<16}left out: " in capsys.readouterr().out


def test_the_composed_flag_names_a_topology(tmp_path, capsys):
    options = ["--composed", "--kinds", "refuse", "--faults", "2", "--durability", "group", "--seed", "1"]
    assert chaos.main([*options, "--json", str(tmp_path / "chaos.json")]) == 0
    assert "seed 1, composed" in capsys.readouterr().out


def test_what_a_machine_cannot_do_is_said_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine_faults, "missing", lambda kind: "needs root" if kind == "full disk" else "")
    assert chaos.main(["--kinds", "full disk", "--faults", "1", "--json", str(tmp_path / "chaos.json")]) == 0
    assert "full disk       left out: needs root" in capsys.readouterr().out


def test_a_server_is_forked_again_once_everything_of_the_one_before_is_free(tmp_path):
    with ForkServer(SERVER_TOKEN=chaos.TOKEN) as fork_server:
        pids = set()
        for number in (signal.SIGKILL, signal.SIGTERM, None):
            forked = fork_server.start(tmp_path / "store", 0, "group")
            pids.add(forked.pid)
            if number is None:
                forked.end()
            else:
                forked.signal(number)
                forked.wait()
        assert len(pids) == 3


def test_the_checker_sees_what_is_lost(tmp_path):
    """With "memory" a kill takes the updates since the last checkpoint, and clients are told."""
    outcome = chaos.carry_out([(3, "kill")], 6, durability="memory", folder=tmp_path / "store")
    assert not outcome.good
    assert not outcome.same


def test_a_failing_schedule_is_made_as_short_as_it_can_be():
    events = [(step, "kill" if step == 37 else "stop") for step in range(64)]
    assert chaos.shortened(events, lambda part: (37, "kill") in part) == [(37, "kill")]
    two = chaos.shortened(events, lambda part: {(1, "stop"), (60, "stop")} <= set(part))
    assert two == [(1, "stop"), (60, "stop")]
