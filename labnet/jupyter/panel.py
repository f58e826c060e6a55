"""The live panel: a widget that shows a server's routes and curves, even while a cell blocks.

One thread for all panels takes snapshots five times a second and is the only writer to widgets. Snapshots are sent as
one string, because ipywidgets traverses every number of other values (five times the cost).
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
from labnet.jupyter.plots import drawing
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
        A server of this process, the URL of any server, or another source of snapshots.

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
    #: The latest snapshot.
    data = traitlets.Dict()
    #: State of the browser: the name of this panel, and the snapshot as JSON.
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
        """The source of the snapshots."""
        return self._source

    @property
    def live(self) -> bool:
        """Whether new snapshots may follow."""
        return self.comm is not None and self._source.live

    def tick(self, now: float) -> None:
        """Send changes to the browser; `now` is in seconds of a monotonic clock."""
        self.refresh()
        if now >= self._capability_due:
            self._capability_due = now + _CAPABILITY_SECONDS
            self.send({"capability": self._source.capability()})  # as a message, because traits are saved
        if now >= self._picture_due:
            self._picture_due = now + _PICTURE_SECONDS
            self.keep_picture()

    def catch_up(self) -> None:
        """Send the current snapshot and update the static picture."""
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
        """Update the static picture below the panel, which is saved with the notebook."""
        if self._drawn is self._seen:
            return
        self._drawn = self._seen
        for place in self._places:
            place.update(self._still(), raw=True)

    def end(self) -> None:
        """Show the last state and release the server; if it was replaced, release the widget too.

        The widget of a stopped server is kept: after a reload of the page only the widget can be updated.
        """
        self._source.close()
        if self.comm is not None:
            self.refresh()
        self.keep_picture()
        self._places.clear()
        replaced = self._source.replaced
        self._source = Ended(self._seen, repr(self._source))
        if replaced:
            self.layout.close()  # a separate widget
            self.close()

    @staticmethod
    def axes() -> Any:
        """Return the axes of a new figure, in colours for light and dark notebooks."""
        with drawing(None) as axes:
            return axes

    def _still(self) -> dict[str, str]:
        return {"text/html": picture(self._seen, when=f"{datetime.now():%Y-%m-%d %H:%M:%S}"), "text/plain": repr(self)}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, **self._still()}, metadata

    def _ipython_display_(self) -> None:
        """Show the panel, and below it a static picture, which a live panel hides."""
        if self.comm is None:
            display(self._still(), raw=True)
            return
        data, metadata = self._repr_mimebundle_()
        shell = get_ipython()
        if not hasattr(shell, "kernel"):
            display(data, metadata=metadata, raw=True)
            return
        shell.events.register("post_run_cell", TICKER.catch_up)  # only once for all panels
        display({**data, "text/html": ""}, metadata=metadata, raw=True)
        self._drawn = self._seen
        self._places.append(display(self._still(), raw=True, display_id=secrets.token_hex(16)))

    def _hear(self, _: Any, content: Any, __: Any) -> None:
        """Handle a button that could not reach the server; the kernel handles it when the cell ends."""
        if content == {"stop": True}:
            self._source.stop()
        elif isinstance(content, dict) and isinstance(content.get("control"), list):
            self._source.control(*map(str, content["control"][:2]))

    def __repr__(self) -> str:
        return f"Panel({self._source!r})"


def _source_of(given: Server | str | Source) -> Source:
    if isinstance(given, str):
        return Remote(given)
    return Local(given) if isinstance(given, Server) else given


def _text(snapshot: dict[str, Any]) -> str:
    """Encode a snapshot as JSON; non-finite numbers become null."""
    return b"".join(wire.encode_json(snapshot).parts).decode()


def _without_clock(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot without the fields that change with time only."""
    if "statistics" not in snapshot:
        return snapshot
    statistics = dict(snapshot["statistics"])
    statistics["server"] = {k: v for k, v in statistics["server"].items() if k != "uptime"}
    clients = {k: {**v, "seconds_ago": 0} for k, v in snapshot.get("clients", {}).items()}
    branches = {k: _without_clock({"statistics": v}) for k, v in snapshot.get("branches", {}).get("known", {}).items()}
    return {**snapshot, "statistics": statistics, "branches": branches, "clients": clients, "process": 0}
