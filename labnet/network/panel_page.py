"""The panel as a web page: its static files, and the script that it shares with the notebook widget."""

import functools
from pathlib import Path

from labnet import wire
from labnet.network.server.routing import Reply, Request, Route

_FOLDER = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'",
    "Cache-Control": "no-cache",
}
_HTML = "text/html; charset=utf-8"
_JAVASCRIPT = "text/javascript; charset=utf-8"
#: Files of the script, in order.
_PARTS = (
    *("style.js", "drawing.js", "charts.js", "tree.js", "kernels.js", "tables.js", "controls.js", "token.js"),
    *("panel.js", "saving.js", "start.js"),
)


@functools.cache
def script() -> str:
    """Return the panel's JavaScript as one module without imports."""
    return "\n".join((_FOLDER / part).read_text(encoding="utf-8") for part in _PARTS)


def routes() -> dict[str, Route]:
    """Return the routes of the page; they contain no data and need no token on this machine."""
    return {
        "/": _static(_page(), "The panel as a page", _HTML),
        "/panel.js": _static(script().encode(), "What draws the panel", _JAVASCRIPT),
    }


@functools.cache
def _page() -> bytes:
    return (_FOLDER / "index.html").read_bytes()


def _static(content: bytes, summary: str, content_type: str) -> Route:
    async def answer(request: Request) -> Reply:
        return Reply(wire.Body(content_type, [content]), dict(_HEADERS))

    return Route(("GET",), answer, readable=True, counted=False, summary=summary, replies=(content_type,))
