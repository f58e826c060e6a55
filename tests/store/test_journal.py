"""Journals: what was written is read; only the end can be torn; nothing damaged is ever taken for a record."""

import errno
import os
import resource
import subprocess
import sys
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnet.errors import StoreError
from labnet.store import journal
from labnet.store.journal import HEAD, MAGIC, Journal, Reader


class Found(NamedTuple):
    payloads: list[bytes]
    end: int
    torn: int


def read(path):
    """Read all of a journal."""
    reader = Reader(path)
    return Found(list(reader), reader.end, reader.torn)


RECORDS = st.lists(st.binary(max_size=60), max_size=8)


def written(path, records):
    made = Journal(path, end=0)
    for record in records:
        made.append([record[:3], record[3:]], sync=False)
    made.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("journals") / "journal"


@given(records=RECORDS)
def test_what_was_written_is_read(place, records):
    place.unlink(missing_ok=True)
    written(place, records)
    found = read(place)
    assert (found.payloads, found.torn, found.end) == (records, 0, place.stat().st_size)


@given(records=RECORDS, data=st.data())
def test_a_crash_while_writing_leaves_the_records_before(place, records, data):
    place.unlink(missing_ok=True)
    content = written(place, records)
    cut = data.draw(st.integers(len(MAGIC), len(content)))
    place.write_bytes(content[:cut])
    ends = [len(MAGIC)]
    for record in records:
        ends.append(ends[-1] + HEAD + len(record))
    whole = sum(end <= cut for end in ends[1:])
    found = read(place)
    assert found.payloads == records[:whole]
    opened = Journal(place, end=found.end)
    opened.append([b"after"], sync=True)
    opened.close()
    assert read(place) == ([*records[:whole], b"after"], place.stat().st_size, 0)


@given(records=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), zeros=st.integers(1, 100))
def test_a_file_that_grew_without_its_content_is_torn_there(place, records, zeros):
    place.unlink(missing_ok=True)
    content = written(place, records)
    place.write_bytes(content + bytes(zeros))
    assert read(place) == (records, len(content), zeros)


@given(records=st.lists(st.binary(min_size=1, max_size=60), min_size=2, max_size=6), data=st.data())
def test_a_flipped_bit_is_damage_or_a_torn_end_and_never_a_record(place, records, data):
    place.unlink(missing_ok=True)
    content = bytearray(written(place, records))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    place.write_bytes(content)
    last = len(content) - HEAD - len(records[-1])
    if position < last + HEAD:
        with pytest.raises(StoreError, match=str(place)):
            read(place)
    else:
        assert read(place).payloads == records[:-1]


def test_a_journal_of_something_else_is_refused(place):
    place.write_bytes(b"something else entirely")
    with pytest.raises(StoreError, match="does not begin like a journal"):
        read(place)


@pytest.mark.parametrize("length", [None, 0, 1, len(MAGIC) - 1])
def test_a_journal_without_its_first_line_is_not_an_empty_one(place, length):
    """Its updates may have been answered; a crash leaves none like this."""
    place.unlink(missing_ok=True)
    if length is not None:
        place.write_bytes(MAGIC[:length])
    with pytest.raises(StoreError, match=f"{place} is .*'labnet store repair {place.parent}' goes on from the checkp"):
        read(place)


def test_a_long_journal_is_read_record_by_record(place):
    place.unlink(missing_ok=True)
    made = Journal(place, end=0)
    for number in range(64):
        made.append([bytes([number]) * (1 << 20)], sync=False)
    made.close()
    with open(place, "r+b") as file:
        file.truncate(made.end + (8 << 20))  # as a crash leaves it, with nothing written to it
    tracemalloc.start()
    reader = Reader(place)
    assert [payload[0] for payload in reader] == list(range(64))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (reader.end, reader.torn) == (made.end, 8 << 20)
    assert most < 4 << 20


def test_the_last_record_can_be_taken_back(place):
    place.unlink(missing_ok=True)
    made = Journal(place, end=0)
    made.append([b"one"], sync=True)
    made.append([b"two"], sync=True)
    made.take_back()
    made.append([b"three"], sync=True)
    made.close()
    assert read(place).payloads == [b"one", b"three"]


def test_a_record_that_cannot_be_brought_to_the_disk_is_not_there(place, monkeypatch):
    place.unlink(missing_ok=True)
    made = Journal(place, end=0)
    made.append([b"one"], sync=True)
    real, failures = os.fsync, [OSError(errno.EIO, "Input/output error")]

    def fsync(file):
        if failures:
            raise failures.pop()
        real(file)

    monkeypatch.setattr(journal.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        made.append([b"two"], sync=True)
    assert read(place).payloads == [b"one"]
    made.append([b"three"], sync=True)
    made.close()
    assert read(place).payloads == [b"one", b"three"]


def test_a_journal_that_cannot_be_repaired_takes_nothing_more(place, monkeypatch):
    place.unlink(missing_ok=True)
    made = Journal(place, end=0)

    def fsync(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        made.append([b"one"], sync=True)
    monkeypatch.undo()
    with pytest.raises(OSError, match="nothing more is written until the store is opened again"):
        made.append([b"two"], sync=True)
    made.close()


PROGRAM = """
import resource, sys
from pathlib import Path
from labnet.store.journal import Journal, Reader

path = Path(sys.argv[1])
made, written = Journal(path, end=0), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    while True:
        made.append([bytes(900)], sync=True)
        written += 1
except OSError as error:
    assert error.errno in (27, 28), error
reader = Reader(path)
assert len(list(reader)) == written == 10, written
assert reader.torn == 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
made.append([b"room again"], sync=True)
assert list(Reader(path))[-1] == b"room again"
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system does not limit the length of files")
def test_a_full_disk_leaves_whole_records_and_writing_goes_on_when_there_is_room(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "journal")], check=True)
