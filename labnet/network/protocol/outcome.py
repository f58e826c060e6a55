"""The outcome of a gradient: applied, not applied, or unknown."""

from typing import Literal

Applied = Literal["no", "yes", "unknown"]


class Expired(Exception):
    """The graph of a call has expired; `applied` says whether its gradient was applied."""

    def __init__(self, applied: Applied):
        super().__init__(applied)
        self.applied: Applied = applied
