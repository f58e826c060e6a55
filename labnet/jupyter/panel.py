"""The live panel: a widget that shows a server's routes and curves, also while a cell blocks.

One thread for all panels takes snapshots five times a second and is the only one that writes to widgets. They travel
as one text, because the machinery of widgets walks through every number of what is not (measured: a fifth of the cost).
"""

import secrets
from datetime import datetime
from typing import Any

import anywidget
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import display

from labnet import wire
from labnet.jupyter.picture import picture
from labnet.jupyter.sources import Ended, Local, Remote, Source
from labnet.jupyter.ticker import TICKER
from labnet.network import Server, panel_page

_PICTURE_SECONDS = 2.0
_CAPABILITY_SECONDS = 4.0


class Panel(anywidget.AnyWidget):  # type: ignore[misc]
    """Live statistics of a server.

    Parameters
    ----------
    source : Server, str or Source
        A server of this process, or the URL of any server; or what else gives snapshots.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
    ...     panel = server.panel()
    ...     panel.data["statistics"]["hello"]["hits"]
    0
    >>> panel.close()
    """

    _esm = panel_page.script()
    #: The newest snapshot.
    data = traitlets.Dict()
    #: What the browser knows: the name of this panel, and the snapshot as JSON.
    sent = traitlets.Dict().tag(sync=True)

    def __init__(self, source: Server | str | Source):
        self._source: Source = _source_of(source)
        self._seen: dict[str, Any] = {}
        self._drawn: dict[str, Any] = {}
        self._places: list[Any] = []
        self._picture_due = self._capability_due = 0.0
        super().__init__(sent={"panel": secrets.token_hex(8), "snapshot": "{}"})
        self.on_msg(self._hear)
        self.refresh()
        TICKER.add(self)

    @property
    def source(self) -> Source:
        """The server that is shown."""
        return self._source

    @property
    def live(self) -> bool:
        """Whether there may be something new to show."""
        return self.comm is not None and self._source.live

    def tick(self, now: float) -> None:
        """Send what is new to the browser; `now` is in seconds of a monotonic clock."""
        self.refresh()
        if now >= self._capability_due:
            self._capability_due = now + _CAPABILITY_SECONDS
            self.send({"capability": self._source.capability()})  # a message: it is in no trait and never saved
        if now >= self._picture_due:
            self._picture_due = now + _PICTURE_SECONDS
            self.keep_picture()

    def catch_up(self) -> None:
        """Send what is new at this moment, with the still picture."""
        self._source.renew()
        self.refresh()
        self.keep_picture()

    def refresh(self) -> None:
        """Take a new snapshot and send it to the browser if anything has changed."""
        snapshot = {**self._source.snapshot(), "panel": self.sent["panel"]}
        if _without_clock(snapshot) != _without_clock(self._seen):
            self._seen = snapshot
            self.sent = {"panel": snapshot["panel"], "snapshot": _text(snapshot)}
            self.data = snapshot

    def keep_picture(self) -> None:
        """Bring the still picture below the panel up to date: it is there in a saved notebook too."""
        if self._drawn is self._seen:
            return
        self._drawn = self._seen
        for place in self._places:
            place.update(self._still(), raw=True)

    def end(self) -> None:
        """Show how it ended and let go of the server; where another took its place, of the widget too.

        The widget of a server that was stopped stays: after a reload of the page only it can still be changed.
        """
        self._source.close()
        if self.comm is not None:
            self.refresh()
        self.keep_picture()
        self._places.clear()
        replaced = self._source.replaced
        self._source = Ended(self._seen, repr(self._source))
        if replaced:
            self.layout.close()  # a widget of its own
            self.close()

    def _still(self) -> dict[str, str]:
        return {"text/html": picture(self._seen, when=f"{datetime.now():%Y-%m-%d %H:%M:%S}"), "text/plain": repr(self)}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, **self._still()}, metadata

    def _ipython_display_(self) -> None:
        """Show the panel, and below it a still picture for when there is no kernel; a live panel hides it."""
        if self.comm is None:
            display(self._still(), raw=True)
            return
        data, metadata = self._repr_mimebundle_()
        shell = get_ipython()
        if not hasattr(shell, "kernel"):
            display(data, metadata=metadata, raw=True)
            return
        shell.events.register("post_run_cell", TICKER.catch_up)  # once, however many panels there are
        display({**data, "text/html": ""}, metadata=metadata, raw=True)
        self._drawn = self._seen
        self._places.append(display(self._still(), raw=True, display_id=secrets.token_hex(16)))

    def _hear(self, _: Any, content: Any, __: Any) -> None:
        """Do what a button asks for that could not reach the server; the kernel gets to it when the cell ends."""
        if content == {"stop": True}:
            self._source.stop()

    def __repr__(self) -> str:
        return f"Panel({self._source!r})"


def _source_of(given: Server | str | Source) -> Source:
    if isinstance(given, str):
        return Remote(given)
    return Local(given) if isinstance(given, Server) else given


def _text(snapshot: dict[str, Any]) -> str:
    """Write a snapshot as JSON; what is not finite becomes null."""
    return b"".join(wire.encode_json(snapshot).parts).decode()


def _without_clock(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Leave out what changes although nothing has happened."""
    if "statistics" not in snapshot:
        return snapshot
    statistics = dict(snapshot["statistics"])
    statistics["server"] = {k: v for k, v in statistics["server"].items() if k != "uptime"}
    branches = {k: _without_clock({"statistics": v}) for k, v in snapshot.get("branches", {}).get("known", {}).items()}
    return {**snapshot, "statistics": statistics, "branches": branches}
