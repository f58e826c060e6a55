"""The live panel: a widget that shows a server's routes and loss, also while a cell blocks.

One thread for all panels asks for snapshots four times a second and is the only one that writes to widgets.
"""

import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from labnet import network
from labnet.errors import RemoteError
from labnet.jupyter.picture import picture
from labnet.network import RemoteModel, Server, remote_model

log = logging.getLogger("labnet.jupyter")

_INTERVAL_SECONDS = 0.25
_SCRIPT = Path(network.__file__).parent / "page" / "panel.js"


class Panel(anywidget.AnyWidget):  # type: ignore[misc]
    """Live statistics of a server.

    Parameters
    ----------
    source : Server or str
        A server of this process, or the URL of any server.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
    ...     panel = server.panel()
    ...     panel.data["statistics"]["hello"]["hits"]
    0
    >>> panel.close()
    """

    _esm = _SCRIPT.read_text()  # given a path, anywidget keeps every widget that was ever made: it watches the file
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, source: Server | str):
        self._source: Server | RemoteModel = (
            remote_model(source, timeout=2.0, blocking=True) if isinstance(source, str) else source
        )
        self._seen: dict[str, Any] = {}
        self._places: list[Any] = []
        super().__init__()
        self.refresh()
        _TICKER.add(self)

    def refresh(self) -> None:
        """Take a new snapshot and send it to the browser if anything has changed."""
        try:
            snapshot = self._source.snapshot()
        except RemoteError as error:
            snapshot = {**self._seen, "unreachable": str(error)}
        if _without_clock(snapshot) != _without_clock(self._seen):
            self._seen = snapshot
            self.data = snapshot

    @property
    def source(self) -> Server | RemoteModel:
        """The server that is shown."""
        return self._source

    @property
    def live(self) -> bool:
        """Whether there may be something new to show."""
        return self.comm is not None and (isinstance(self._source, RemoteModel) or self._source.running)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None or not self._seen.get("statistics"):
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": picture(self._seen)}, metadata

    def _ipython_display_(self) -> None:
        """Show the panel under an id, so that its place can be given the last picture."""
        bundle = self._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        self._places.append(display(data, metadata=metadata, raw=True, display_id=secrets.token_hex(16)))

    def keep_picture(self) -> None:
        """Put the last picture where the panel was shown, and let go of the widget: a saved notebook has it too."""
        for place in self._places:
            if place is not None:  # outside a notebook there is no place to update
                place.update({"text/html": picture(self._seen), "text/plain": repr(self._source)}, raw=True)
        if self._places:
            self._places.clear()
            self.layout.close()  # a widget of its own
            self.close()


def _without_clock(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Leave out what changes although nothing has happened."""
    if "statistics" not in snapshot:
        return snapshot
    statistics = dict(snapshot["statistics"])
    statistics["server"] = {k: v for k, v in statistics["server"].items() if k != "uptime"}
    return {**snapshot, "statistics": statistics}


class Ticker:
    """Refreshes the live panels from a thread that exists as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._panels: list[Panel] = []
        self._thread: threading.Thread | None = None

    def add(self, panel: Panel) -> None:
        """Refresh a panel from now on, until it is closed or its server has stopped."""
        with self._lock:
            self._panels.append(panel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labnet-panels", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            with self._lock:
                panels = list(self._panels)
            ended = []
            for panel in panels:
                try:
                    live = panel.live  # asked first: what happens until a server stops is still shown
                    panel.refresh()
                    if not live:
                        panel.keep_picture()
                except Exception:  # must not end the other panels
                    log.exception("a panel of %r stopped", panel.source)
                    live = False
                if not live:
                    ended.append(panel)
            with self._lock:
                self._panels = [panel for panel in self._panels if not any(panel is other for other in ended)]
                if not self._panels:
                    self._thread = None
                    return


_TICKER = Ticker()
