"""Recorded runs: what is kept of each served model, how it is compared, and what other tools read of it."""

import csv
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

import labnet as ln
from labnet.runs import database, recording
from labnet.runs.commit import commit_of
from labnet.runs.event_file import crc32c, write_event_file
from tests.helpers.libraries import tensorboard_or_skip


@pytest.fixture(autouse=True)
def _own_file(tmp_path, monkeypatch):
    recording.flush()  # what other tests have left belongs into their file
    monkeypatch.setenv(database.VARIABLE, str(tmp_path / "runs.sqlite"))
    yield
    recording.flush()  # before the file of other tests is back


def train(name, steps, *, optimizer="sgd"):
    with ln.network.serve_model(ln.nn.Linear(2, 1), optimizer, port=0, name=name) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for step in range(steps):
            (0 * remote(ln.ones((4, 2))).sum() + float(step)).backward()
        remote.log(accuracy=0.5)
        server.log(temperature=3.0)


def test_a_run_keeps_what_it_was_and_its_metrics(monkeypatch):
    monkeypatch.setattr(recording, "code_source", lambda: "the cell")
    train("one", 5, optimizer=ln.optim.Adam(lr=0.125))
    (run,) = ln.runs.all()
    assert (run.name, run.code, run.optimizer) == ("one", "the cell", "Adam(lr=0.125)")
    assert "Linear(2, 1)" in run.model
    assert run.started <= run.ended
    assert run.metrics["loss"] == ([1, 2, 3, 4, 5], [0.0, 1.0, 2.0, 3.0, 4.0])
    assert run.metrics["accuracy"] == ([5], [0.5])
    assert run.metrics["temperature"] == ([5], [3.0])
    assert "Adam(lr=0.125)" in repr(ln.runs.all())
    assert "<table" in ln.runs.all()._repr_html_()


def test_a_server_that_does_not_train_is_no_run():
    with ln.network.serve_model(ln.nn.Linear(2, 1), "sgd", port=0, name="idle") as server, ln.no_grad():
        ln.network.remote_model(server.url, blocking=True)(ln.ones((1, 2)))
    assert ln.runs.all() == ()


def test_the_latest_run_of_a_name_is_found_and_one_is_deleted():
    train("same", 2)
    train("same", 3)
    first, second = sorted(run.id for run in ln.runs.all("same"))
    assert ln.runs.get("same").id == second
    ln.runs.delete(second)
    assert ln.runs.get("same").id == first
    with pytest.raises(LookupError, match=f"no run has the number {second}"):
        ln.runs.get(second)


def test_runs_are_compared_from_the_first_update_of_each():
    train("a", 4)
    train("b", 3)
    comparison = ln.runs.compare("a", "b")
    axes = comparison.plot()
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3, 4], [1, 2, 3]]
    panel = comparison.panel()
    sent = json.loads(panel.sent["snapshot"])
    assert sent["runs"] == ["a", "b"]
    assert [line["values"] for line in sent["comparison"]["loss"]] == [[0, 1, 2, 3], [0, 1, 2]]
    panel.close()
    with pytest.raises(LookupError, match="no run has the metric 'speed'; they have accuracy"):
        ln.runs.compare("a", metric="speed")


def test_a_run_is_exported_as_csv_and_as_an_event_file(tmp_path):
    train("out", 3)
    run = ln.runs.get("out")
    run.to_csv(tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["value"] for row in rows if row["metric"] == "loss"] == ["0.0", "1.0", "2.0"]
    content = run.to_tensorboard(tmp_path / "logs").read_bytes()
    records = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        for part, checksum in ((content[:8], content[8:12]), (content[12 : 12 + length], content[12 + length :][:4])):
            crc = crc32c(part)
            assert struct.unpack("<I", checksum)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        records.append(content[12 : 12 + length])
        content = content[16 + length :]
    assert b"brain.Event:2" in records[0]
    assert sum(b"loss" in record for record in records) == 3
    assert struct.pack("<f", 2.0) in records[3]


def test_tensorboard_reads_exported_runs(tmp_path):
    tensorboard = tensorboard_or_skip()
    train("short", 2)
    train("long", 40)
    for run in ln.runs.all():
        assert run.to_tensorboard(tmp_path / run.name) == run.to_tensorboard(tmp_path / run.name)  # the same file again
        read = tensorboard.EventAccumulator(str(tmp_path / run.name), size_guidance={"scalars": 0}).Reload()
        assert set(read.Tags()["scalars"]) == set(run.metrics)
        for metric, (steps, values) in run.metrics.items():
            points = read.Scalars(metric)
            assert [point.step for point in points] == steps
            assert [point.value for point in points] == np.array(values, "float32").tolist()
            assert {point.wall_time for point in points} == {run.started}


def test_runs_exported_to_one_folder_and_numbers_of_any_size_are_whole(tmp_path):
    for at, value in ((100.25, 1e300), (100.5, 1e-300)):
        write_event_file(tmp_path, {"über alles": ([2**40], [value])}, at=at)
    large, small = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert struct.pack("<f", float("inf")) in large
    assert struct.pack("<f", 0.0) in small
    assert "über alles".encode() in large


def test_the_file_that_is_no_database_costs_the_record_only(monkeypatch, tmp_path, caplog):
    (tmp_path / "notes.txt").write_text("no database" * 100)
    monkeypatch.setenv(database.VARIABLE, str(tmp_path / "notes.txt"))
    train("lost", 2)
    recording.flush()
    assert "cannot be kept in" in caplog.text
    with pytest.raises(OSError, match="cannot be kept"):
        ln.runs.all()


def test_nothing_is_recorded_where_the_variable_is_empty(monkeypatch, tmp_path):
    monkeypatch.setenv(database.VARIABLE, "")
    train("none", 2)
    recording.flush()
    assert ln.runs.all() == ()
    assert not (tmp_path / "runs.sqlite").exists()


def test_what_is_pending_at_the_end_of_a_process_is_written():
    program = """
import labnet as ln
server = ln.network.serve_model(ln.nn.Linear(2, 1), "sgd", port=0, name="short")
remote = ln.network.remote_model(server.url, blocking=True)
remote(ln.ones((1, 2))).sum().backward()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert len(ln.runs.get("short").metrics["loss"][0]) == 1


def test_the_commit_is_that_of_git(tmp_path):
    def git(*arguments, folder=tmp_path):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "trunk")
    git("commit", "-q", "--allow-empty", "-m", "first")
    first = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == first
    git("pack-refs", "--all")
    (tmp_path / "below").mkdir()
    assert commit_of(tmp_path / "below") == first
    git("worktree", "add", "-q", str(tmp_path / "tree"), "-b", "side")
    git("commit", "-q", "--allow-empty", "-m", "second", folder=tmp_path / "tree")
    assert commit_of(tmp_path / "tree") == git("rev-parse", "side")
    git("checkout", "-q", "--detach")
    assert commit_of(tmp_path) == first
