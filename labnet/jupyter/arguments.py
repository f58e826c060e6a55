"""Parsing of magic arguments as in a shell: quotes, backslashes, comments, and a trailing ``;``."""

import re
from argparse import Namespace
from typing import Any

from IPython.core.error import UsageError

_PARTS = re.compile(
    r"""(?P<space>\s+) | (?P<single>'[^']*') | (?P<double>"(?:[^"\\]|\\.)*") | (?P<escaped>\\(?:.|\Z))
    | (?P<end>;) | (?P<hash>\#) | (?P<open>['"]) | (?P<plain>[^\s'"\\;\#]+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r'\\(["\\$`])')


def split(line: str) -> list[str]:
    """Split a line into words.

    Raises
    ------
    UsageError
        If a quote is not closed, or something follows ``;``.

    Examples
    --------
    >>> split("model --name='my model' --port 0;  # for the demo")
    ['model', '--name=my model', '--port', '0']
    """
    words: list[str] = []
    word: str | None = None
    for part in _PARTS.finditer(line):
        kind, text = part.lastgroup, part.group()
        if kind == "open":
            raise UsageError(f"no closing {text} behind {line[: part.start()].strip()!r:.60}")
        if kind == "end":
            _check_nothing_follows(line[part.end() :])
            break
        if kind == "hash" and word is None:
            break
        if kind != "space":
            word = (word or "") + _meaning(kind, text)
        elif word is not None:
            words.append(word)
            word = None
    return words if word is None else [*words, word]


def _meaning(kind: str | None, text: str) -> str:
    if kind == "single":
        return text[1:-1]
    if kind == "double":
        return _ESCAPED.sub(r"\1", text[1:-1])
    return text[1:] if kind == "escaped" else text


def _check_nothing_follows(rest: str) -> None:
    rest = rest.lstrip("; \t\n")
    if rest and not rest.startswith("#"):
        raise UsageError(f"expected nothing behind ';', got {rest!r:.60}: a magic is a line of its own")


def parse(magic: Any, line: str) -> Namespace:
    """Parse the arguments of a magic that `magic_arguments` declares.

    Raises
    ------
    UsageError
        If the line is invalid for this magic.
    """
    found: Namespace = magic.parser.parse_args(split(line))
    return found


def continued(line: str, cell: str) -> tuple[str, str]:
    r"""Return the argument line of a cell magic, with backslash continuations, and the rest of the cell.

    Examples
    --------
    >>> continued("model \\", "  --port 0\nx = 1\n")
    ('model    --port 0', 'x = 1\n')
    """
    while line.endswith("\\") and not line.endswith("\\\\") and not _has_comment(line):
        following, _, cell = cell.partition("\n")
        line = line[:-1] + " " + following.rstrip()
    return line, cell


def _has_comment(line: str) -> bool:
    """Return whether a line ends in a comment, in which a backslash has no effect."""
    try:
        return split(line) == split(line + "x")
    except UsageError:  # an open quote, which the next line may close
        return False
