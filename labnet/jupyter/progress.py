"""A progress bar that shows the loss."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from labnet.stats.losses import LossWatch

T = TypeVar("T")


class Progress(Generic[T]):
    """An iterable with a progress bar, made by `progress`."""

    def __init__(self, iterable: Iterable[T], *, loss: Callable[[], float | None] | None, options: dict[str, Any]):
        self._iterable = iterable
        self._loss = loss
        self._options = options

    def __iter__(self) -> Iterator[T]:
        with LossWatch() as watch, _bar(self._iterable, self._options) as bar:
            for item in bar:
                yield item
                value = watch.value if self._loss is None else self._loss()
                if value is not None:
                    bar.set_postfix_str(f"loss={value:.4g}", refresh=False)

    def __len__(self) -> int:
        length = self._options.get("total")
        return len(self._iterable) if length is None else int(length)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"progress({self._iterable!r:.60})"


@contextlib.contextmanager
def _bar(iterable: Iterable[T], options: dict[str, Any]) -> Iterator[Any]:
    """Make the bar; in a notebook its text is updated at the end, because it is saved and exported."""
    from tqdm.auto import tqdm

    if not any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__) or not options.get("leave", True):
        with tqdm(iterable, **options) as bar:
            yield bar
        return
    from IPython.display import display

    bar = tqdm(iterable, display=False, **options)
    place = None if bar.disable else display(bar.container, display_id=True)
    try:
        with bar:
            yield bar
    finally:
        if place is not None:
            place.update(bar.container)


def progress(
    iterable: Iterable[T],
    *,
    description: str | None = None,
    total: int | None = None,
    loss: Callable[[], float | None] | None = None,
    **options: Any,
) -> Progress[T]:
    """Iterate with a progress bar that shows the current loss.

    A widget in a notebook, a line of text in a terminal. The loss is that of the last ``backward()`` in the loop,
    whether it went to a server or not.

    Parameters
    ----------
    iterable : iterable
        What to iterate over, such as the batches of an epoch.
    description : str, optional
        Text in front of the bar.
    total : int, optional
        Number of items, if `iterable` has no length.
    loss : callable, optional
        Returns the loss to show if other processes train:
        ``loss=lambda: server.statistics()["server"]["loss"]``.
    **options
        Passed to tqdm.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(2, requires_grad=True)
    >>> opt = ln.optim.SGD(lr=0.1)
    >>> for step in ln.progress(range(3), disable=True):
    ...     updated = opt((weight**2).sum().backward())
    """
    if not isinstance(iterable, Iterable):
        raise TypeError(f"progress: expected something to iterate over, got {type(iterable).__name__}")
    return Progress(iterable, loss=loss, options={"desc": description, "total": total, **options})
