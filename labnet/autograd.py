"""Reverse-mode differentiation over a graph of nodes.

A node knows its parents and how to vjp a gradient back to them. What a gradient *is* stays open: the
engine only ever adds two of them with ``+``. Above, it is an array, and a tensor where the gradient is to be
differentiated again. Tensors, ops and the network are layers above and subclass `Node`. Nothing here recurses,
so a chain of 50,000 nodes is no deeper than one of five.
"""

import asyncio
import contextvars
import inspect
import itertools
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NoReturn, Protocol, Self

from labnet.errors import GradientError
from labnet.settings import Setting

_recording = contextvars.ContextVar("labnet_recording", default=True)


#: Tells whether operations are recorded for a backward in this context; bound, because every op asks.
is_recording: Callable[[], bool] = _recording.get


def no_grad() -> Setting:
    """Run a block, or a decorated function of any kind, without recording it for a backward.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(2, requires_grad=True)
    >>> with ln.no_grad():
    ...     (weight * 2).requires_grad
    False
    """
    return Setting(_recording, False)


class Run:
    """What a node may know about the backward that it takes part in.

    Attributes
    ----------
    loss : float or None
        Value of the scalar that the backward began at.
    create_graph : bool
        The gradients are to be differentiated again, so they are tensors.
    nodes : sequence of Node
        Those that take part, where one of them is not plain.
    commits : dict of Commit
        What is to be done once all nodes have parts, before the graph is freed; added by nodes, under any key.
    """

    __slots__ = ("_loss", "commits", "create_graph", "nodes")

    def __init__(self, *, loss: Any = None, create_graph: bool = False):
        self._loss = loss
        self.create_graph = create_graph
        self.nodes: Sequence[Node] = ()
        self.commits: dict[Any, Commit] = {}

    @property
    def loss(self) -> float | None:
        """Worked out when asked for, since only what is remote wants to know."""
        return None if self._loss is None else float(self._loss)


class Commit(Protocol):
    """What several nodes do together at the end of a backward; done again if the backward is taken up again."""

    def commit(self) -> Awaitable[None] | None:
        """Do it, or return what has to be awaited for it."""
        ...

    def failure(self, error: BaseException, nodes: "Iterable[Node]") -> BaseException:
        """Return what to raise where it failed, given all nodes of the graph."""
        ...


#: Numbers nodes; bound, because every recorded op asks.
next_number: Callable[[], int] = itertools.count().__next__
_number = attrgetter("number")


class Node:
    """One step of a recorded computation.

    Attributes
    ----------
    parents : sequence of Node or None
        Where each input came from; None where an input needs no gradient.
    number : int
        Greater than those of all nodes that this one depends on.
    """

    number: int

    __slots__ = ("number", "parents")
    #: A node that has to wait for somebody else: its `vjp` returns an awaitable.
    awaits = False
    #: Whether all that matters of a node is its `vjp`.
    plain = True

    def __init_subclass__(cls) -> None:
        """Tell nodes that wait, or take up a failed vjp again, from plain ones."""
        if not {"awaits", "settle", "failure"}.isdisjoint(vars(cls)):
            cls.plain = False

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make a node with the next number."""
        node = object.__new__(cls)
        node.number = next_number()
        return node

    def __init__(self, parents: Sequence["Node | None"] = ()):
        self.parents: Sequence[Node | None] | None = parents

    def vjp(self, gradient: Any, run: Run) -> Any:
        """Return one gradient (or None) per parent, or an awaitable of that list."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of everything kept for the backward."""
        self.parents = None

    def settle(self) -> None:
        """Take note that a whole backward has succeeded and that the graph is kept for another one."""

    def failure(self, error: BaseException, nodes: "Iterable[Node]") -> BaseException:
        """Return what to raise where the vjp of this node failed, given all nodes of the graph."""
        return error

    @property
    def nbytes(self) -> int:
        """Bytes kept for the backward by this node alone."""
        return 0


class Leaf(Node):
    """Where gradients end: a tensor that was not computed, such as a parameter.

    Attributes
    ----------
    owner : weakref
        The tensor that this node stands for.
    grad : tensor or None
        Sum of the gradients of all backward calls so far.
    """

    __slots__ = ("grad", "owner")

    def __init__(self, owner: Any):
        super().__init__(())
        self.owner = weakref.ref(owner)
        self.grad: Any = None

    def release(self) -> None:
        """Keep everything: a leaf takes part in many graphs."""


def check_kept(node: Node) -> None:
    """Raise `GradientError` if a node was freed."""
    if node.parents is None:
        raise GradientError(
            "backward: this graph was freed by an earlier backward; "
            "compute the forward again, or pass retain_graph=True to the first one"
        )


def reachable(root: Node) -> dict[Node, int]:
    """Return every node that `root` depends on, itself first, with the number of its uses in between.

    Raises
    ------
    GradientError
        If a part of the graph was freed by an earlier backward.
    """
    uses = {root: 0}
    order = [root]
    for node in order:
        parents = node.parents
        if parents is None:
            check_kept(node)
            continue
        for parent in parents:
            if parent is not None:
                if parent in uses:
                    uses[parent] += 1
                else:
                    uses[parent] = 1
                    order.append(parent)
    return uses


def needed_for(nodes: Iterable[Node], targets: set[Node]) -> set[Node]:
    """Return the nodes among `nodes` from which one of `targets` can be reached."""
    children: dict[Node, list[Node]] = {}
    for node in nodes:
        for parent in node.parents or ():
            if parent is not None:
                children.setdefault(parent, []).append(node)
    needed = targets.intersection(nodes)
    pending = list(needed)
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in needed:
                needed.add(child)
                pending.append(child)
    return needed


class Sweep:
    """One pass of gradients from a root to the leaves: bookkeeping only, no waiting.

    A node is ready once every node that used it has delivered. `targets` limits the pass to what is
    needed for these nodes; None means every leaf, and every node that awaits.
    """

    def __init__(self, root: Node, gradient: Any, *, run: Run, targets: set[Node] | None = None):
        self.run = run
        self._waiting = reachable(root)
        self.nodes = list(self._waiting)
        self.awaits = any(node.awaits for node in self.nodes)
        self._needed = None if targets is None else needed_for(self.nodes, targets)
        self._targets = targets
        if self._needed is not None:
            self._waiting = dict.fromkeys(self.nodes, 0)
            for node in self._needed.intersection(self.nodes):
                for parent in node.parents or ():
                    if parent is not None:
                        self._waiting[parent] += 1
        run.nodes = self.nodes if self._needed is None else [node for node in self.nodes if node in self._needed]
        self._gradients: dict[Node, Any] = {root: gradient}
        self._ready = [root]
        self.results: dict[Node, Any] = {}

    def take(self) -> tuple[Node, Any] | None:
        """Return a node whose gradient is complete, with that gradient; None if there is none now."""
        while self._ready:
            node = self._ready.pop()
            gradient = self._gradients.pop(node, None)
            is_leaf = type(node) is Leaf
            if gradient is not None and (is_leaf or (self._targets and node in self._targets)):
                self.results[node] = gradient
            if self._needed is not None and node not in self._needed:
                continue
            if gradient is None:
                self.deliver(node, [None] * len(node.parents or ()))
            elif not is_leaf:
                return node, gradient
        return None

    def deliver(self, node: Node, gradients: Sequence[Any]) -> None:
        """Hand the gradients that `node` parts to its parents."""
        waiting, known = self._waiting, self._gradients
        for parent, gradient in zip(node.parents or (), gradients, strict=True):
            if parent is None:
                continue
            if gradient is not None:
                known[parent] = known[parent] + gradient if parent in known else gradient
            left = waiting[parent] = waiting[parent] - 1
            if not left:
                self._ready.append(parent)

    def put_back(self, steps: Iterable[tuple[Node, Any]]) -> None:
        """Make steps that were taken but not delivered ready again."""
        for node, gradient in steps:
            self._gradients[node] = gradient
            self._ready.append(node)

    def finish(self, *, retain_graph: bool) -> dict[Node, Any]:
        """Free the graph unless asked to keep it, and return {node: gradient}."""
        for node in self.nodes:
            if retain_graph:
                node.settle()
            else:
                node.release()
        return self.results


def sweep_now(sweep: Sweep, *, retain_graph: bool) -> dict[Node, Any]:
    """Carry out a sweep in which no node awaits."""
    while (step := sweep.take()) is not None:
        node, gradient = step
        try:
            parts = node.vjp(gradient, sweep.run)
        except Exception as error:
            _raise(node.failure(error, sweep.nodes), error)
        sweep.deliver(node, parts)
    for commit in sweep.run.commits.values():
        try:
            commit.commit()
        except Exception as error:
            _raise(commit.failure(error, sweep.nodes), error)
    return sweep.finish(retain_graph=retain_graph)


def sweep_leaves(root: Node, gradient: Any, *, run: Run, retain_graph: bool) -> dict[Node, Any] | None:
    """Carry out a sweep to all leaves in one loop, as `Sweep` would; None, and nothing done, if a node is not plain.

    This is what every training step runs, so the bookkeeping of `Sweep` is written out in place.
    """
    if type(root) is Leaf:
        return {root: gradient}
    seen = {root}
    inner = [root]
    for node in inner:
        if not node.plain:
            return None
        if node.parents is None:
            check_kept(node)
            continue
        for parent in node.parents:
            if parent is not None and parent not in seen and type(parent) is not Leaf:
                seen.add(parent)
                inner.append(parent)
    gradients = {root: gradient}
    # whatever used a node was made after it
    for node in sorted(inner, key=_number, reverse=True):
        gradient = gradients.pop(node, None)
        if gradient is not None:
            for parent, part in zip(node.parents or (), node.vjp(gradient, run), strict=True):
                if parent is not None and part is not None:
                    gradients[parent] = gradients[parent] + part if parent in gradients else part
    if not retain_graph:
        for node in inner:
            node.release()
    return gradients


def _raise(error: BaseException, reason: BaseException) -> NoReturn:
    """Raise what a node made of the reason why its vjp failed."""
    if error is reason:
        raise error
    raise error from reason


def _start(sweep: Sweep, started: list[tuple[Awaitable[Any], tuple[Node, Any]]]) -> None:
    """Carry out the steps that are ready, and add what has to be awaited, with its step, to `started`."""
    while (step := sweep.take()) is not None:
        node, gradient = step
        try:
            parts = node.vjp(gradient, sweep.run)
        except BaseException:
            sweep.put_back([step])
            raise
        if inspect.isawaitable(parts):
            started.append((parts, step))
        else:
            sweep.deliver(node, parts)


async def _finish_one(
    sweep: Sweep,
    parts: Awaitable[Any],
    step: tuple[Node, Any],
    failed: list[tuple[Node, Any]],
    errors: list[BaseException],
) -> None:
    """Await a step, and deliver it or note why it failed."""
    try:
        found = await parts
    except BaseException as error:
        failed.append(step)
        if not isinstance(error, Exception):
            raise
        errors.append(error)
    else:
        sweep.deliver(step[0], found)


async def sweep_async(sweep: Sweep, *, retain_graph: bool) -> dict[Node, Any]:
    """Carry out a sweep; nodes that await run side by side.

    The first error is raised once the other branches have come to their end, so that nothing is still
    under way when the caller sees it. The same sweep can then be carried on: what was delivered stays.
    """
    for node in sweep.nodes:
        check_kept(node)
    under_way: dict[asyncio.Future[Any], tuple[Node, Any]] = {}
    failed: list[tuple[Node, Any]] = []
    errors: list[BaseException] = []
    started: list[tuple[Awaitable[Any], tuple[Node, Any]]] = []
    try:
        while True:
            _start(sweep, started)
            if len(started) == 1 and not under_way:  # as in most models: nothing to run side by side
                await _finish_one(sweep, *started.pop(), failed, errors)
                continue
            while started:
                parts, step = started.pop(0)
                under_way[asyncio.ensure_future(parts)] = step
            if not under_way:
                break
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                step = under_way.pop(future)
                error = future.exception()
                if error is None:
                    sweep.deliver(step[0], future.result())
                else:
                    failed.append(step)
                    errors.append(error)
    finally:
        for future in under_way:
            future.cancel()
        for parts, step in started:  # another one failed before these were begun
            if inspect.iscoroutine(parts):
                parts.close()
            sweep.put_back([step])
        sweep.put_back([*failed, *under_way.values()])
    if errors:
        _raise(failed[0][0].failure(errors[0], sweep.nodes), errors[0])
    if sweep.run.commits:
        await _commit(sweep)
    return sweep.finish(retain_graph=retain_graph)


async def _commit(sweep: Sweep) -> None:
    """Do what nodes have left to be done at the end, side by side; raise the first error once all are done."""

    async def one(commit: Commit) -> None:
        try:
            doing = commit.commit()
            if doing is not None:
                await doing
        except Exception as error:
            _raise(commit.failure(error, sweep.nodes), error)

    outcomes = await asyncio.gather(*map(one, sweep.run.commits.values()), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def kept_nbytes(root: Node | None) -> int:
    """Return the bytes that the graph under `root` keeps alive for a backward."""
    return 0 if root is None else sum(node.nbytes for node in reachable(root))


class Gradients(Mapping[Any, Any]):
    """Read-only mapping {leaf tensor: its gradient}, as one backward found them.

    Keys are told apart by identity. ``g1 + g2`` adds up, key by key. Where the graph crosses the network the
    mapping has to be awaited first; until then reading it raises `GradientError` and nothing has been sent.
    Awaiting a failed one again takes it up where it stopped.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(2, requires_grad=True)
    >>> gradients = (weight * 3).sum().backward()
    >>> gradients[weight].tolist()
    [3.0, 3.0]
    """

    def __init__(
        self,
        items: Iterable[tuple[Any, Any]] = (),
        *,
        pending: Callable[[], Awaitable[Iterable[tuple[Any, Any]]]] | None = None,
        wrap: Callable[[Any], Any] | None = None,
    ):
        self._found = list(items)
        self._pending = pending
        self._wrap = wrap
        self._items: dict[int, tuple[Any, Any]] | None = None

    def __await__(self) -> Generator[Any, None, "Gradients"]:
        return self._resolve().__await__()

    async def _resolve(self) -> "Gradients":
        if self._pending is not None:
            self._found = list(await self._pending())
            self._pending = None
        return self

    @property
    def is_pending(self) -> bool:
        """Whether they have to be awaited before they can be read."""
        return self._pending is not None

    def found(self) -> list[tuple[Any, Any]]:
        """Return (leaf tensor, gradient) of each; here a gradient may still be an array."""
        if self._pending is not None:
            raise GradientError(
                "these gradients cross the network and were not awaited: write `await loss.backward()`; "
                "nothing was sent so far"
            )
        return self._found

    def _read(self) -> dict[int, tuple[Any, Any]]:
        items = self._items
        if items is None:
            wrap = self._wrap
            found = [(tensor, gradient if wrap is None else wrap(gradient)) for tensor, gradient in self.found()]
            items = self._items = {id(tensor): (tensor, gradient) for tensor, gradient in found}
        return items

    def __getitem__(self, tensor: Any) -> Any:
        return self._read()[id(tensor)][1]

    def __iter__(self) -> Iterator[Any]:
        return iter([tensor for tensor, _ in self._read().values()])

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._read()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __add__(self, other: "Gradients") -> "Gradients":
        if not isinstance(other, Gradients):
            return NotImplemented
        total = dict(self._read())
        for key, (tensor, gradient) in other._read().items():
            total[key] = (tensor, total[key][1] + gradient) if key in total else (tensor, gradient)
        return Gradients(total.values())

    def __repr__(self) -> str:
        if self._pending is not None:
            return "Gradients(not awaited)"
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in self)
        return f"Gradients({shapes or 'no leaves on this side'})"
