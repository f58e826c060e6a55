"""The header of accumulation rounds: gradients that a server holds and applies together."""

import re
from typing import NamedTuple

from labnet.errors import WireError
from labnet.network.protocol.headers import ROUND

_TEXT = re.compile(r"([0-9a-f]{8,64}) (0|[1-9][0-9]{0,3}) (0|[1-9][0-9]{0,3})", re.ASCII)


#: Most gradients of a round, and most calls that a request to ``/settle`` may name.
MOST = 4096


class RoundOf(NamedTuple):
    """The round of a backward: its id, its size and the position of the backward.

    With a size of 0, a request to ``/settle`` names the backwards in their order.
    """

    id: str
    size: int
    position: int = 0

    @classmethod
    def read(cls, text: str | None) -> "RoundOf | None":
        """Read the header.

        Raises
        ------
        WireError
            If it is not ``ID COUNT POSITION``.

        Examples
        --------
        >>> RoundOf.read("c0ffee00 4 0")
        RoundOf(id='c0ffee00', size=4, position=0)
        """
        if text is None:
            return None
        found = _TEXT.fullmatch(text)
        if found is None or int(found[2]) > MOST:
            raise WireError(
                f"{ROUND} must be an id of 8 to 64 hex digits, a count up to {MOST} and a position: {text!r:.90}"
            )
        return cls(found[1], int(found[2]), int(found[3]))

    @property
    def is_shared(self) -> bool:
        """Whether the client commits the round."""
        return self.size == 0

    def header(self) -> dict[str, str]:
        """Return the header."""
        return {ROUND: f"{self.id} {self.size} {self.position}"}
