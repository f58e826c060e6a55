"""A journal: an append-only file of records with lengths and checksums, whose last record may be torn.

Records are atomic: an incomplete record that a crash leaves at the end is cut off when the file is opened. An error
before the end is damage and is never skipped. This module handles bytes, independent of their meaning.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from labnet.atomic_files import replace_file
from labnet.errors import StoreError

MAGIC = b"labnet journal 1\n"
#: Length of the payload, its CRC-32, and the CRC-32 of these two.
_FRAME = struct.Struct("<QI")
_CHECK = struct.Struct("<I")
HEAD = _FRAME.size + _CHECK.size

Part = bytes | bytearray | memoryview


#: Chunk size for reading a blank tail, in bytes.
_BLOCK = 1 << 20
_WAY_OUT = "'labnet store repair' keeps the updates before it"


class Reader:
    """An iterator over the records of a journal that keeps one in memory at a time.

    Attributes
    ----------
    end : int
        Offset after the last yielded record; 0 until the first line of the file was read.
    torn : int
        Bytes of an incomplete record at the end, after all records were yielded.

    Raises
    ------
    StoreError
        While reading, if the file is missing, no journal, or damaged before its end; `end` is the position.
    """

    def __init__(self, path: Path):
        self._path = path
        self.end = self.torn = 0

    def __iter__(self) -> Iterator[bytes]:
        if not self._path.exists():
            raise StoreError(f"{self._path} is missing: expected the updates since its checkpoint; {self._without()}")
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = file.read(len(MAGIC))
            if begin != MAGIC:
                raise StoreError(
                    f"{self._path} is damaged: it does not begin like a journal of labnet: expected {MAGIC!r}, "
                    f"got {begin!r}; {self._without()}"
                )
            self.end = len(MAGIC)
            while (payload := self._next(file, size)) is not None:
                self.end += HEAD + len(payload)
                yield payload
            self.torn = size - self.end

    def _without(self) -> str:
        """Return the advice for an unreadable journal, which may have contained answered updates."""
        return f"'labnet store repair {self._path.parent}' goes on from the checkpoint, as another incarnation"

    def _next(self, file: BinaryIO, size: int) -> bytes | None:
        """Return the next record; None at the end or at a torn last record."""
        head = file.read(HEAD)
        if len(head) < HEAD:
            return None
        (check,) = _CHECK.unpack_from(head, _FRAME.size)
        if zlib.crc32(head[: _FRAME.size]) != check:
            if not any(head) and _is_blank(file):  # the file grew, but its data did not reach the disk
                return None
            raise StoreError(f"{self._path} is damaged at byte {self.end}: not the head of a record; {_WAY_OUT}")
        length, checksum = _FRAME.unpack_from(head)
        if self.end + HEAD + length > size:
            return None
        payload = file.read(length)
        if zlib.crc32(payload) != checksum:
            if _is_blank(file):
                return None
            raise StoreError(
                f"{self._path} is damaged: the record at byte {self.end} does not have its checksum; {_WAY_OUT}"
            )
        return payload


def _is_blank(file: BinaryIO) -> bool:
    """Return whether the rest of the file is empty or zeros."""
    while block := file.read(_BLOCK):
        if any(block):
            return False
    return True


class Journal:
    """A journal that is open for writing.

    Parameters
    ----------
    path : Path
    end : int
        Offset of the end of the last record, from a `Reader`; the rest is cut off. With 0 the file is atomically
        replaced by an empty journal, so that no crash leaves a journal without its first line.

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
    ...     list(Reader(Path(folder) / "journal"))
    [b'one record']
    """

    def __init__(self, path: Path, *, end: int):
        self.path = path
        if end == 0:
            replace_file(path, MAGIC, mode=0o600)
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._before = self.end = end or len(MAGIC)
        #: The error that prevents further writes, or None.
        self.broken: OSError | None = None
        try:
            os.ftruncate(self._file, self.end)
            os.fsync(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, parts: Sequence[Part], *, sync: bool) -> None:
        """Append a record and optionally sync it to disk; on an error it is not in the journal.

        Raises
        ------
        OSError
            If it could not be written; the journal is unchanged or `broken`.
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
        """Remove the last record.

        Raises
        ------
        OSError
            If that fails; the journal is then `broken`.
        """
        self.check()
        self._cut(self._before, None)
        self.check()

    def check(self) -> None:
        """Raise the error that broke the journal, if any."""
        if self.broken is not None:
            raise OSError(
                self.broken.errno, f"{self.broken.strerror}; nothing more is written until the store is opened again"
            )

    def sync(self) -> None:
        """Sync the journal to disk; after a failure it is `broken`."""
        try:
            os.fsync(self._file)
        except OSError as error:  # the kernel drops data that it failed to write: a second fsync proves nothing
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
        """Truncate the journal to its last valid end; if that fails, mark it as broken."""
        try:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
            self.end = end
        except OSError as failed:
            self.broken = error or failed
