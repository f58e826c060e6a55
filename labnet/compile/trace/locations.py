"""Locations of values in Python: items, cells, attributes and contents, with the value that was found there.

A location can be read, written, and compared, also by an expression of generated code. Knows nothing about tracing.
"""

import types
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.nn.modules import changes
from labnet.tensor import Tensor, wrap

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "nothing"})()
#: Values that are the same where they are equal.
SCALARS = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype, range)
#: Bytes from which on arrays are compared where they lie.
_LONG = 1 << 16
#: Gives a value the name by which an expression refers to it.
Bind = Callable[[Any], str]


def alike(now: Any, before: Any) -> bool:
    """Return whether two values lead to the same computation: one object, or equal numbers of one type.

    Examples
    --------
    >>> alike(0.0, -0.0), alike(float("nan"), float("nan")), alike((1, 2.0), (1, 2.0)), alike(1, True)
    (False, True, True, False)
    """
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    if isinstance(before, float | complex | np.generic):
        return repr(now) == repr(before) and (now == before or now != now)
    if isinstance(before, SCALARS):
        return bool(now == before)
    if isinstance(before, tuple):
        return len(now) == len(before) and all(map(alike, now, before))
    if isinstance(before, slice):
        return alike((now.start, now.stop, now.step), (before.start, before.stop, before.step))
    if isinstance(before, types.MethodType):
        return now.__func__ is before.__func__ and now.__self__ is before.__self__
    return isinstance(before, frozenset) and _typed(now) == _typed(before)


def _typed(found: Iterable[Any]) -> set[Any]:
    """Return elements with their types, by which 1 is told from 1.0."""
    return {(type(one), one) for one in found}


class Location:
    """Where a value is.

    Attributes
    ----------
    name : str
        Name of the place in messages.
    value : object
        What was there.
    """

    name = ""
    value: Any = MISSING

    def now(self) -> Any:
        """Return what is there now; `MISSING` if there is nothing."""
        raise NotImplementedError

    def put(self, value: Any) -> None:
        """Write a value there; `MISSING` deletes."""
        raise NotImplementedError

    def holds(self) -> bool:
        """Return whether what is there now is what was there."""
        return alike(self.now(), self.value)

    def key(self) -> tuple[Any, ...]:
        """Return a key that identifies the place."""
        raise NotImplementedError

    def condition(self, bind: Bind) -> str:
        """Return an expression for: the very same object is there. It may raise where `now` finds nothing."""
        return f"{bind(self.now)}() is {bind(self.value)}"


@dataclass(eq=False)
class Item(Location):
    """An item of a mapping: a global variable, or an attribute of a class."""

    container: Any
    item: Any
    name: str = ""
    value: Any = MISSING

    def now(self) -> Any:
        """Return the item."""
        return self.container.get(self.item, MISSING)

    def put(self, value: Any) -> None:
        """Set or delete the item."""
        if value is MISSING:
            self.container.pop(self.item, None)
        else:
            self.container[self.item] = value

    def key(self) -> tuple[Any, ...]:
        """Return the mapping and the name of the item."""
        return id(self.container), "item", self.item

    def condition(self, bind: Bind) -> str:
        """Look the item up."""
        if self.value is MISSING:
            return f"{self.item!r} not in {bind(self.container)}"
        return f"{bind(self.container)}[{self.item!r}] is {bind(self.value)}"


@dataclass(eq=False)
class Cell(Location):
    """A variable of an enclosing function."""

    cell: types.CellType
    name: str = ""
    value: Any = MISSING

    def now(self) -> Any:
        """Return the variable."""
        try:
            return self.cell.cell_contents
        except ValueError:
            return MISSING

    def put(self, value: Any) -> None:
        """Set or delete the variable."""
        if value is MISSING:
            del self.cell.cell_contents
        else:
            self.cell.cell_contents = value

    def key(self) -> tuple[Any, ...]:
        """Return the cell."""
        return id(self.cell), "cell"

    def condition(self, bind: Bind) -> str:
        """Read the cell."""
        return f"{bind(self.cell)}.cell_contents is {bind(self.value)}"


@dataclass(eq=False)
class Attribute(Location):
    """An attribute that is read without running any code of a user: of an instance, its class, a module or a slot."""

    owner: Any
    attribute: str
    name: str = ""
    value: Any = MISSING

    def now(self) -> Any:
        """Return the attribute."""
        try:
            return getattr(self.owner, self.attribute)
        except AttributeError:
            return MISSING

    def put(self, value: Any) -> None:
        """Set or delete the attribute."""
        if value is MISSING:
            delattr(self.owner, self.attribute)
        else:
            setattr(self.owner, self.attribute, value)

    def key(self) -> tuple[Any, ...]:
        """Return the owner and the name."""
        return id(self.owner), "attribute", self.attribute

    def condition(self, bind: Bind) -> str:
        """Read the attribute."""
        if not self.attribute.isidentifier() or self.value is MISSING:
            return super().condition(bind)
        return f"{bind(self.owner)}.{self.attribute} is {bind(self.value)}"


class Method(Attribute):
    """A method: an attribute of the class that is bound anew at each access."""

    def now(self) -> Any:
        """Return the function behind the method."""
        found = super().now()
        return getattr(found, "__func__", found)

    def condition(self, bind: Bind) -> str:
        """Read the function behind the method."""
        return f"{bind(self.owner)}.{self.attribute}.__func__ is {bind(self.value)}"


@dataclass(eq=False)
class ModuleAttribute(Attribute):
    """An attribute of a module, with the lists of parameters, buffers and modules that it was in."""

    def __post_init__(self) -> None:
        lists = [vars(self.owner)[name] for name in ("_parameters", "_buffers", "_modules")]
        self._lists = [(one, one.get(self.attribute, MISSING)) for one in lists]

    def put(self, value: Any) -> None:
        """Set the attribute; what was there is put back into the lists that it was in."""
        if value is not self.value:
            super().put(value)
            return
        changes[0] += 1
        Item(vars(self.owner), self.attribute).put(value)
        for one, before in self._lists:
            Item(one, self.attribute).put(before)


class ReplacedAttribute(Attribute):
    """An attribute that each call replaces: any tensor without a history.

    Attributes
    ----------
    is_alone : bool
        Whether what was there was found nowhere else, so that guards need not notice a new tensor.
    """

    is_alone = True

    def holds(self) -> bool:
        """Return whether there is a tensor without a history."""
        return isinstance(found := self.now(), Tensor) and found.node is None

    def array(self) -> Any:
        """Return the elements of the tensor that is there now."""
        return self.now().array

    def rebind(self, array: Any) -> None:
        """Put a new tensor there; a first one is a change that guards notice."""
        changes[0] += not (self.is_alone and isinstance(self.now(), Tensor))
        tensor = vars(self.owner)[self.attribute] = wrap(array)
        self.owner._parameters.pop(self.attribute, None)
        if self.attribute in self.owner._buffers:
            self.owner._buffers[self.attribute] = tensor


@dataclass(eq=False)
class MissingAttribute(Location):
    """An attribute that neither an instance nor its class has."""

    owner: Any
    attribute: str
    name: str = ""

    def now(self) -> Any:
        """Return what is found in the instance or its classes, without any code of a user."""
        for scope in (getattr(self.owner, "__dict__", {}), *map(vars, type(self.owner).__mro__)):
            if self.attribute in scope:
                return scope[self.attribute]
        return MISSING

    def key(self) -> tuple[Any, ...]:
        """Return the owner and the name."""
        return id(self.owner), "absence", self.attribute


@dataclass(eq=False)
class InstanceClass(Location):
    """The class of an object."""

    owner: Any
    name: str = ""
    value: Any = MISSING

    def now(self) -> Any:
        """Return the class."""
        return type(self.owner)

    def key(self) -> tuple[Any, ...]:
        """Return the object."""
        return id(self.owner), "kind"

    def condition(self, bind: Bind) -> str:
        """Ask for the class."""
        return f"type({bind(self.owner)}) is {bind(self.value)}"


@dataclass(eq=False)
class CallResult(Location):
    """What a call without arguments returns: the value of a context variable, or what a weak reference refers to."""

    read: Callable[[], Any]
    name: str = ""
    value: Any = MISSING
    of: Any = None

    def now(self) -> Any:
        """Call it."""
        return self.read()

    def key(self) -> tuple[Any, ...]:
        """Return what is read."""
        return id(self.of), "reading"


@dataclass(eq=False)
class FunctionCode(Location):
    """What a function does: its code, and the values of parameters that are left out."""

    function: types.FunctionType
    name: str = ""

    def __post_init__(self) -> None:
        function = self.function
        self.value = (function.__code__, function.__defaults__, dict(function.__kwdefaults__ or {}))

    def now(self) -> Any:
        """Return code, defaults and keyword defaults."""
        function = self.function
        return function.__code__, function.__defaults__, dict(function.__kwdefaults__ or {})

    def holds(self) -> bool:
        """Return whether the function is as it was."""
        code, defaults, named = self.now()
        return (
            code is self.value[0]
            and alike(defaults, self.value[1])
            and named.keys() == self.value[2].keys()
            and all(alike(named[key], self.value[2][key]) for key in named)
        )

    def key(self) -> tuple[Any, ...]:
        """Return the function."""
        return id(self.function), "code"

    def condition(self, bind: Bind) -> str:
        """Compare the code, and defaults where there are some: without any, all arguments were given."""
        function, (code, defaults, named) = bind(self.function), self.value
        text = f"{function}.__code__ is {bind(code)}"
        text += f" and {function}.__defaults__ is {bind(defaults)}" if defaults else ""
        return text + (f" and {bind(self.holds)}()" if named else "")


class Contents(Location):
    """The elements of a list, dict, set or queue."""

    def __init__(self, container: Any, name: str = ""):
        self.container, self.name = container, name
        self.value = self.now()

    def now(self) -> Any:
        """Return a copy of the elements: keys and values of a mapping."""
        if isinstance(self.container, dict | types.MappingProxyType):
            return [*self.container], [*self.container.values()]
        return set(self.container) if isinstance(self.container, set) else [*self.container]

    def put(self, value: Any) -> None:
        """Replace the elements."""
        if isinstance(self.container, types.MappingProxyType):
            return  # whose mapping is a place of its own
        if isinstance(self.container, dict):
            self.container.clear()
            self.container.update(zip(*value, strict=True))
        elif isinstance(self.container, set):
            self.container.clear()
            self.container.update(value)
        elif isinstance(self.container, deque):
            self.container.clear()
            self.container.extend(value)
        else:
            kind = type(self.container)
            made = kind(value) if isinstance(self.container, bytearray) else value
            self.container[:] = kind(self.container.typecode, value) if isinstance(self.container, array) else made

    def holds(self) -> bool:
        """Return whether the elements are the same, in the same order."""
        now, before = self.now(), self.value
        if isinstance(before, set):
            return _typed(now) == _typed(before)
        pairs = zip(now, before, strict=True) if isinstance(before, tuple) else [(now, before)]
        return all(len(a) == len(b) and all(map(alike, a, b)) for a, b in pairs)

    def key(self) -> tuple[Any, ...]:
        """Return the container."""
        return id(self.container), "contents"

    def condition(self, bind: Bind) -> str:
        """Compare lengths, then elements one by one."""
        container, same = bind(self.container), bind(_same)
        if isinstance(self.container, dict | types.MappingProxyType):
            keys, values = map(bind, self.value)
            same_keys = f"len({container}) == len({keys}) and all(map({same}, {container}, {keys}))"
            return f"{same_keys} and all(map({same}, {container}.values(), {values}))"
        if isinstance(self.container, set):
            return f"{bind(self.holds)}()"
        values = bind(self.value)
        return f"len({container}) == len({values}) and all(map({same}, {container}, {values}))"


def _same(a: Any, b: Any) -> bool:
    return a is b or alike(a, b)


class Elements(Location):
    """The elements of an array of NumPy, or of anything that makes one of itself."""

    def __init__(self, array: Any, name: str = ""):
        self.array, self.name = array, name
        self.value = self.now()

    def now(self) -> Any:
        """Return dtype, shape and bytes."""
        array = np.asarray(self.array)
        return array.dtype.str, array.shape, array.tobytes()

    def put(self, value: Any) -> None:
        """Write the elements back."""
        dtype, shape, elements = value
        self.array[...] = np.frombuffer(elements, dtype).reshape(shape)

    def holds(self) -> bool:
        """Return whether every bit is the same."""
        array, (dtype, shape, before) = np.asarray(self.array), self.value
        if array.dtype.str != dtype or array.shape != shape:
            return False
        if not array.flags.c_contiguous or array.nbytes < _LONG:
            return bool(array.tobytes() == before)
        words = "u8" if array.nbytes % 8 == 0 else "u1"
        return bool((array.reshape(-1).view(words) == np.frombuffer(before, words)).all())

    def key(self) -> tuple[Any, ...]:
        """Return the array."""
        return id(self.array), "elements"

    def condition(self, bind: Bind) -> str:
        """Compare all bytes."""
        return f"{bind(self.holds)}()"


#: Containers whose elements are compared.
CONTAINERS = (list, dict, set, deque, bytearray, array, types.MappingProxyType)


def is_container(value: Any) -> bool:
    """Return whether a value holds others in a way that `Contents` reads."""
    return isinstance(value, CONTAINERS)
