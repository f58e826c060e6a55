"""The loss of the backwards that begin in a thread, for whoever wants to show it."""

import threading
from types import TracebackType

#: The open watches; nothing is noted while there are none.
watches: list["LossWatch"] = []


class LossWatch:
    """Notes the loss where a backward begins in the thread that opened it, until it is closed.

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
        """Take a loss down if it is of the own thread."""
        if thread == self._thread:
            self.value = loss


def note(loss: float) -> None:
    """Tell the open watches the loss of a backward that begins here."""
    thread = threading.get_ident()
    for watch in tuple(watches):
        watch.note(loss, thread)
