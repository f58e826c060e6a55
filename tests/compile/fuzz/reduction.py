"""Makes a program that fails smaller: parts are left out as long as it goes on failing in the same way."""

import re
import time

from tests.compile.fuzz.case import Line, quietly
from tests.compile.fuzz.judge import judged, outcomes

#: A shape among the arguments of `tensor`.
SHAPE = re.compile(r"(?<=\d, )\(([\d, ]*)\)(?=, ')")


@quietly
def reduced(case, verdict, *, mode, seconds=30.0):
    """Return the smallest program that is found in some time, and the verdict on it."""
    until = time.monotonic() + seconds
    found = True
    while found:
        found = False
        for smaller in candidates(case):
            if time.monotonic() > until:
                return case, verdict
            other = _judged(smaller, mode)
            if other is not None and _is_alike(other, verdict):
                case, verdict, found = smaller, other, True
                break
    return case, verdict


def _is_alike(one, other):
    return one.kind == other.kind and (one.kind != "broken" or one.text[:12] == other.text[:12])


def _judged(case, mode):
    """Return the verdict on a program; None if eager Python cannot run it."""
    try:
        if any(isinstance(found, Exception) for found in outcomes(case, lambda step: step)):
            return None
        return judged(case, mode)
    except Exception:  # a definition that is missing
        return None


def _without(parts, position):
    return parts[:position] + parts[position + 1 :]


def candidates(case):
    """Yield programs with a little less."""
    for name in ("calls", "results", "handed", "state", "before"):
        parts = getattr(case, name)
        for position in reversed(range(len(parts))):
            if len(parts) > 1 or name in ("state", "before"):
                yield case.replace(**{name: _without(parts, position)})
    yield from _calmer(case)
    if case.steps:
        yield case.replace(steps=(), handed=(), results=case.results[1:] or case.results, state=())
    for position in reversed(range(len(case.graph))):
        yield from _shorter(case, position)
    for position in range(len(case.parameters)):
        calls = tuple(_call(call, arguments=_without(call.arguments, position)) for call in case.calls)
        yield case.replace(parameters=_without(case.parameters, position), calls=calls)
    yield from _narrower(case)


def _call(call, **fields):
    return type(call)(**{"arguments": call.arguments, "changes": call.changes, **fields})


def _calmer(case):
    """Yield programs without one of the changes between calls."""
    for position, call in enumerate(case.calls):
        for number in range(len(call.changes)):
            calls = list(case.calls)
            calls[position] = _call(call, changes=_without(call.changes, number))
            yield case.replace(calls=tuple(calls))


def _shorter(case, position):
    """Yield programs without a line of the graph; what it defines is one of the values that it reads."""
    line = case.graph[position]
    rest = _without(case.graph, position)
    yield case.replace(graph=rest)
    for name in line.names:
        for other in dict.fromkeys(re.findall(r"\b[avw]\d+\b", line.text)):
            if other != name:
                yield _renamed(case.replace(graph=rest), name, other)


def _renamed(case, name, other):
    def text(old):
        return re.sub(rf"\b{name}\b", other, old)

    graph = tuple(Line(text(line.text), line.names, line.kind) for line in case.graph)
    return case.replace(graph=graph, results=tuple(dict.fromkeys(map(text, case.results))))


def _narrower(case):
    """Yield programs in which a length is a smaller one everywhere."""
    lengths = {int(n) for text in _texts(case) for shape in SHAPE.findall(text) for n in re.findall(r"\d+", shape)}
    for length in sorted(lengths, reverse=True):
        for less in (2, 3):
            if less < length:
                yield _resized(case, length, less)


def _texts(case):
    return [*(line.text for line in case.before), *(text for call in case.calls for text in call.arguments)]


def _resized(case, length, less):
    def text(old):
        return SHAPE.sub(lambda found: re.sub(rf"\b{length}\b", str(less), found[0]), old)

    before = tuple(Line(text(line.text), line.names, line.kind) for line in case.before)
    calls = tuple(_call(call, arguments=tuple(map(text, call.arguments))) for call in case.calls)
    return case.replace(before=before, calls=calls)
