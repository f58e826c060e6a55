"""Partial updates: which servers of one backward have applied their part."""

from collections.abc import Iterable

from labnet.autograd import Node
from labnet.errors import PartialUpdate, RemoteError
from labnet.network.client.replay import RecordedForward


class RemoteNode(Node):
    """A node for a call of a remote model.

    Attributes
    ----------
    server : str
        URL of the server.
    applied : "yes", "no" or "unknown"
        Whether the server has applied its part of the backward.
    """

    __slots__ = ("applied", "server")

    def __init__(self, server: str):
        self.server = server
        self.applied = "no"

    def record(self) -> RecordedForward:
        """Return the record of this call, for replaying the forward that contains it."""
        raise NotImplementedError

    def failure(self, error: BaseException, nodes: Iterable[Node]) -> BaseException:
        """Return an error that names the state of every server if only some have applied their part."""
        return partial_update(error, nodes)


def states_of(nodes: Iterable[Node]) -> dict[str, str]:
    """Return whether each server has applied its part, by URL.

    Several calls of one server count as one: "unknown" if any is, "no" if any is not applied.
    """
    states: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, RemoteNode):
            found = {node.applied, states.get(node.server, node.applied)}
            states[node.server] = next(state for state in ("unknown", "no", "yes") if state in found)
    return states


def partial_update(error: BaseException, nodes: Iterable[Node], *, here: dict[str, str] | None = None) -> BaseException:
    """Return the error of a backward, as a `PartialUpdate` if a server has applied its part.

    Parameters
    ----------
    error : exception
        The error of the first failing part.
    nodes : iterable of Node
        The nodes of the graph.
    here : dict of str to str, optional
        State of the caller's own server, if it is a server.
    """
    nodes = list(nodes)
    states = {**states_of(nodes), **(here or {})}
    some_applied = any(isinstance(node, RemoteNode) and node.applied == "yes" for node in nodes)
    if isinstance(error, PartialUpdate):
        states |= error.servers
        if states == error.servers:
            return error
    elif not some_applied or set(states.values()) == {"yes"}:
        return error
    told = "; ".join(f"{server}: applied: {state}" for server, state in states.items())
    reason = str(error) or type(error).__name__
    route = error.route if isinstance(error, RemoteError) else ""
    combined = PartialUpdate(
        f"a backward was applied in part only ({told}): {reason}; call backward again to complete it",
        servers=states,
        server=error.server if isinstance(error, RemoteError) else "",
        route=route,
        applied="unknown" if "unknown" in states.values() else "no",
    )
    combined.__cause__ = error
    return combined
