"""Stores whose disk or optimizer fails, and what is true of the disk whatever fails."""

import fcntl
import itertools
import os
import signal
import stat

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.autograd import Gradients
from labnet.errors import StoreError
from labnet.store import Intent, Outcome, Store, refusals, training
from labnet.store import folder as folders
from labnet.store.offline import compact, contents
from tests.helpers.child_processes import exit_code, forked
from tests.helpers.network.store_server import die_at, make_model, make_optimizer


def values(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def step(store, model, optimizer, *, seed=None):
    """Make one update with random gradients."""
    chance = np.random.default_rng(store.version if seed is None else seed)
    gradients = Gradients([(p, ln.asarray(chance.normal(size=p.shape).astype("float32"))) for p in model.parameters()])
    outcome = Outcome("", (), f"call {store.version}", b"reply", store.version + 1)
    store.append(gradients, [outcome])
    optimizer(gradients)
    store.applied([outcome])


def served(folder, *, make=make_model, optimizer=make_optimizer, **options):
    model = make()
    chosen = optimizer(model) if optimizer is not make_optimizer else make_optimizer()
    return Store(folder, model, chosen, **options), model, chosen


def failing(error, *, times=1):
    """Return a function that fails so many times, in place of a given one."""
    left = [times]

    def replace(real):
        def call(*arguments, **options):
            if left[0]:
                left[0] -= 1
                raise error
            return real(*arguments, **options)

        return call

    return replace


def failing_at(number, error):
    """Return a function that fails at its n-th call, in place of a given one."""
    calls = itertools.count(1)

    def replace(real):
        def call(*arguments, **options):
            if next(calls) == number:
                raise error
            return real(*arguments, **options)

        return call

    return replace


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def after_a_crash(folder, **options):
    """Return weights and version as whoever opens the folder gets them."""
    store, model, _ = served(folder, **options)
    store.abandon()
    return values(model), store.version


@pytest.mark.parametrize("moment", ["before it forgets that it was asked", "while it writes"])
def test_what_brings_a_journal_to_the_disk_ends_whenever_it_is_stopped(monkeypatch, moment):
    monkeypatch.setattr(training, "GROUP_SECONDS", 0.0)

    def stop():
        syncing._stopping.set()
        syncing._asked.set()

    syncing = training._Syncing(stop if moment == "while it writes" else lambda: None)
    forget = syncing._asked.clear
    if moment != "while it writes":
        monkeypatch.setattr(syncing._asked, "clear", lambda: (stop(), forget()))
    syncing.ask()
    syncing._thread.join(60.0)
    assert not syncing._thread.is_alive()


# The disk


@pytest.mark.parametrize("name", ["listdir", "unlink"])
def test_a_new_checkpoint_counts_also_where_the_old_one_cannot_be_deleted(tmp_path, monkeypatch, name):
    """Otherwise updates would go to a journal that nobody reads any more."""
    monkeypatch.setattr(training, "_LONG", 1500)
    store, model, optimizer = served(tmp_path, durability="every")
    with monkeypatch.context() as patched:
        patched.setattr(os, name, failing(OSError(5, "Input/output error"), times=99)(getattr(os, name)))
        for _ in range(10):
            step(store, model, optimizer)
    store.abandon()
    assert after_a_crash(tmp_path) == (values(model), 10)
    kinds = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["checkpoint", "journal", "lock"]


def test_no_checkpoint_is_dropped_before_the_name_of_the_next_one_is_on_the_disk(tmp_path, monkeypatch):
    store, model, optimizer = served(tmp_path, durability="every")
    step(store, model, optimizer)
    real = folders.flush_directory
    monkeypatch.setattr(folders, "flush_directory", failing(OSError(5, "Input/output error"))(real))
    with pytest.raises(OSError, match="Input/output error"):  # and none is written before that of its journal is
        store.checkpoint()
    assert names(tmp_path) == ["checkpoint-000000000000.safetensors", "journal-000000000000", "lock"]
    monkeypatch.setattr(folders, "flush_directory", failing_at(2, OSError(5, "Input/output error"))(real))
    store.checkpoint()
    assert (tmp_path / "checkpoint-000000000000.safetensors").exists()
    assert store.summary()["failed"]
    step(store, model, optimizer)  # with a new checkpoint, since the disk is well again
    assert not (tmp_path / "checkpoint-000000000000.safetensors").exists()
    store.abandon()
    assert after_a_crash(tmp_path) == (values(model), 2)


def checkpointed(folder, death):
    """Begin a store, and write a second checkpoint of the same version; die at the n-th write of it."""
    store, _, _ = served(folder, durability="every")
    store.intend(Intent("one", ("http://inner",)))
    calls = die_at(death)
    store.checkpoint()
    return calls[0]


def test_a_store_that_dies_while_it_replaces_a_checkpoint_of_the_same_version_is_opened(tmp_path):
    with forked(lambda: checkpointed(tmp_path / "none", 0)) as child:
        count = exit_code(child)
    assert count > 5
    for death in range(1, count + 1):
        folder = tmp_path / str(death)
        with forked(lambda folder=folder, death=death: checkpointed(folder, death)) as child:
            assert exit_code(child) == -signal.SIGKILL
        store, _, _ = served(folder)
        assert [one.call for one in store.intents] == ["one"], death
        store.close()


def test_the_files_of_a_store_are_for_their_owner_only(tmp_path):
    before = os.umask(0)
    try:
        store, model, optimizer = served(tmp_path / "store")
        step(store, model, optimizer)
        store.close()
        ln.io.save(tmp_path / "shared.safetensors", model.state_dict())
    finally:
        os.umask(before)
    kept = [path for path in (tmp_path / "store").iterdir() if path.name != folders.CLEAN]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600] * 3
    assert stat.S_IMODE((tmp_path / "shared.safetensors").stat().st_mode) == 0o666  # what the umask leaves


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), KeyError("a name")])
def test_an_update_is_answered_also_where_no_checkpoint_can_be_made_after_it(tmp_path, monkeypatch, error):
    """The weights have changed: an error would have the client try again, and the update be made twice."""
    monkeypatch.setattr(training, "_LONG", 1500)
    store, model, optimizer = served(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_pair", failing(error, times=99)(folders.write_pair))
        for _ in range(5):
            step(store, model, optimizer)
    store.abandon()
    assert after_a_crash(tmp_path) == (values(model), 5)


def test_an_intent_is_written_once_the_disk_is_well_again(tmp_path):
    store, model, optimizer = served(tmp_path)
    store._journal.broken = OSError(5, "Input/output error")
    store.intend(Intent("one", ("http://inner",)))
    step(store, model, optimizer)
    store.abandon()
    again, _, _ = served(tmp_path)
    assert ([one.call for one in again.intents], again.version) == (["one"], 1)
    again.close()


@pytest.mark.parametrize(("durability", "end"), [("group", "abandon"), ("every", "abandon"), ("memory", "close")])
def test_what_was_given_up_and_handed_on_is_known_to_whoever_opens_the_store(tmp_path, durability, end):
    for number in range(3):
        store, model, optimizer = served(tmp_path, durability=durability)
        assert list(store.refusals) == [f"given up {before}" for before in range(number)]
        assert [one.call for one in store.intents] == [f"handed on {before}" for before in range(number)]
        store.refuse(f"given up {number}")
        store.refuse(f"given up {number}")
        store.intend(Intent(f"handed on {number}", ("http://inner",)))
        if number == 1:
            step(store, model, optimizer)
        getattr(store, end)()
        assert contents(tmp_path).version == (number > 0)
    compact(tmp_path)
    store, _, _ = served(tmp_path)
    assert list(store.refusals) == ["given up 0", "given up 1", "given up 2"]
    store.close()


def test_of_calls_that_were_given_up_long_ago_nothing_is_claimed_to_be_known(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "_CALLS", 2)
    store, model, optimizer = served(tmp_path)
    for number in range(4):
        store.refuse(f"call {number}")
        step(store, model, optimizer)
    for _ in range(2):
        assert list(store.refusals) == ["call 2", "call 3"]
        assert store.refusals.forgotten == 2  # the second one saw version 1 at most
        store.close()
        store, _, _ = served(tmp_path)
    store.close()


def test_a_journal_without_updates_is_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_LONG", 4000)
    monkeypatch.setattr(training, "_CHECKPOINTS", 0)
    store, _, _ = served(tmp_path)
    for number in range(100):
        store.refuse(f"call {number}")
        assert store.summary()["journal_bytes"] < 4200
    store.abandon()
    again, _, _ = served(tmp_path)
    assert list(again.refusals) == [f"call {number}" for number in range(100)]
    again.close()


def test_a_store_that_knows_nothing_of_given_up_calls_yet_is_opened(tmp_path):
    store, model, _ = served(tmp_path)
    store.close()
    (path,) = tmp_path.glob("checkpoint-*")
    tensors, metadata = folders.read_checkpoint(path)
    del metadata["refusals"]
    folders.write_pair(tmp_path, 0, tensors, metadata).close()
    assert after_a_crash(tmp_path) == (values(model), 0)


@pytest.mark.parametrize("at", ["replace_file", "Journal"])
def test_intents_survive_a_checkpoint_of_the_same_version_that_fails(tmp_path, monkeypatch, at):
    store, model, optimizer = served(tmp_path)
    store.intend(Intent("one", ("http://inner",)))
    place = folders if at == "replace_file" else folders.journal
    with monkeypatch.context() as patched:
        patched.setattr(place, at, failing(OSError(28, "No space left on device"))(getattr(place, at)))
        with pytest.raises(OSError, match="No space"):
            store.checkpoint()
    step(store, model, optimizer)
    store.abandon()
    again, found, _ = served(tmp_path)
    assert ([one.call for one in again.intents], again.version, values(found)) == (["one"], 1, values(model))
    again.close()


def test_every_flipped_byte_of_a_checkpoint_is_found(tmp_path):
    """As far as it changes anything: padding may be other blanks."""
    store, model, optimizer = served(tmp_path, make=lambda: nn.Linear(2, 1))
    step(store, model, optimizer)
    store.close()
    (path,) = tmp_path.glob("checkpoint-*")
    content = path.read_bytes()
    whole = contents(tmp_path)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            assert contents(tmp_path) == whole, position
        except StoreError:
            continue


# What was promised before


def test_calls_of_a_history_that_was_lost_are_never_taken_for_unused(tmp_path):
    store, _, _ = served(tmp_path, durability="memory")
    lost = store.lineage
    store.abandon()
    store, _, _ = served(tmp_path, durability="memory")
    present = store.lineage
    store.close()  # in good order, and without an update
    store, _, _ = served(tmp_path, durability="memory")
    assert store.lineage == present != lost
    store.close()


def test_a_process_that_ends_after_the_machine_was_started_anew_keeps_what_it_promised(tmp_path, monkeypatch):
    store, _, _ = served(tmp_path)
    store.close()
    monkeypatch.setattr(folders, "boot", lambda: "another boot")
    store, model, optimizer = served(tmp_path)
    lineage = store.lineage
    step(store, model, optimizer)
    store.abandon()
    store, _, _ = served(tmp_path)
    assert store.lineage == lineage
    store.close()


def test_the_promise_is_that_of_the_present_level(tmp_path):
    store, _, _ = served(tmp_path, durability="every")
    store.close()
    store, model, optimizer = served(tmp_path, durability="memory")
    lineage = store.lineage
    step(store, model, optimizer)
    store.abandon()
    store, _, _ = served(tmp_path, durability="every")
    assert (store.version, store.lineage != lineage) == (0, True)
    store.close()


def test_a_clean_end_of_another_store_in_the_folder_says_nothing(tmp_path):
    (tmp_path / folders.CLEAN).touch()
    store, _, _ = served(tmp_path, durability="memory")
    lineage = store.lineage
    store.abandon()
    store, _, _ = served(tmp_path, durability="memory")
    assert store.lineage != lineage
    store.close()


def test_where_no_boot_is_known_a_crash_may_be_one_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "boot", lambda: "")
    store, _, _ = served(tmp_path)
    lineage = store.lineage
    store.abandon()
    store, _, _ = served(tmp_path)
    assert store.lineage != lineage
    store.close()


def test_a_file_system_without_locks_is_not_taken_for_a_store_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(OSError(37, "No locks available"))(fcntl.flock))
    with pytest.raises(OSError, match="No locks available"):
        served(tmp_path)
    served(tmp_path)[0].close()


def test_a_store_deletes_no_file_but_its_own(tmp_path):
    others = [
        "checkpoint-best.safetensors",
        "checkpoint-000000000000.safetensors.bak",
        "journal-of-monday",
        ".checkpoint-x",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    store, model, optimizer = served(tmp_path)
    step(store, model, optimizer)
    store.close()
    served(tmp_path)[0].close()
    assert [(tmp_path / name).read_text() for name in others] == ["mine"] * len(others)


def test_a_journal_that_lost_its_checkpoint_is_kept(tmp_path):
    store, model, optimizer = served(tmp_path)
    step(store, model, optimizer)
    store.abandon()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    with pytest.raises(StoreError, match="journal-000000000000 has no checkpoint beside it"):
        served(tmp_path)
    checkpoint.write_bytes(content)
    assert after_a_crash(tmp_path) == (values(model), 1)


# Models and optimizers


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        for parameter in self.parameters():
            parameter.assign(ln.ones(parameter.shape))


@pytest.mark.parametrize("compacted", [False, True])
def test_a_weight_with_two_names_keeps_its_updates(tmp_path, compacted):
    store, model, optimizer = served(tmp_path, make=Tied)
    for _ in range(3):
        step(store, model, optimizer)
    store.abandon()
    if compacted:
        compact(tmp_path)
    assert after_a_crash(tmp_path, make=Tied) == (values(model), 3)


def test_compacting_trains_only_what_the_optimizer_was_to_train(tmp_path):
    def only_the_first(model):
        return ln.optim.Adam(parameters=[next(model.parameters())])

    store, model, optimizer = served(tmp_path, optimizer=only_the_first)
    for _ in range(3):
        step(store, model, optimizer)
    store.abandon()
    compact(tmp_path)
    assert after_a_crash(tmp_path, optimizer=only_the_first) == (values(model), 3)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.asarray])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_step_size_that_numpy_computed_is_carried_out_again_as_it_was(tmp_path, number, compacted):
    store, model, optimizer = served(tmp_path, optimizer=lambda model: ln.optim.SGD(lr=number(0.3), momentum=0.9))
    for _ in range(4):
        step(store, model, optimizer)
        optimizer.lr = number(0.3 / (2 + store.version))
    store.abandon()
    if compacted:
        compact(tmp_path)
    found = after_a_crash(tmp_path, optimizer=lambda model: ln.optim.SGD(lr=0.1, momentum=0.9))
    assert found == (values(model), 4)


def test_what_an_update_that_failed_left_in_the_optimizer_is_written_down(tmp_path):
    store, model, optimizer = served(tmp_path)
    step(store, model, optimizer)
    before = model.state_dict()
    gradients = Gradients([(p, ln.ones(p.shape)) for p in model.parameters()])
    store.append(gradients, [])
    optimizer(gradients)  # and then something fails that has the weights taken back
    model.load_state_dict(before)
    store.take_back()
    step(store, model, optimizer)
    store.abandon()
    assert after_a_crash(tmp_path) == (values(model), 2)


def test_a_store_that_cannot_be_opened_leaves_the_optimizer_as_it_was(tmp_path):
    store, model, optimizer = served(tmp_path)
    for _ in range(2):
        step(store, model, optimizer)
    store.abandon()
    (path,) = tmp_path.glob("journal-*")
    content = bytearray(path.read_bytes())
    content[40] ^= 255
    path.write_bytes(content)
    before = {name: tensor.tolist() for name, tensor in optimizer.state_dict(model.named_parameters()).items()}
    with pytest.raises(StoreError, match="damaged"):
        Store(tmp_path, model, optimizer)
    after = {name: tensor.tolist() for name, tensor in optimizer.state_dict(model.named_parameters()).items()}
    assert after == before


def test_an_update_for_very_many_is_read_again(tmp_path):
    """Messages of strangers have headers of at most a megabyte; records of the store's own need not."""
    store, model, optimizer = served(tmp_path)
    outcomes = [Outcome(f"{number:0200d}:1", (), f"{number:0200d}", None, 1) for number in range(3000)]
    gradients = Gradients([(p, ln.ones(p.shape)) for p in model.parameters()])
    store.append(gradients, outcomes)
    optimizer(gradients)
    store.abandon()
    assert after_a_crash(tmp_path) == (values(model), 1)


class Clock:
    """The CPU time of a thread, of which every reading takes a second."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1.0
        return self.seconds


def test_a_crash_replays_no_longer_than_asked_however_long_the_training_was(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_cpu_seconds", Clock())
    monkeypatch.setattr(training, "_CHECKPOINTS", 0)
    store, model, optimizer = served(tmp_path, recovery_seconds=10.0)
    for number in range(1, 100):
        step(store, model, optimizer)  # takes a second
        assert store.summary()["replay_seconds"] <= 10.0
        assert store.version - store.summary()["checkpoint"] == number % 11
    store.abandon()
    again, restored, _ = served(tmp_path, recovery_seconds=10.0)
    assert (values(restored), again.version, again.replayed) == (values(model), 99, 0)
    again.close()


def test_updates_are_replayed_by_one_opening_only(tmp_path):
    store, model, optimizer = served(tmp_path)
    store.refuse("given up")
    store.intend(Intent("handed on", ("http://inner",), 0, {"input/x": np.arange(3.0)}, "{}", store._weights()))
    step(store, model, optimizer)
    store.abandon()
    for replayed in (1, 0, 0):
        again, restored, _ = served(tmp_path)
        assert (again.replayed, again.version, values(restored)) == (replayed, 1, values(model))
        assert [outcome.call for outcome in again.outcomes] == ["call 0"]
        assert list(again.refusals) == ["given up"]
        (intent,) = again.intents
        assert np.array_equal(intent.forward["input/x"], np.arange(3.0))
        assert intent.weights.keys() == restored.state_dict().keys()
        again.abandon()


def test_replays_of_updates_cost_what_the_last_ones_did(tmp_path, monkeypatch):
    """An update that costs less where it is made than where it is replayed counts as its replay."""
    monkeypatch.setattr(training, "_CHECKPOINTS", 0)
    store, model, optimizer = served(tmp_path)
    for _ in range(4):
        step(store, model, optimizer)
    store.abandon()
    clock = iter([0.0, 8.0, *[8.0] * 99])  # the replay takes two seconds an update
    monkeypatch.setattr(training, "_cpu_seconds", lambda: next(clock))
    store, model, optimizer = served(tmp_path, recovery_seconds=5.0)
    for pending in (2.0, 4.0, 0.0):
        step(store, model, optimizer)
        assert store.summary()["replay_seconds"] == pending
    store.close()


def test_a_store_opens_also_where_no_checkpoint_can_be_made_of_what_it_replays(tmp_path, monkeypatch):
    store, model, optimizer = served(tmp_path)
    for _ in range(3):
        step(store, model, optimizer)
    store.abandon()
    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_pair", failing(OSError(28, "No space left on device"))(folders.write_pair))
        again, restored, optimizer = served(tmp_path)
        step(again, restored, optimizer)
        again.abandon()
    assert after_a_crash(tmp_path) == (values(restored), 4)
