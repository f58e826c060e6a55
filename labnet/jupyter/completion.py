"""Completion of the magics' arguments: options, and suitable names for each argument."""

import types
from collections.abc import Callable
from typing import Any

from labnet.network import RemoteModel, discovery, servers
from labnet.nn import Module
from labnet.optim import Optimizer

#: Returns candidates for an argument from the user's namespace.
Source = Callable[[dict[str, Any]], list[str]]


def models(namespace: dict[str, Any]) -> list[str]:
    """Return the names of servable objects: modules, remote models and the user's functions."""
    kinds = (Module, RemoteModel, types.FunctionType)
    return [name for name, value in namespace.items() if not name.startswith("_") and isinstance(value, kinds)]


def optimizers(namespace: dict[str, Any]) -> list[str]:
    """Return the names for ``--optimizer``."""
    return ["adam", "none", "sgd", *(name for name, value in namespace.items() if isinstance(value, Optimizer))]


def own_servers(namespace: dict[str, Any]) -> list[str]:
    """Return the names of the servers of this process."""
    return [server.name for server in servers().values()]


def all_servers(namespace: dict[str, Any]) -> list[str]:
    """Return the names and addresses of this user's servers on this machine."""
    return [word for entry in discovery.entries() for word in (entry.name, entry.url.removeprefix("http://"))]


def variables(namespace: dict[str, Any]) -> list[str]:
    """Return the names of string variables, which may hold a token."""
    return [name for name, value in namespace.items() if not name.startswith("_") and isinstance(value, str)]


def nothing(namespace: dict[str, Any]) -> list[str]:
    """Return no candidates."""
    return []


#: Candidates after an option; options without a value are not listed.
_VALUES: dict[str, Source] = {
    **dict.fromkeys(("-o", "--optimizer"), optimizers),
    **dict.fromkeys(("-p", "--port", "--lr", "--name", "--timeout"), nothing),
    "--token": variables,
}


class Completer:
    """Completes the arguments of one magic.

    Parameters
    ----------
    options : list of str
        Options of the magic.
    positions : list of Source
        Candidates for each positional argument.
    after : dict of str to Source
        Candidates for the second argument, by the first one, if they depend on it.
    """

    def __init__(self, options: list[str], positions: list[Source], after: dict[str, Source] | None = None):
        self._options = options
        self._positions = positions
        self._after = after or {}

    def __call__(self, shell: Any, event: Any) -> list[str]:
        """Return the completions of the word before the cursor, in IPython's interface."""
        words = event.text_until_cursor.split()[1:]
        current = "" if event.text_until_cursor.endswith(" ") else words.pop()
        offered = self._options if current.startswith("-") else self._source(words)(shell.user_ns)
        return sorted({word for word in offered if word.startswith(current)})

    def _source(self, words: list[str]) -> Source:
        """Return the source of candidates after these words."""
        if words and words[-1] in _VALUES:
            return _VALUES[words[-1]]
        given = [word for before, word in zip(["", *words], words, strict=False) if not _is_option(before, word)]
        if given and given[0] in self._after:
            return self._after[given[0]] if len(given) == 1 else nothing
        return self._positions[len(given)] if len(given) < len(self._positions) else nothing


def _is_option(before: str, word: str) -> bool:
    """Return whether a word is an option or the value of the previous option."""
    return word.startswith("-") or before in _VALUES


def register(shell: Any, magics: Any) -> None:
    """Complete the arguments of labnet's magics in a shell."""
    actions: dict[str, Source] = {"list": nothing, "stop": own_servers, "panel": all_servers}
    completers = {
        "serve_model": Completer(_options(magics.serve_model), [models]),
        "remote_model": Completer(_options(magics.remote_model), [all_servers]),
        "labnet": Completer(_options(magics.labnet), [lambda namespace: list(actions)], actions),
    }
    for name, completer in completers.items():
        for key in (f"%{name}", f"%%{name}"):
            shell.set_hook("complete_command", completer, str_key=key)


def _options(magic: Any) -> list[str]:
    """Return the long options of a magic, from its parser."""
    return [option for action in magic.parser._actions for option in action.option_strings if option.startswith("--")]
