"""Tracebacks of users: without labnet's frames and those of libraries below them."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

_OWN = f"{Path(__file__).parent}/"
_LIBRARIES = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def trim(error: BaseException) -> BaseException:
    """Reduce an error and its causes to the users' frames, and return it.

    A cause without such a frame is dropped. An error without one is a fault of labnet, and stays as it is.

    Examples
    --------
    >>> import labnet as ln
    >>> try:
    ...     ln.ones((2, 3)) @ ln.ones((2, 3))
    ... except ln.errors.ShapeError as error:
    ...     trim(error).__traceback__.tb_next is None
    True
    """
    kept = list(_of_users(error.__traceback__))
    if not kept:
        return error
    current, seen = error, {id(error)}
    while True:
        current.__traceback__ = _chained(kept)
        reason = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if reason is None or id(reason) in seen:
            return error
        kept = list(_of_users(reason.__traceback__))
        if not kept:
            current.__cause__ = None  # hides the context too
            return error
        seen.add(id(reason))
        current = reason


def _of_users(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries outside of labnet; libraries are left out where labnet has called them."""
    below = False
    while traceback is not None:
        below = _is_in(traceback.tb_frame, (_OWN,)) or (below and _is_in(traceback.tb_frame, _LIBRARIES))
        if not below:
            yield traceback
        traceback = traceback.tb_next


def _is_in(frame: FrameType, folders: tuple[str, ...]) -> bool:
    return frame.f_code.co_filename.startswith(folders)


def _chained(entries: list[TracebackType]) -> TracebackType | None:
    chain = None
    for entry in reversed(entries):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return chain
