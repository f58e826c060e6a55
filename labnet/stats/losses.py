"""Watches of the loss of backwards in a thread, for display."""

import threading
from types import TracebackType

#: The open watches; without one, no loss is recorded.
watches: list["LossWatch"] = []


class LossWatch:
    """Records the losses of backwards in the thread that opened it, until it is closed.

    Attributes
    ----------
    value : float or None
        The last loss.

    Examples
    --------
    >>> import labnet as ln
    >>> with LossWatch() as watch:
    ...     gradients = ln.ones(2, requires_grad=True).sum().backward()
    ...     watch.value
    2.0
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._thread = 0

    def __enter__(self) -> "LossWatch":
        self._thread = threading.get_ident()
        watches.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in watches:
            watches.remove(self)

    def note(self, loss: float, thread: int) -> None:
        """Record a loss of the own thread."""
        if thread == self._thread:
            self.value = loss


def note(loss: float) -> None:
    """Report the loss of a backward that starts here to the open watches."""
    thread = threading.get_ident()
    for watch in tuple(watches):
        watch.note(loss, thread)
