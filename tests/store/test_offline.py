"""Stores that nobody serves: shown, verified and compacted, from Python and from the command line."""

import contextlib
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import labnet as ln
from labnet.cli import main
from labnet.errors import StoreError
from labnet.store import Outcome, Store
from labnet.store import folder as folders
from labnet.store.offline import compact, contents, repair
from tests.helpers.network.store_server import batch, make_model, make_optimizer


def train(folder, steps, *, closed=False, reply=b"the reply"):
    """Train for so many steps with a store, and leave it as a crash would; returns the weights."""
    model, optimizer = make_model(), make_optimizer()
    store = Store(folder, model, optimizer)
    for number in range(store.version, store.version + steps):
        x, y = batch(number)
        optimizer.lr = 0.01 / (1 + number)
        gradients = ln.loss.mse(model(x), y).backward()
        outcome = Outcome(f"ana:{number}", ("/optimize", number), f"{number:032x}", reply, number + 1)
        store.append(gradients, [outcome])
        optimizer(gradients)
        store.applied([outcome])
    if closed:
        store.close()
    else:
        store.abandon()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def command(*arguments, fresh=False):
    """Carry out ``labnet store``, here or by a Python of its own; returns status, output and errors."""
    written = ["store", *map(str, arguments)]
    if fresh:
        return subprocess.run([sys.executable, "-m", "labnet", *written], capture_output=True, text=True)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(written)
    return subprocess.CompletedProcess(written, status, output.getvalue(), errors.getvalue())


def test_what_is_in_a_store_is_shown_and_nothing_changed(tmp_path):
    train(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = contents(tmp_path)
    assert (found.version, found.updates, found.replies, found.torn) == (3, 3, 3, 0)
    assert found.weights["0.weight"] == ((4, 3), "float32")
    shown = command("show", tmp_path, fresh=True).stdout
    assert "version 3" in shown
    assert "trained with Adam, durability 'group'" in shown
    assert "3 updates in the journal, 3 replies kept" in shown
    assert "0.weight  (4, 3) float32" in shown
    assert "whole, version 3, 3 updates in the journal" in command("verify", tmp_path).stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_compacting_keeps_weights_state_and_replies(tmp_path):
    wanted = train(tmp_path, 4)
    found = compact(tmp_path)
    assert (found.version, found.updates, found.replies) == (4, 0, 4)
    again = train(tmp_path, 0)
    assert all(np.array_equal(again[name], wanted[name]) for name in wanted)
    more, fresh = train(tmp_path, 3), tmp_path / "fresh"
    assert all(np.array_equal(more[name], value) for name, value in train(fresh, 7).items())
    store = Store(tmp_path, make_model(), make_optimizer())
    assert [outcome.reply for outcome in store.outcomes] == [b"the reply"] * 7
    store.close()


def test_the_command_says_how_much_shorter_it_is(tmp_path):
    train(tmp_path, 5)
    done = command("compact", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version 5" in done.stdout


def test_a_torn_end_is_named(tmp_path):
    train(tmp_path, 2)
    with open(tmp_path / "journal-000000000000", "ab") as file:
        file.write(b"torn")
    assert "4 bytes of an update that was never answered" in command("verify", tmp_path).stdout


def damage(folder, position):
    """Change one byte of a journal, counted from its end; returns what was there."""
    path = folder / "journal-000000000000"
    content = path.read_bytes()
    path.write_bytes(content[:-position] + bytes([content[-position] ^ 255]) + content[len(content) - position + 1 :])
    return content


def test_a_damaged_journal_is_cut_off_before_the_damage_and_kept(tmp_path):
    """As an end of the machine leaves it, where the file system does not write blocks in their order."""
    before = train(tmp_path / "shorter", 3)
    good = (tmp_path / "shorter" / "journal-000000000000").stat().st_size
    train(tmp_path, 5)
    whole = damage(tmp_path, 1 + (tmp_path / "journal-000000000000").stat().st_size - good - 20)
    damaged = (tmp_path / "journal-000000000000").read_bytes()
    lineage = folders.read_checkpoint(tmp_path / "checkpoint-000000000000.safetensors")[1]["lineage"]
    with pytest.raises(StoreError, match=r"is damaged.*'labnet store repair' keeps the updates before it"):
        train(tmp_path, 0)
    done = command("repair", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cut off after version 3: every later update is lost" in done.stdout
    assert (tmp_path / "damaged-journal-000000000000").read_bytes() == damaged != whole
    assert contents(tmp_path).version == 3
    assert "there is nothing to repair" in command("repair", tmp_path).stdout
    model, optimizer = make_model(), make_optimizer()
    store = Store(tmp_path, model, optimizer)
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in model.state_dict().items())
    assert store.lineage != lineage  # clients that were answered later are told that nobody knows
    lineage = store.lineage
    store.close()
    again = Store(tmp_path, model, optimizer)
    assert (again.lineage, again.version) == (lineage, 3)
    again.close()


@pytest.mark.parametrize("length", [None, 0, 5])
def test_a_store_without_its_journal_goes_on_from_the_checkpoint_once_that_is_asked_for(tmp_path, length):
    train(tmp_path, 2, closed=True)
    before = train(tmp_path, 0)
    train(tmp_path, 3)
    path = tmp_path / "journal-000000000002"
    lineage = contents(tmp_path).lineage
    path.unlink() if length is None else os.truncate(path, length)
    for verb in ("show", "verify", "compact"):
        done = command(verb, tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert f"{path} is {'missing' if length is None else 'damaged'}" in done.stderr
        assert f"'labnet store repair {tmp_path}' goes on from the checkpoint" in done.stderr
    with pytest.raises(StoreError, match=str(path)):
        train(tmp_path, 0)
    done = command("repair", tmp_path, fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cut off after version 2" in done.stdout
    assert (tmp_path / f"damaged-{path.name}").exists() == (length is not None)
    model = make_model()
    store = Store(tmp_path, model, make_optimizer())
    assert (store.version, store.lineage != lineage) == (2, True)
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in model.state_dict().items())
    store.close()


SHOWING = """
import sys
from pathlib import Path
from labnet.store.offline import contents

print("begun", flush=True)
while True:
    contents(Path(sys.argv[1]))
"""


def test_a_store_is_shown_while_its_checkpoint_is_replaced(tmp_path):
    train(tmp_path, 1)
    with subprocess.Popen(
        [sys.executable, "-c", SHOWING, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        for _ in range(60):
            train(tmp_path, 1, closed=True)
        ended = process.poll()
        process.kill()
        assert ended is None, process.stderr.read()


def test_every_journal_that_is_damaged_somewhere_is_repaired(tmp_path):
    train(tmp_path, 3)
    path, copies = tmp_path / "journal-000000000000", 0
    content = path.read_bytes()
    for position in range(1, len(content), 61):
        damage(tmp_path, position)
        done = repair(tmp_path)
        copies += done is not None
        assert contents(tmp_path).version < 3
        path.write_bytes(content)
    assert len(list(tmp_path.glob("damaged-*"))) == copies > 5


def test_a_repair_that_cannot_write_its_copy_changes_nothing(tmp_path, monkeypatch):
    journal = tmp_path / "journal-000000000000"
    train(tmp_path / "shorter", 1)
    good = (tmp_path / "shorter" / journal.name).stat().st_size
    train(tmp_path, 3)
    damage(tmp_path, 1 + journal.stat().st_size - good - 20)  # in the second of three updates
    before = journal.read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", fail)
        with pytest.raises(OSError, match="No space left"):
            repair(tmp_path)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("verb", ["show", "verify", "compact"])
def test_what_is_no_store_or_damaged_is_one_line_and_status_1(tmp_path, verb):
    (tmp_path / "empty").mkdir()
    train(tmp_path / "damaged", 2)
    path = tmp_path / "damaged" / "journal-000000000000"
    path.write_bytes(path.read_bytes()[:40] + b"?" + path.read_bytes()[41:])
    for name, reason in (("empty", "no checkpoint"), ("missing", "no checkpoint"), ("damaged", "is damaged")):
        done = command(verb, tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert reason in done.stderr


def test_what_cannot_be_repaired_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    train(tmp_path / "damaged", 1)
    (path,) = (tmp_path / "damaged").glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for name, reason in (("empty", "no checkpoint"), ("missing", "no checkpoint"), ("damaged", "is damaged")):
        done = command("repair", tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert reason in done.stderr
    assert not any((tmp_path / "empty").iterdir())
    with (
        ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path / "served"),
        pytest.raises(StoreError, match="in use by this process"),
    ):
        repair(tmp_path / "served")


def test_a_store_that_is_served_is_shown_and_not_compacted(tmp_path):
    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path):
        assert contents(tmp_path).version == 0
        with pytest.raises(StoreError, match="in use by this process"):
            compact(tmp_path)


def test_many_outcomes_are_bounded_and_the_newest_are_kept(tmp_path, monkeypatch):
    from labnet.store import records

    monkeypatch.setattr(records, "_REPLY_BYTES", 2500)
    monkeypatch.setattr(records, "_KEYS", 6)
    train(tmp_path, 8, closed=True, reply=bytes(1000))
    store = Store(tmp_path, make_model(), make_optimizer())
    kept = list(store.outcomes)
    assert [outcome.key for outcome in kept] == [f"ana:{number}" for number in range(2, 8)]
    assert [outcome.reply is not None for outcome in kept] == [False] * 4 + [True] * 2
    assert store.outcomes.forgotten == 2
    store.close()


def test_a_long_journal_is_replaced_while_training_goes_on(tmp_path, monkeypatch):
    from labnet.store import training

    monkeypatch.setattr(training, "_LONG", 3000)
    wanted = train(tmp_path, 30)
    found = contents(tmp_path)
    assert found.version == 30
    assert found.updates < 20
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["checkpoint", "journal", "lock"]
    again = train(tmp_path, 0)
    assert all(np.array_equal(again[name], wanted[name]) for name in wanted)
