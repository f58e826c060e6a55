"""A short part of `make chaos`, and that its checker sees what it is there to see."""

from tests import chaos


def test_mixed_faults_lose_and_double_nothing(tmp_path, capsys):
    report = tmp_path / "chaos.json"
    assert chaos.main(["--kinds", "mixed", "--faults", "12", "--seed", "3", "--json", str(report)]) == 0
    assert "seed 3" in capsys.readouterr().out
    assert report.exists()


def test_several_trainers_leave_the_weights_that_the_journal_gives(tmp_path):
    options = ["--kinds", "mixed", "--faults", "10", "--seed", "4", "--trainers", "3", "--durability", "group"]
    assert chaos.main([*options, "--json", str(tmp_path / "chaos.json")]) == 0


def test_the_checker_sees_what_is_lost(tmp_path):
    """With "memory" a kill takes the updates since the last checkpoint, and clients are told."""
    outcome = chaos.carry_out([(3, "kill")], 6, durability="memory", trainers=1, folder=tmp_path / "store")
    assert not outcome.good
    assert not outcome.same


def test_a_failing_schedule_is_made_as_short_as_it_can_be():
    events = [(step, "kill" if step == 37 else "stop") for step in range(64)]
    assert chaos.shortened(events, lambda part: (37, "kill") in part) == [(37, "kill")]
    two = chaos.shortened(events, lambda part: {(1, "stop"), (60, "stop")} <= set(part))
    assert two == [(1, "stop"), (60, "stop")]
