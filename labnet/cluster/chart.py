"""A chart of the intervals in which parts of models computed, and their utilisation."""

from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = {"forward": "#2f7fd6", "backward": "#d9622b"}
#: Colours of the plot style ``labnet.jupyter.neutral``, readable in light and dark notebooks.
_GROUND, _TEXT = "#f5f6f8", "#4d525b"
#: Sizes in pixels; together no wider than a cell of JupyterLab in a window of 1280.
_WIDTH, _ROW, _LABEL, _MARGIN = 640, 22, 130, 10

Intervals = Sequence[tuple[str, float, float]]


class Utilisation:
    """Intervals of computation by part; drawn in a notebook.

    Attributes
    ----------
    parts : dict of str to list of (str, float, float)
        Name, start and end of each interval, in seconds.

    Examples
    --------
    >>> Utilisation({"a": [("forward", 0.0, 1.0)], "b": [("forward", 1.0, 2.0)]})
    a   50 %  ██████████··········
    b   50 %  ··········██████████
    """

    def __init__(self, parts: Mapping[str, Intervals]):
        self.parts = {part: [(str(k), float(b), float(e)) for k, b, e in given] for part, given in parts.items()}

    def between(self, begin: float, end: float) -> "Utilisation":
        """Return the utilisation within a time span, in seconds since 1970."""
        return Utilisation(
            {
                part: [(kind, max(b, begin), min(e, end)) for kind, b, e in given if e > begin and b < end]
                for part, given in self.parts.items()
            }
        )

    @property
    def span(self) -> tuple[float, float]:
        """Start of the first and end of the last interval."""
        moments = [moment for given in self.parts.values() for _, b, e in given for moment in (b, e)]
        return (min(moments), max(moments)) if moments else (0.0, 0.0)

    def share(self, part: str) -> float:
        """Return the fraction of the time that a part of a model computed."""
        begin, end = self.span
        return sum(e - b for _, b, e in self.parts[part]) / (end - begin) if end > begin else 0.0

    def __repr__(self) -> str:
        begin, end = self.span
        step = (end - begin) / 20 or 1.0
        width = max(map(len, self.parts), default=0)
        lines = []
        for part, given in self.parts.items():
            middles = [begin + (cell + 0.5) * step for cell in range(20)]
            bar = "".join("█" if any(b <= m < e for _, b, e in given) else "·" for m in middles)
            lines.append(f"{part:<{width}}  {self.share(part):4.0%}  {bar}".replace("%", " %"))
        return "\n".join(lines)

    def svg(self) -> str:
        """Return the chart as SVG: a row for each part, forwards blue and backwards orange."""
        begin, end = self.span
        scale = _WIDTH / ((end - begin) or 1.0)
        rows = []
        for position, (part, given) in enumerate(self.parts.items()):
            top = position * _ROW
            rows.append(
                f'<text x="0" y="{top + 15}">{escape(part)}</text>'
                f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{self.share(part):.0%}</text>'
            )
            rows += [
                f'<rect x="{_LABEL + (b - begin) * scale:.2f}" y="{top + 3}" width="{max((e - b) * scale, 1.0):.2f}" '
                f'height="{_ROW - 6}" fill="{_COLOURS.get(kind, "#8a94a5")}"/>'
                for kind, b, e in given
            ]
        height = len(self.parts) * _ROW + 20
        width, total = _WIDTH + _LABEL + 2 * _MARGIN, height + 2 * _MARGIN
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" '
            f'viewBox="{-_MARGIN} {-_MARGIN} {width} {total}" font-family="sans-serif" font-size="12" fill="{_TEXT}">'
            f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="{width}" height="{total}" fill="{_GROUND}"/>{"".join(rows)}'
            f'<text x="{_LABEL}" y="{height - 5}">0</text>'
            f'<text x="{_WIDTH + _LABEL}" y="{height - 5}" text-anchor="end">{(end - begin) * 1e3:.0f} ms</text></svg>'
        )

    def _repr_svg_(self) -> str:
        return self.svg()
