"""Reverse-mode differentiation over a graph of nodes.

A node has parents and a vector-Jacobian product that maps its gradient to theirs. The engine only adds gradients with
``+`` and is otherwise independent of their type. In higher layers a gradient is an array, or a tensor for higher
derivatives. Tensors, ops and the network subclass `Node`. Nothing here recurses, so a chain of 50,000 nodes needs no
more stack than one of five.
"""

import contextvars
import inspect
import itertools
import warnings
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NoReturn, Protocol, Self

from labnet.errors import GradientError
from labnet.memory import add, owner_of
from labnet.settings import Setting

_recording = contextvars.ContextVar("labnet_recording", default=True)


#: Returns whether operations are recorded in this context; bound once, because every op calls it.
is_recording: Callable[[], bool] = _recording.get


def no_grad() -> Setting:
    """Run a block or a decorated function of any kind without recording it for a backward.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(2, requires_grad=True)
    >>> with ln.no_grad():
    ...     (weight * 2).requires_grad
    False
    """
    return Setting(_recording, False)


def enable_grad() -> Setting:
    """Run a block or a decorated function of any kind with recording, also inside of `no_grad`.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(2, requires_grad=True)
    >>> with ln.no_grad(), ln.enable_grad():
    ...     (weight * 2).requires_grad
    True
    """
    return Setting(_recording, True)


def set_grad_enabled(mode: bool) -> Setting:
    """Run a block or a decorated function with recording or without it: `enable_grad` or `no_grad`.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.set_grad_enabled(False):
    ...     ln.is_grad_enabled()
    False
    """
    return Setting(_recording, mode)


def is_grad_enabled() -> bool:
    """Return whether operations are recorded here.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.is_grad_enabled()
    True
    """
    return is_recording()


class Run:
    """The properties of a backward that its nodes can read.

    Attributes
    ----------
    loss : float or None
        Value of the scalar at which the backward started.
    create_graph : bool
        Whether gradients are tensors, for higher derivatives.
    nodes : sequence of Node
        The nodes of the backward, if one of them is not plain.
    commits : dict of Commit
        Actions of nodes, by any key, for the end of the backward, before the graph is freed.
    """

    __slots__ = ("_loss", "commits", "create_graph", "nodes")

    def __init__(self, *, loss: Any = None, create_graph: bool = False):
        self._loss = loss
        self.create_graph = create_graph
        self.nodes: Sequence[Node] = ()
        self.commits: dict[Any, Commit] = {}

    @property
    def loss(self) -> float | None:
        """The loss as a number, computed on demand, because only remote nodes need it."""
        return None if self._loss is None else float(self._loss)


class Commit(Protocol):
    """A common action of several nodes at the end of a backward; repeated if the backward is resumed."""

    def commit(self) -> Awaitable[None] | None:
        """Run the action, or return an awaitable of it."""
        ...

    def failure(self, error: BaseException, nodes: "Iterable[Node]") -> BaseException:
        """Return the error to raise after a failure, given all nodes of the graph."""
        ...


#: Counter of nodes; bound once, because every recorded op calls it.
next_number: Callable[[], int] = itertools.count().__next__
_number = attrgetter("number")


class Node:
    """One step of a recorded computation, in the graph for backwards.

    Attributes
    ----------
    parents : sequence of Node or None
        The node of each input; None for an input that needs no gradient.
    number : int
        Greater than the numbers of all nodes that this one depends on.
    """

    number: int

    __slots__ = ("__weakref__", "number", "parents")
    #: Whether `vjp` returns an awaitable, because it waits for a server.
    awaits = False
    #: Whether the node only defines `vjp`.
    plain = True

    def __init_subclass__(cls) -> None:
        """Mark classes as not plain that await or that handle failed and repeated backwards."""
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
        """Compute the vector-Jacobian product: one gradient (or None) per parent, or an awaitable of these."""
        raise NotImplementedError

    def release(self) -> None:
        """Drop everything that is saved for the backward."""
        self.parents = None

    def settle(self) -> None:
        """Prepare for another backward after a successful one with a retained graph."""

    def failure(self, error: BaseException, nodes: "Iterable[Node]") -> BaseException:
        """Return the error to raise after this node's vjp failed, given all nodes of the graph."""
        return error

    @property
    def saved(self) -> Sequence[Any]:
        """Arrays that this node keeps for the backward; numbers and None may be among them."""
        return ()

    @property
    def nbytes(self) -> int:
        """Bytes that this node keeps for the backward, some of which others may keep too."""
        return sum([getattr(each, "nbytes", 0) for each in self.saved])


class Leaf(Node):
    """The node of a tensor that was not computed, such as a parameter.

    Attributes
    ----------
    owner : weakref
        The tensor of this node.
    grad : tensor or None
        Sum of the gradients of all backwards so far.
    """

    __slots__ = ("grad", "owner")

    def __init__(self, owner: Any):
        super().__init__(())
        self.owner = weakref.ref(owner)
        self.grad: Any = None

    def accumulate(self, gradient: Any) -> None:
        """Add the gradient of a backward to `grad`, which is not None."""
        self.grad = add(self.grad, gradient, others=1)

    def release(self) -> None:
        """Keep everything: a leaf belongs to many graphs."""


class Hooks:
    """The hooks of one node.

    Attributes
    ----------
    functions : dict
        Functions by number, each called with the gradient of the node; a result other than None replaces it.
    grad : tensor or None
        Sum of the gradients of all backwards, if the node retains it.
    """

    def __init__(self) -> None:
        self.functions: dict[int, Callable[[Any], Any]] = {}
        self.grad: Any = None

    def apply(self, gradient: Any) -> Any:
        """Return the gradient after all functions."""
        for function in list(self.functions.values()):
            found = function(gradient)
            gradient = gradient if found is None else found
        return gradient


#: The hooks of nodes. While there are any, backwards take the path that looks for them.
hooks: weakref.WeakKeyDictionary[Node, Hooks] = weakref.WeakKeyDictionary()
#: The dict behind, since every backward asks whether it is empty.
_hooks: Any = hooks.data  # type: ignore[attr-defined]


def check_kept(node: Node) -> None:
    """Raise `GradientError` if a node was freed."""
    if node.parents is None:
        raise GradientError(
            "backward: this graph was freed by an earlier backward; "
            "compute the forward again, or pass retain_graph=True to the first one"
        )


def reachable(root: Node) -> dict[Node, int]:
    """Return every node that `root` depends on, itself first, with the number of its uses in the graph.

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
    """Return those of `nodes` from which one of `targets` is reachable."""
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
    """The bookkeeping of one pass of gradients from a root to the leaves, without waiting.

    A node is ready when all nodes that used it have delivered. `targets` limits the pass to the nodes needed for them;
    None means every leaf and every node that awaits.
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
        """Remove and return a ready node with its gradient; None if no node is ready."""
        while self._ready:
            node = self._ready.pop()
            gradient = self._gradients.pop(node, None)
            if _hooks and gradient is not None and (hooked := hooks.get(node)) is not None:
                gradient = hooked.apply(gradient)
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
        """Add the gradients from the vjp of `node` to its parents."""
        waiting, known = self._waiting, self._gradients
        for parent, gradient in zip(node.parents or (), gradients, strict=True):
            if parent is None:
                continue
            if gradient is not None:
                known[parent] = add(known.pop(parent), gradient) if parent in known else gradient
            left = waiting[parent] = waiting[parent] - 1
            if not left:
                self._ready.append(parent)

    def put_back(self, steps: Iterable[tuple[Node, Any]]) -> None:
        """Put back steps that were taken but not delivered."""
        for node, gradient in steps:
            self._gradients[node] = gradient
            self._ready.append(node)

    def finish(self, *, retain_graph: bool) -> dict[Node, Any]:
        """Free the graph unless it is retained; return {node: gradient}."""
        for node in self.nodes:
            if retain_graph:
                node.settle()
            else:
                node.release()
        return self.results


def sweep_now(sweep: Sweep, *, retain_graph: bool) -> dict[Node, Any]:
    """Run a sweep in which no node awaits."""
    frees = not retain_graph and all(node.plain for node in sweep.nodes)
    while (step := sweep.take()) is not None:
        node, gradient = step
        try:
            parts = node.vjp(gradient, sweep.run)
        except Exception as error:
            _raise(node.failure(error, sweep.nodes), error)
        sweep.deliver(node, parts)
        if frees:
            node.release()
    for commit in sweep.run.commits.values():
        try:
            commit.commit()
        except Exception as error:
            _raise(commit.failure(error, sweep.nodes), error)
    return sweep.finish(retain_graph=retain_graph)


def sweep_leaves(root: Node, gradient: Any, *, run: Run, retain_graph: bool) -> dict[Node, Any] | None:
    """Run a sweep to all leaves in one loop; return None without any effect if a node is not plain, or has hooks.

    Every training step runs this, so the bookkeeping of `Sweep` is inlined.
    """
    if _hooks:
        return None
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
    # users of a node have greater numbers
    for node in sorted(inner, key=_number, reverse=True):
        gradient = gradients.pop(node, None)
        if gradient is not None:
            for parent, part in zip(node.parents or (), node.vjp(gradient, run), strict=True):
                if parent is not None and part is not None:
                    gradients[parent] = add(gradients.pop(parent), part) if parent in gradients else part
        if not retain_graph:  # the memory of one node serves the next
            node.release()
    return gradients


def sweep_since(root: Node, gradient: Any, start: int, run: Run) -> dict[Node, Any]:
    """Pull a gradient back through the nodes with at least the number `start`; return those of leaves and older nodes.

    These nodes are freed, unless the gradients are differentiated again.
    """
    gradients = {root: gradient}
    for node in recorded_since(root, start):
        gradient = gradients.pop(node, None)
        if gradient is not None:
            if (hooked := hooks.get(node)) is not None:
                gradient = hooked.apply(gradient)
            for parent, part in zip(node.parents or (), node.vjp(gradient, run), strict=True):
                if parent is not None and part is not None:
                    gradients[parent] = add(gradients.pop(parent), part) if parent in gradients else part
        if not run.create_graph:
            node.release()
    return gradients


def recorded_since(root: Node, start: int) -> list[Node]:
    """Return the nodes that `root` depends on, other than leaves, with at least the number `start`, newest first."""
    seen: set[Node] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node not in seen and type(node) is not Leaf and node.number >= start:
            check_kept(node)
            seen.add(node)
            pending += [parent for parent in node.parents or () if parent is not None]
    return sorted(seen, key=_number, reverse=True)


def sweep_here(root: Node, gradient: Any, *, run: Run, retain_graph: bool) -> dict[Node, Any] | None:
    """Run a sweep to all leaves; return None without any effect if a node awaits."""
    found = sweep_leaves(root, gradient, run=run, retain_graph=retain_graph)
    if found is None and not (sweep := Sweep(root, gradient, run=run)).awaits:
        found = sweep_now(sweep, retain_graph=retain_graph)
    return found


def _raise(error: BaseException, reason: BaseException) -> NoReturn:
    """Raise the error that a node returned for a failure, from its reason."""
    if error is reason:
        raise error
    raise error from reason


def _start(sweep: Sweep, started: list[tuple[Awaitable[Any], tuple[Node, Any]]]) -> None:
    """Run the ready steps; add awaitables with their steps to `started`."""
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
    """Await a step, and deliver its gradients or record its failure."""
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
    """Run a sweep with concurrent awaits.

    The first error is raised after the other branches have finished, so nothing is still running when the caller sees
    it. The same sweep can then be resumed: delivered gradients are kept.
    """
    import asyncio  # here, because a process that only trains does not need it

    for node in sweep.nodes:
        check_kept(node)
    under_way: dict[asyncio.Future[Any], tuple[Node, Any]] = {}
    failed: list[tuple[Node, Any]] = []
    errors: list[BaseException] = []
    started: list[tuple[Awaitable[Any], tuple[Node, Any]]] = []
    try:
        while True:
            _start(sweep, started)
            if len(started) == 1 and not under_way:  # the common case: nothing to run concurrently
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
        for parts, step in started:  # another step failed before these started
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
    """Run the commits of the nodes concurrently; raise the first error after all have finished."""
    import asyncio

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
    """Return the bytes that the graph of `root` keeps alive for a backward, besides those of leaves."""
    nodes = () if root is None else tuple(reachable(root))
    owners = {id(owner): owner for node in nodes for owner in map(owner_of, node.saved)}
    tensors = [node.owner() for node in nodes if isinstance(node, Leaf)]
    for tensor in tensors:
        if tensor is not None:
            owners.pop(id(owner_of(tensor.array)), None)
    others = sum(node.nbytes for node in nodes if not node.saved)
    return others + sum(getattr(owner, "nbytes", 0) for owner in owners.values())


class _Pending:
    """The part of a backward that crosses the network; warns when it is dropped without having begun."""

    def __init__(self, begin: Callable[[], Awaitable[Iterable[tuple[Any, Any]]]]):
        self._begin = begin
        self.reported = False

    def begin(self) -> Awaitable[Iterable[tuple[Any, Any]]]:
        self.reported = True
        return self._begin()

    def __del__(self) -> None:
        if not self.reported:
            warnings.warn(
                "the gradients of a backward across the network were never awaited: the server was not trained; write "
                "`await loss.backward()`, or use blocking=True",
                RuntimeWarning,
                stacklevel=2,
            )


class Gradients(Mapping[Any, Any]):
    """A read-only mapping {leaf tensor: gradient} from one backward.

    Keys are compared by identity. ``g1 + g2`` adds per key. If the graph crosses the network, the mapping must be
    awaited first; until then reading it raises `GradientError` and nothing has been sent. Awaiting a failed one again
    resumes it. Dropping one that was never awaited warns.

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
        self._pending = None if pending is None else _Pending(pending)
        self._wrap = wrap
        self._items: dict[int, tuple[Any, Any]] | None = None

    def __await__(self) -> Generator[Any, None, "Gradients"]:
        return self._resolve().__await__()

    async def _resolve(self) -> "Gradients":
        if self._pending is not None:
            self._found = list(await self._pending.begin())
            self._pending = None
        return self

    @property
    def is_pending(self) -> bool:
        """Whether the gradients must be awaited before they can be read."""
        return self._pending is not None

    def found(self) -> list[tuple[Any, Any]]:
        """Return (leaf tensor, gradient) pairs, where a gradient may still be an array."""
        if self._pending is not None:
            self._pending.reported = True
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
            return "Gradients(not awaited: nothing was sent; write `await loss.backward()`)"
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in self)
        return f"Gradients({shapes or 'no leaves on this side'})"
