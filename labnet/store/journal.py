"""An append-only file of records, each with its length and checksums, of which only the end can be torn.

A record is written after the one before, and is there or is not: what a crash leaves half-written at the end is cut
off when the file is opened. Anything wrong before the end is damage, and is never skipped. Knows bytes, and nothing
of what they mean.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from labnet.errors import StoreError

MAGIC = b"labnet journal 1\n"
#: Length of the payload, its CRC-32, and the CRC-32 of these two.
_FRAME = struct.Struct("<QI")
_CHECK = struct.Struct("<I")
HEAD = _FRAME.size + _CHECK.size

Part = bytes | bytearray | memoryview


class Found(NamedTuple):
    """What is in a journal: payloads in order, the offset behind the last one, and bytes of a torn record there."""

    payloads: list[bytes]
    end: int
    torn: int


def read(path: Path) -> Found:
    """Read all records of a journal.

    Raises
    ------
    StoreError
        If it is damaged before its end, or no journal.
    """
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        if MAGIC.startswith(content):  # made, and crashed before the first record
            return Found([], 0, len(content))
        raise StoreError(f"{path} is damaged: it does not begin like a journal of labnet")
    payloads, end = [], len(MAGIC)
    for payload, after in _records(path, content):
        payloads.append(payload)
        end = after
    return Found(payloads, end, len(content) - end)


def _records(path: Path, content: bytes) -> Iterator[tuple[bytes, int]]:
    """Give each record with the offset behind it, up to the end or a torn record there."""
    start = len(MAGIC)
    while start + HEAD <= len(content):
        frame = content[start : start + _FRAME.size]
        (check,) = _CHECK.unpack_from(content, start + _FRAME.size)
        if zlib.crc32(frame) != check:
            if not any(content[start:]):  # the file grew, and what was written to it did not reach the disk
                return
            raise StoreError(f"{path} is damaged at byte {start}: not the head of a record")
        length, checksum = _FRAME.unpack(frame)
        end = start + HEAD + length
        if end > len(content):
            return
        payload = content[start + HEAD : end]
        if zlib.crc32(payload) != checksum:
            if end == len(content) or not any(content[end:]):
                return
            raise StoreError(f"{path} is damaged: the record at byte {start} does not have its checksum")
        yield payload, end
        start = end


class Journal:
    """A journal that is open for writing.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    end : int
        Where the last record ends, as `read` found it; what is behind is cut off.

    Raises
    ------
    OSError
        If it cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(Path(folder) / "journal", end=0)
    ...     journal.append([b"one ", b"record"], sync=True)
    ...     journal.close()
    ...     read(Path(folder) / "journal").payloads
    [b'one record']
    """

    def __init__(self, path: Path, *, end: int):
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._before = self.end = end
        #: Why nothing can be written any more, or None.
        self.broken: OSError | None = None
        try:
            os.ftruncate(self._file, end)
            if end == 0:
                self._write([MAGIC])
            os.fsync(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, parts: Sequence[Part], *, sync: bool) -> None:
        """Write a record, and wait until it is on the disk if asked to; on an error it is not there.

        Raises
        ------
        OSError
            If it could not be written; the journal is as it was before, unless it is `broken` now.
        """
        self.check()
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        frame = _FRAME.pack(sum(map(len, parts)), checksum)
        before = self.end
        try:
            self._write([frame + _CHECK.pack(zlib.crc32(frame)), *parts])
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self._cut(before, error)
            raise
        self._before = before

    def take_back(self) -> None:
        """Take the last record away again.

        Raises
        ------
        OSError
            If that was not possible; the journal is `broken` then.
        """
        self.check()
        self._cut(self._before, None)
        self.check()

    def check(self) -> None:
        """Raise the error that broke the journal, if one did."""
        if self.broken is not None:
            raise OSError(
                self.broken.errno, f"{self.broken.strerror}; nothing more is written until the store is opened again"
            )

    def sync(self) -> None:
        """Wait until everything written is on the disk; after a failure the journal is `broken`."""
        try:
            os.fsync(self._file)
        except OSError as error:  # the kernel has forgotten what it could not write: asking again proves nothing
            self.broken = self.broken or error
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, parts: Sequence[Part]) -> None:
        for part in parts:
            view = memoryview(part)
            while view:
                count = os.pwrite(self._file, view, self.end)
                self.end += count
                view = view[count:]

    def _cut(self, end: int, error: OSError | None) -> None:
        """Make the journal end where it ended before; if that fails too, nothing can be said of it any more."""
        try:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
            self.end = end
        except OSError as failed:
            self.broken = error or failed
