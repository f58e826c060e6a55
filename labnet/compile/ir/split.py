"""Splitting: a program of outputs and gradients becomes a forward program and a backward program.

Values of the forward that the backward needs are saved. Cheap elementwise values are recomputed instead, where their
operands are available: memory is scarce in a server with many open calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from labnet.compile.ir.scalars import is_cheap
from labnet.compile.ir.values import Builder, Program, Store, Value, is_workspace, placed

#: Origin of the sources for the gradients of the outputs.
SEED = "seed"
#: Position that marks a recomputed value.
_COMPUTED = -1


@dataclass(frozen=True)
class Halves:
    """Two programs whose sources are arguments and constants only.

    Attributes
    ----------
    forward : Program
        Its arguments: those of the program, then the held arrays. Its outputs: the results, then the saved values.
    backward : Program
        Its arguments: those of the forward, all its outputs, and the gradients of the results.
        Its outputs: the gradients.
    saved : int
        Number of saved values besides the results.
    """

    forward: Program
    backward: Program
    saved: int


def split(program: Program, *, results: int, arguments: int, held: int) -> Halves:
    """Split a program whose first stores are results, and whose other stores are gradients.

    Parameters
    ----------
    program : Program
        Gradients of results are sources of origin `SEED`.
    results, arguments, held : int
        Numbers of results, arguments and held arrays.
    """
    values, roots = program.values(), [store.value for store in program.stores]
    there = {
        value.number: position for position, value in reversed([*enumerate(roots[:results])]) if not _is_free(value)
    }
    saved = _saved(values, roots[results:], there, results)
    outputs = [*roots[:results], *saved]
    places = {"argument": 0, "held": arguments, SEED: arguments + held + len(outputs)}
    checked = [check.value for check in program.checks]
    new = rebuild([*outputs, *checked], places, {})
    stores = [Store(new[value.number], position) for position, value in enumerate(outputs)]
    checks = [replace(check, value=new[check.value.number]) for check in program.checks]
    cut = {number: arguments + held + position for number, position in there.items() if position >= 0}
    again = rebuild(roots[results:], places, cut)
    gradients = [Store(again[value.number], position) for position, value in enumerate(roots[results:])]
    return Halves(Program(stores, checks), Program(gradients), len(saved))


def later(values: Sequence[Value]) -> set[int]:
    """Return the numbers of the values that depend on the gradient of a result."""
    found: set[int] = set()
    for value in values:
        if value.attributes.get("origin") == SEED or any(operand.number in found for operand in value.inputs):
            found.add(value.number)
    return found


def _is_free(value: Value) -> bool:
    """Return whether a value needs no computation: a source, a number, or a view."""
    return value.kind in ("source", "splat", "view")


def _is_recomputed(value: Value) -> bool:
    """Return whether a value is recomputed: it costs little, or is working memory."""
    return is_workspace(value) or (value.kind == "map" and is_cheap(value.attributes["name"]))


def _saved(values: Sequence[Value], gradients: Sequence[Value], there: dict[int, int], results: int) -> list[Value]:
    """Return the values to save for the gradients, and record the position of each value in `there`."""
    late = later(values)
    read = [operand for value in values if value.number in late for operand in value.inputs]
    needed = {placed(operand)[0].number for operand in [*read, *gradients]} - late
    saved: list[Value] = []
    for value in values:
        if value.number in late or value.number in there or _is_free(value):
            continue
        bases = [placed(operand)[0] for operand in value.inputs]
        known = all(base.number in there or base.kind in ("source", "splat") for base in bases)
        if known and _is_recomputed(value):
            there[value.number] = _COMPUTED
        elif value.number in needed:
            there[value.number] = results + len(saved)
            saved.append(value)
    return saved


def rebuild(roots: Sequence[Value], places: Mapping[str, int], cut: Mapping[int, int]) -> dict[int, Value]:
    """Rebuild the values that the roots need in a new program; return them by their old numbers.

    Parameters
    ----------
    roots : sequence of Value
    places : mapping
        {origin: position among the arguments of the first source of that origin}.
    cut : mapping
        {number of a value that becomes an argument: its position}.
    """
    needed: dict[int, Value] = {}
    pending = list(roots)
    while pending:
        value = pending.pop()
        if value.number not in needed:
            needed[value.number] = value
            pending += () if value.number in cut else value.inputs
    builder, new = Builder(), dict[int, Value]()
    for number in sorted(needed):
        value = needed[number]
        attributes, inputs = dict(value.attributes), [] if number in cut else [new[x.number] for x in value.inputs]
        kind = value.kind
        if number in cut:
            kind, attributes = "source", {"origin": "argument", "position": cut[number]}
        elif kind == "source" and attributes["origin"] in places:
            position = attributes["position"] + places[attributes["origin"]]
            attributes = {"origin": "argument", "position": position}
        new[number] = builder.make(kind, inputs, shape=value.shape, dtype=value.dtype, **attributes)
    return new
