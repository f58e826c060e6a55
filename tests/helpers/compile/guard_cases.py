"""Values of every kind that a function may read outside of itself, and a change of each."""

import collections
import contextvars
import copy
import dataclasses
import enum
import functools
import operator
import os
import sys
import threading
import types
import weakref
from array import array as python_array

import numpy as np

import labnet as ln

FACTOR, ITEMS, SETTINGS = 2.0, [1.0, 2.0], {"k": 2.0, "deep": {"k": 3.0}}
CONTEXT = contextvars.ContextVar("factor", default=2.0)


class Config:
    factor = 1.0


class Inheriting(Config):
    pass


class Slotted:
    __slots__ = ("factor",)


class Lazy:
    def __init__(self):
        self.values = {"factor": 2.0}

    def __getattr__(self, name):
        return vars(self)["values"][name]


class Computed:
    def __init__(self):
        self._factor = 2.0

    @property
    def factor(self):
        return self._factor * 2


class Descriptor:
    def __get__(self, owner, kind=None):
        return owner.inner


class Described:
    factor = Descriptor()

    def __init__(self):
        self.inner = 2.0


class Model(ln.nn.Module):
    scale = 2.0

    def __init__(self):
        super().__init__()
        self._k = 2.0
        self._head = ln.nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self._head(x) * self._k * self.scale + self.bias()

    def bias(self):
        return FACTOR

    @staticmethod
    def fixed():
        return 2.0

    @classmethod
    def of_class(cls):
        return cls.scale


@dataclasses.dataclass(eq=False)
class Options:
    factor: float = 2.0
    items: list = dataclasses.field(default_factory=lambda: [1.0])


class Color(enum.Enum):
    RED = 2.0
    BLUE = 3.0


class Table(dict):
    def __getattr__(self, name):
        return self[name]


class Callable:
    def __init__(self):
        self.factor = 2.0

    def __call__(self, x):
        return x * self.factor

    def __len__(self):
        return int(self.factor)

    def __mul__(self, x):
        return x * self.factor

    def __contains__(self, x):
        return x < self.factor

    def __iter__(self):
        yield self.factor

    def __enter__(self):
        return self.factor

    def __exit__(self, *_):
        pass


def helper(x, factor=2.0, *, extra=0.0):
    return x * factor + extra


def make(factor):
    def inner(x):
        return x * factor

    return inner


def set_code(function, other):
    function.__code__ = other.__code__


def set_attribute(owner, name, value):
    return lambda: setattr(owner, name, value)


def globally(name, value):
    return lambda: globals().__setitem__(name, value)


def cases():
    """Yield (name, function of one tensor, what changes something that it reads)."""
    yield "global", lambda x: x * FACTOR, globally("FACTOR", 5.0)
    yield "global of another function", lambda x: helper(x) * Model.fixed() + Model.bias(None), globally("FACTOR", 7.0)
    yield "list", lambda x: x * ITEMS[0], lambda: ITEMS.__setitem__(0, 9.0)
    yield "list length", lambda x: x * len(ITEMS), lambda: ITEMS.append(4.0)
    yield "loop over a list", lambda x: sum((x * k for k in ITEMS), x), lambda: ITEMS.append(1.5)
    yield "dict", lambda x: x * SETTINGS["deep"]["k"], lambda: SETTINGS["deep"].__setitem__("k", 8.0)
    yield "dict method", lambda x: x * SETTINGS.get("j", 1.0), lambda: SETTINGS.__setitem__("j", 8.0)
    yield "order of a dict", lambda x: x * next(iter(ordered.values())), lambda: ordered.move_to_end("a")
    yield "class", lambda x: x * Config.factor, set_attribute(Config, "factor", 6.0)
    yield "inherited", lambda x: x * Inheriting.factor, set_attribute(Config, "factor", 11.0)
    yield "shadowed", lambda x: x * Inheriting.factor, set_attribute(Inheriting, "factor", 12.0)
    plain = Config()
    yield "class default", lambda x: x * plain.factor, set_attribute(plain, "factor", 3.0)
    other = Config()
    yield "default of a class", lambda x: x * other.factor, set_attribute(Config, "factor", 13.0)
    slotted = Slotted()
    slotted.factor = 2.0
    yield "slot", lambda x: x * slotted.factor, set_attribute(slotted, "factor", 3.0)
    lazy = Lazy()
    yield "getattr hook", lambda x: x * lazy.factor, lambda: lazy.values.__setitem__("factor", 3.0)
    computed = Computed()
    yield "property", lambda x: x * computed.factor, set_attribute(computed, "_factor", 3.0)
    described = Described()
    yield "descriptor", lambda x: x * described.factor, set_attribute(described, "inner", 3.0)
    another = Computed()
    yield "replaced property", lambda x: x * another.factor, set_attribute(Computed, "factor", property(lambda s: 50.0))
    options = Options()
    yield "data class", lambda x: x * options.factor * options.items[0], lambda: options.items.__setitem__(0, 4.0)
    replaced = Options()
    yield "library code", lambda x: x * dataclasses.asdict(replaced)["factor"], set_attribute(replaced, "factor", 4.0)
    got = Options()
    yield "attrgetter", lambda x: x * operator.attrgetter("factor")(got), set_attribute(got, "factor", 4.0)
    copied = Options()
    yield "copy", lambda x: x * copy.copy(copied).factor, set_attribute(copied, "factor", 4.0)
    space = types.SimpleNamespace(factor=2.0, inner=types.SimpleNamespace(k=1.0))
    yield "namespace", lambda x: x * space.inner.k, set_attribute(space.inner, "k", 4.0)
    by_name = Options()
    yield "getattr", lambda x: x * getattr(by_name, "fac" + "tor"), set_attribute(by_name, "factor", 4.0)
    by_vars = Options()
    yield "vars", lambda x: x * vars(by_vars)["factor"], set_attribute(by_vars, "factor", 4.0)
    empty = types.SimpleNamespace()
    yield "hasattr", lambda x: x * (3 if hasattr(empty, "flag") else 2), set_attribute(empty, "flag", 1)
    yield "default of getattr", lambda x: x * getattr(empty, "more", 2.0), set_attribute(empty, "more", 5.0)
    table = Table(factor=2.0)
    yield "dict with attributes", lambda x: x * table.factor, lambda: table.__setitem__("factor", 3.0)
    yield "globals()", lambda x: x * globals()["FACTOR"], globally("FACTOR", 70.0)
    module = types.ModuleType("settings_of_a_user")
    module.factor = 2.0
    yield "module", lambda x: x * module.factor, set_attribute(module, "factor", 3.0)
    yield "enum", lambda x: x * box.color.value, set_attribute(box, "color", Color.BLUE)
    yield "keyword default", lambda x: helper_k(x), lambda: helper_k.__kwdefaults__.__setitem__("extra", 5.0)
    yield "default", lambda x: helper_d(x), set_attribute(helper_d, "__defaults__", (6.0,))
    yield "mutable default", lambda x, k=[2.0]: x * k[0], lambda: mutable_default()
    yield "code", lambda x: helper_c(x), lambda: set_code(helper_c, lambda x, factor=2.0, *, extra=0.0: x * 9.0)
    inner = make(2.0)
    yield "closure", lambda x: inner(x), lambda: setattr(inner.__closure__[0], "cell_contents", 5.0)
    partial = functools.partial(helper, factor=2.0)
    yield "partial", lambda x: partial(x), lambda: partial.keywords.__setitem__("factor", 5.0)
    attributed = make(1.0)
    attributed.k = 2.0
    yield "attribute of a function", lambda x: x * attributed.k, set_attribute(attributed, "k", 3.0)
    called = Callable()
    yield "callable", lambda x: called(x), set_attribute(called, "factor", 3.0)
    sized = Callable()
    yield "length", lambda x: x * len(sized), set_attribute(sized, "factor", 3.0)
    times = Callable()
    yield "operator", lambda x: times * x, set_attribute(times, "factor", 3.0)
    contains = Callable()
    yield "membership", lambda x: x * (2 if 2.5 in contains else 1), set_attribute(contains, "factor", 3.0)
    iterated = Callable()
    yield "iteration", lambda x: x * next(iter(iterated)), set_attribute(iterated, "factor", 3.0)
    entered = Callable()

    def within(x):
        with entered as factor:
            return x * factor

    yield "with", within, set_attribute(entered, "factor", 3.0)
    swapped = Callable()
    yield (
        "method of an instance",
        lambda x: swapped.run(x) if hasattr(swapped, "run") else x,
        set_attribute(swapped, "run", lambda x: x * 5),
    )
    monkey = Callable()
    yield "method of a class", lambda x: monkey(x), set_attribute(Callable, "__call__", lambda self, x: x * 100)
    model = Model()
    yield "underscore of a module", lambda x: model(x), set_attribute(model, "_k", 3.0)
    head = Model()
    yield "layer of a module", lambda x: head(x), lambda: setattr(head, "_head", ln.nn.Linear(1, 1, bias=False))
    scaled = Model()
    yield "class of a module", lambda x: scaled(x) * scaled.of_class(), set_attribute(Model, "scale", 5.0)
    biased = Model()
    yield "global of a method", lambda x: biased(x), globally("FACTOR", 71.0)
    dropping = ln.nn.Dropout(0.5)
    dropping.eval()
    yield "setting of a layer", lambda x: x * (1 + dropping.p), set_attribute(dropping, "p", 0.25)
    layers = ln.nn.Sequential(ln.nn.Linear(1, 1), ln.nn.Linear(1, 1))
    yield "layer of a Sequential", lambda x: layers(x), lambda: setattr(layers, "1", ln.nn.Linear(1, 1))
    frozen = ln.nn.Linear(1, 1)
    yield (
        "requires_grad",
        lambda x: x * (2 if frozen.weight.requires_grad else 1),
        lambda: setattr(frozen.weight, "requires_grad", False),
    )
    optimizer = ln.optim.SGD(lr=0.5)
    yield "setting of an optimizer", lambda x: x * optimizer.lr, set_attribute(optimizer, "lr", 0.25)
    array = np.ones(1, "f4")
    yield "array of NumPy", lambda x: x * array, lambda: array.__setitem__(0, 5.0)
    index = np.asarray([0])
    long = ln.asarray([1.0, 2.0, 3.0])
    yield "index of NumPy", lambda x: x * long[index], lambda: index.__setitem__(0, 2)
    held = {"array": np.ones(1, "f4")}
    yield "array in a dict", lambda x: x * held["array"], lambda: held["array"].__setitem__(0, 5.0)
    weights = {"w": ln.ones(1)}
    yield "tensor in a dict", lambda x: x * weights["w"], lambda: weights.__setitem__("w", ln.ones(1) * 5)
    sizes = {"w": ln.ones(1)}
    yield "shape of a tensor", lambda x: x * sizes["w"].shape[0], lambda: sizes.__setitem__("w", ln.ones(4))
    hundred = [float(n) for n in range(100)]
    yield "long list", lambda x: x * hundred[80], lambda: hundred.__setitem__(80, 1.0)
    things = {1.0, 2.0}
    yield "set", lambda x: x * sum(things), lambda: things.add(3.0)
    queue = collections.deque([1.0, 2.0])
    yield "queue", lambda x: x * queue[-1], lambda: queue.append(3.0)
    counter = collections.Counter(a=2)
    yield "counter", lambda x: x * counter["a"], lambda: counter.update("a")
    default = collections.defaultdict(lambda: 2.0, {"a": 3.0})
    yield "default dict", lambda x: x * default["a"], lambda: default.__setitem__("a", 1.0)
    nested = (1.0, [2.0])
    yield "list in a tuple", lambda x: x * nested[1][0], lambda: nested[1].__setitem__(0, 5.0)
    objects = [Config(), Config()]
    yield "object in a list", lambda x: x * objects[1].factor, lambda: setattr(objects[1], "factor", 44.0)
    yield "context variable", lambda x: x * CONTEXT.get(), lambda: CONTEXT.set(5.0)
    target = Config()
    reference = weakref.ref(target)
    yield "weak reference", lambda x: x * reference().factor, set_attribute(target, "factor", 5.5)
    os.environ["LABNET_TEST_FACTOR"] = "2"
    yield (
        "environment",
        lambda x: x * float(os.environ["LABNET_TEST_FACTOR"]),
        lambda: os.environ.update(LABNET_TEST_FACTOR="3"),
    )
    yield "mapped function", lambda x: next(map(mapped_function, [x])), set_attribute(mapped_config, "factor", 9.0)
    compiled = ln.jit(lambda x: x * space.factor)
    yield "compiled function", lambda x: compiled(x), set_attribute(space, "factor", 9.0)
    registry = {"model": Options()}
    yield (
        "object from a dict",
        lambda x: x * registry.get("model").factor,
        lambda: setattr(registry["model"], "factor", 9.0),
    )
    returned = Options()
    yield "returned object", lambda x: x * (lambda: returned)().factor, set_attribute(returned, "factor", 9.0)
    tuple_of = types.SimpleNamespace(pair=(1.0, 2.0))
    yield "tuple", lambda x: x * tuple_of.pair[1], set_attribute(tuple_of, "pair", (1.0, 3.0))
    sign = types.SimpleNamespace(zero=0.0)
    yield "sign of zero", lambda x: ln.copysign(x, sign.zero), set_attribute(sign, "zero", -0.0)
    typed = types.SimpleNamespace(one=1)
    yield "type of a number", lambda x: x * 2 if type(typed.one) is bool else x, set_attribute(typed, "one", True)
    yield "loss with settings", lambda x: Losses.mean(x), set_attribute(Losses, "reduction", "sum")
    yield "builtin that is hidden", lambda x: x * max(1, 2), lambda: globals().__setitem__("max", lambda *_: 7)
    matched = Options()

    def match(x):
        match matched:
            case Options(factor=2.0):
                return x
            case Options(factor=factor):
                return x * factor * 10

    yield "pattern", match, set_attribute(matched, "factor", 4.0)
    sys.modules["settings_of_a_test"] = module

    def imported(x):
        from settings_of_a_test import factor

        return x * factor

    yield "import of a name", imported, set_attribute(module, "factor", 41.0)
    cached = Cached()
    yield "cached property", lambda x: x * cached.factor, set_attribute(cached, "factor", 9.0)
    yield "property of a metaclass", lambda x: x * WithMeta.twice, set_attribute(Meta, "factor", 9.0)
    yield "attribute of a metaclass", lambda x: x * WithMeta.factor, set_attribute(Meta, "factor", 10.0)
    one = types.SimpleNamespace(of=Deep())
    yield (
        "class of an object",
        lambda x: x * (2 if isinstance(one.of, Deeper) else 1),
        lambda: setattr(one.of, "__class__", Deeper),
    )
    two = types.SimpleNamespace(of=Deep())
    yield "special method of another class", lambda x: two.of(x), set_attribute(two.of, "__class__", Deeper)
    typed_of = Typed()
    yield "class of self", lambda x: typed_of.run(x), set_attribute(Typed, "factor", 9.0)
    Single()
    yield "object that is made once", lambda x: x * Single().factor, lambda: setattr(Single(), "factor", 9.0)
    Color.RED.weight = 2.0
    yield "member of an enumeration", lambda x: x * Color(2.0).weight, set_attribute(Color.RED, "weight", 9.0)
    yield "class of a new object", lambda x: x * Fresh().factor, set_attribute(Fresh, "factor", 9.0)
    yield "absence in a module", lambda x: x * getattr(module, "absent", 1.0), set_attribute(module, "absent", 9.0)
    yield "absence in a class", lambda x: x * getattr(Fresh, "absent", 1.0), set_attribute(Fresh, "absent", 9.0)
    yield "absence in a function", lambda x: x * getattr(helper, "absent", 1.0), set_attribute(helper, "absent", 9.0)
    number = Number(3)
    number.factor = 2.0
    yield "attribute of a number", lambda x: x * number.factor, set_attribute(number, "factor", 9.0)
    last = Last()
    yield "class between", lambda x: x * last.value(), set_attribute(Middle, "value", lambda self: 9.0)
    first, second = Callable(), Callable()
    yield "second object of a class", lambda x: second(first(x)), set_attribute(second, "__class__", Deeper)
    yield "vars of a class", lambda x: x * vars(Viewed)["factor"], set_attribute(Viewed, "factor", 9.0)
    yield "dict of a class", lambda x: x * Dicted.__dict__["factor"], set_attribute(Dicted, "factor", 9.0)
    yield "dict of a module", lambda x: x * module.__dict__["factor"], set_attribute(module, "factor", 42.0)
    user_dict = collections.UserDict(k=2.0)
    yield "UserDict", lambda x: x * user_dict["k"], lambda: user_dict.__setitem__("k", 9.0)
    chain = collections.ChainMap({"k": 2.0}, {})
    yield "ChainMap", lambda x: x * chain["k"], lambda: chain.maps[0].__setitem__("k", 9.0)
    behind = {"k": 2.0}
    proxy = types.MappingProxyType(behind)
    yield "mapping proxy", lambda x: x * proxy["k"], lambda: behind.__setitem__("k", 9.0)
    numbers = python_array("d", [2.0])
    yield "array of Python", lambda x: x * numbers[0], lambda: numbers.__setitem__(0, 9.0)
    yield (
        "getenv",
        lambda x: x * float(os.getenv("LABNET_TEST_FACTOR")),
        lambda: os.environ.update(LABNET_TEST_FACTOR="5"),
    )
    local = threading.local()
    local.k = 2.0
    yield "local of a thread", lambda x: x * local.k, set_attribute(local, "k", 9.0)
    referred = Options()
    through = weakref.proxy(referred)
    yield "weak proxy", lambda x: x * through.factor, set_attribute(referred, "factor", 9.0)
    unset = Slotted()
    yield "unset slot", lambda x: x * (2 if hasattr(unset, "factor") else 1), set_attribute(unset, "factor", 9.0)
    frozen_set = types.SimpleNamespace(of=frozenset([1]))
    yield (
        "numbers of a frozen set",
        lambda x: x.astype("float64") * sum(frozen_set.of),
        set_attribute(frozen_set, "of", frozenset([1.5])),
    )
    keys = {Options(): 1}
    yield "object as a key", lambda x: x * next(iter(keys)).factor, lambda: setattr(next(iter(keys)), "factor", 9.0)
    yield "method of super", lambda x: Deeper()(x), set_attribute(Deep, "__call__", lambda self, x: x * 21)
    yield "class that is replaced", lambda x: Config().factor * x, globally("Config", Options)


class Cached:
    @functools.cached_property
    def factor(self):
        return 3.0


class Meta(type):
    factor = 2.0

    @property
    def twice(cls):
        return cls.factor * 2


class WithMeta(metaclass=Meta):
    pass


class Typed:
    factor = 2.0

    def run(self, x):
        return x * type(self).factor


class Single:
    made = None

    def __new__(cls):
        if cls.made is None:
            cls.made = object.__new__(cls)
            cls.made.factor = 2.0
        return cls.made


class Fresh:
    factor = 2.0


class Number(int):
    pass


class First:
    def value(self):
        return 1.0


class Middle(First):
    pass


class Last(Middle):
    def value(self):
        return super().value() + 1


class Viewed:
    factor = 2.0


class Dicted:
    factor = 2.0


class Deep:
    def __call__(self, x):
        return x * 2


class Deeper(Deep):
    def __call__(self, x):
        return super().__call__(x) + 1


class Losses:
    reduction = "mean"

    @classmethod
    def mean(cls, x):
        return x.sum() if cls.reduction == "sum" else x.mean() * 3


ordered = collections.OrderedDict(a=1.0, b=2.0)
box = types.SimpleNamespace(color=Color.RED)
mapped_config = types.SimpleNamespace(factor=2.0)


def mapped_function(x):
    return x * mapped_config.factor


def helper_k(x, *, extra=1.0):
    return x + extra


def helper_d(x, factor=2.0):
    return x * factor


def helper_c(x, factor=2.0, *, extra=0.0):
    return x * factor + extra


def mutable_default():
    CASES["mutable default"][0].__defaults__[0][0] = 5.0


CASES = {name: (function, change) for name, function, change in cases()}
