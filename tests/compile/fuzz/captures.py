"""What a program finds in its surroundings, and how that changes between calls.

Each entry: definitions, a use of ``{x}``, and changes, one of which is drawn before some of the calls. ``{i}`` is a
number of its own, ``{c}`` a new constant.
"""

from tests.compile.fuzz.case import Line

MODULE = """class M{i}(ln.nn.Module):
    default = 2.0

    def __init__(self):
        super().__init__()
        self._k, self.steps = 1.5, [1.0, 2.0]
        self.part = types.SimpleNamespace(k=1.0)
        self.head = lambda x: x * 0.5

    def forward(self, x):
        return {body}

m{i} = M{i}()"""
CELL = """def make{i}():
    c = 1.5

    def get(x):
        return x * c

    def put(v):
        nonlocal c
        c = v

    return get, put

get{i}, put{i} = make{i}()"""
OBJECT = """class O{i}:
    k = 1.5

    def __init__(self):
        self._k, self.deep = 1.25, types.SimpleNamespace(k=0.5)

    @property
    def twice(self):
        return self._k * 2

    def of(self, x):
        return x * self._k

o{i} = O{i}()"""

CAPTURES = {
    "global number": ("K{i} = 1.5", "{x} * K{i}", ["K{i} = {c}"]),
    "global number in a helper": ("K{i} = 1.5\ndef h{i}(x):\n    return x + K{i}", "h{i}({x})", ["K{i} = {c}"]),
    "global flag": ("F{i} = True", "({x} * 2 if F{i} else {x} * 3)", ["F{i} = False", "F{i} = True"]),
    "global text": ("F{i} = 'a'", "({x} * 2 if F{i} == 'a' else {x} * 3)", ["F{i} = 'b'", "F{i} = 'a'"]),
    "number becomes bool": (
        "K{i} = 1",
        "{x} * (2.0 if K{i} is True else 3.0)",
        ["K{i} = True", "K{i} = 1", "K{i} = 1.0"],
    ),
    "through globals()": ("K{i} = 1.5", "{x} * globals()['K{i}']", ["K{i} = {c}"]),
    "cell": (CELL, "get{i}({x})", ["put{i}({c})"]),
    "class attribute": ("class C{i}:\n    k = 1.5", "{x} * C{i}.k", ["C{i}.k = {c}"]),
    "inherited attribute": (
        "class B{i}:\n    k = 1.5\nclass C{i}(B{i}):\n    pass",
        "{x} * C{i}.k",
        ["B{i}.k = {c}", "C{i}.k = {c}"],
    ),
    "class attribute of an instance": (OBJECT, "{x} * o{i}.k", ["O{i}.k = {c}", "o{i}.k = {c}"]),
    "attribute": (OBJECT, "{x} * o{i}._k", ["o{i}._k = {c}", "o{i} = O{i}()"]),
    "attribute by a method": (OBJECT, "o{i}.of({x})", ["o{i}._k = {c}", "O{i}.of = lambda self, x: x + {c}"]),
    "attribute by a property": (OBJECT, "{x} * o{i}.twice", ["o{i}._k = {c}", "O{i}.twice = {c}"]),
    "attribute of an attribute": (
        OBJECT,
        "{x} * o{i}.deep.k",
        ["o{i}.deep.k = {c}", "o{i}.deep = types.SimpleNamespace(k={c})"],
    ),
    "attribute by getattr": (OBJECT, "{x} * getattr(o{i}, '_k')", ["o{i}._k = {c}"]),
    "attribute by vars": (OBJECT, "{x} * vars(o{i})['_k']", ["o{i}._k = {c}"]),
    "attribute that may be missing": (OBJECT, "{x} * getattr(o{i}, 'extra', 1.0)", ["o{i}.extra = {c}"]),
    "slots": (
        "class S{i}:\n    __slots__ = ('k',)\ns{i} = S{i}()\ns{i}.k = 1.5",
        "{x} * s{i}.k",
        ["s{i}.k = {c}"],
    ),
    "dataclass": (
        "@dataclasses.dataclass\nclass D{i}:\n    k: float = 1.5\nd{i} = D{i}()",
        "{x} * d{i}.k",
        ["d{i}.k = {c}", "d{i} = D{i}({c})"],
    ),
    "namespace": ("n{i} = types.SimpleNamespace(k=1.5)", "{x} * n{i}.k", ["n{i}.k = {c}"]),
    "python module": ("mod{i} = types.ModuleType('mod{i}')\nmod{i}.k = 1.5", "{x} * mod{i}.k", ["mod{i}.k = {c}"]),
    "underscore attribute of a module": (MODULE.replace("{body}", "x * self._k"), "m{i}({x})", ["m{i}._k = {c}"]),
    "default of a module class": (
        MODULE.replace("{body}", "x * self.default"),
        "m{i}({x})",
        ["M{i}.default = {c}", "m{i}.default = {c}"],
    ),
    "list of a module": (
        MODULE.replace("{body}", "x * self.steps[-1]"),
        "m{i}({x})",
        ["m{i}.steps[-1] = {c}", "m{i}.steps.append({c})"],
    ),
    "object of a module": (MODULE.replace("{body}", "x * self.part.k"), "m{i}({x})", ["m{i}.part.k = {c}"]),
    "function of a module": (MODULE.replace("{body}", "self.head(x)"), "m{i}({x})", ["m{i}.head = lambda x: x * {c}"]),
    "mode of a module": (
        MODULE.replace("{body}", "x * (2.0 if self.training else 3.0)"),
        "m{i}({x})",
        ["m{i}.eval()", "m{i}.train()"],
    ),
    "forward of a module class": (
        MODULE.replace("{body}", "x * 1.5"),
        "m{i}({x})",
        ["M{i}.forward = lambda self, x: x + {c}"],
    ),
    "code": ("def h{i}(x):\n    return x * 2.0", "h{i}({x})", ["h{i}.__code__ = (lambda x: x * {c}).__code__"]),
    "code of a helper's helper": (
        "def h{i}(x):\n    return x * 2.0\ndef g{i}(x):\n    return h{i}(x) + 1",
        "g{i}({x})",
        ["h{i}.__code__ = (lambda x: x * {c}).__code__", "h{i} = lambda x: x - {c}"],
    ),
    "default": ("def h{i}(x, k=2.0):\n    return x * k", "h{i}({x})", ["h{i}.__defaults__ = ({c},)"]),
    "keyword default": (
        "def h{i}(x, *, k=2.0):\n    return x * k",
        "h{i}({x})",
        ["h{i}.__kwdefaults__ = {{'k': {c}}}"],
    ),
    "attribute of a function": ("def h{i}(x):\n    return x * h{i}.k\nh{i}.k = 1.5", "h{i}({x})", ["h{i}.k = {c}"]),
    "partial": (
        "def h{i}(x, k):\n    return x * k\np{i} = functools.partial(h{i}, k=1.5)",
        "p{i}({x})",
        ["p{i} = functools.partial(h{i}, k={c})", "h{i}.__code__ = (lambda x, k: x + k).__code__"],
    ),
    "list": ("L{i} = [1.5, 2.0]", "{x} * L{i}[0]", ["L{i}[0] = {c}", "L{i} = [{c}]"]),
    "length of a list": ("L{i} = [1.5, 2.0]", "{x} * len(L{i})", ["L{i}.append(1.0)", "L{i}.clear()"]),
    "sum of a list": ("L{i} = [1.5, 2.0]", "{x} * sum(L{i})", ["L{i}.append({c})", "L{i}[1] = {c}"]),
    "long list": ("L{i} = [1.0] * 100", "{x} * L{i}[70]", ["L{i}[70] = {c}"]),
    "list in a list": ("L{i} = [[1.0, 2.0], [3.0]]", "{x} * L{i}[0][1]", ["L{i}[0][1] = {c}", "L{i}[0] = [0.0, {c}]"]),
    "dict": ("D{i} = {{'a': 1.5}}", "{x} * D{i}['a']", ["D{i}['a'] = {c}"]),
    "dict in a dict": (
        "D{i} = {{'a': {{'b': 1.5}}}}",
        "{x} * D{i}['a']['b']",
        ["D{i}['a']['b'] = {c}", "D{i}['a'] = {{'b': {c}}}"],
    ),
    "key of a dict": (
        "D{i} = {{'a': 1.5}}",
        "({x} * 2 if 'b' in D{i} else {x} * 3)",
        ["D{i}['b'] = 1", "D{i}.pop('b', None)"],
    ),
    "get of a dict": ("D{i} = {{'a': 1.5}}", "{x} * D{i}.get('b', 2.0)", ["D{i}['b'] = {c}"]),
    "set": ("S{i} = {{'a'}}", "({x} * 2 if 'b' in S{i} else {x} * 3)", ["S{i}.add('b')", "S{i}.discard('b')"]),
    "deque": ("Q{i} = collections.deque([1.5, 2.0])", "{x} * Q{i}[0]", ["Q{i}.appendleft({c})"]),
    "named tuple": (
        "T{i} = collections.namedtuple('T{i}', 'k')\nt{i} = T{i}(1.5)",
        "{x} * t{i}.k",
        ["t{i} = T{i}({c})"],
    ),
    "array": ("A{i} = np.array([1.5])", "{x} * A{i}", ["A{i}[0] = {c}", "A{i} = np.array([{c}])"]),
    "number of an array": ("A{i} = np.array([1.5])", "{x} * float(A{i}[0])", ["A{i}[0] = {c}"]),
    "numpy number": ("K{i} = np.float32(1.5)", "{x} * K{i}", ["K{i} = np.float32({c})"]),
    "tensor": (
        "T{i} = ln.asarray([1.5])",
        "{x} * T{i}",
        ["T{i} = ln.asarray([{c}])", "T{i}[0] = {c}", "T{i}.assign([{c}])"],
    ),
    "shape of a tensor": ("T{i} = ln.ones(3)", "{x} * T{i}.shape[0]", ["T{i} = ln.ones(5)"]),
    "tensor in a list": (
        "L{i} = [ln.asarray([1.5])]",
        "{x} * L{i}[0]",
        ["L{i}[0] = ln.asarray([{c}])", "L{i}[0][0] = {c}"],
    ),
    "enum": (
        "class E{i}(enum.Enum):\n    A = 1.5\n    B = 2.5\ne{i} = E{i}.A",
        "{x} * e{i}.value",
        ["e{i} = E{i}.B", "e{i} = E{i}.A"],
    ),
    "length of a module list": (
        "ml{i} = ln.nn.ModuleList([ln.nn.Tanh()])",
        "[y := {x}, *[y := layer(y) for layer in ml{i}]][-1]",
        ["ml{i}.append(ln.nn.ReLU())"],
    ),
    "layers of a sequential": (
        "sq{i} = ln.nn.Sequential(ln.nn.Tanh())",
        "sq{i}({x})",
        ["sq{i} = ln.nn.Sequential(ln.nn.ReLU())"],
    ),
}
#: What changes a thing while the function runs: carried out at each call, or refused.
WRITES = {
    "count": ("n{i} = types.SimpleNamespace(k=1.0)", "{x} * n{i}.k", "n{i}.k += 1"),
    "count of a module": (MODULE.replace("{body}", "x * self._k"), "m{i}({x})", "m{i}._k += 1"),
    "list that grows": ("L{i} = [1.0]", "{x} * len(L{i})", "L{i}.append(2.0)"),
    "dict that grows": ("D{i} = {{}}", "{x} * len(D{i})", "D{i}[len(D{i})] = 1"),
    "lr": ("q{i} = ln.optim.SGD(lr=0.5)", "{x} * q{i}.lr", "q{i}.lr = q{i}.lr * 0.5"),
}


def capture(rng, number):
    """Return definitions, a use, and changes of something that a function finds."""
    name = rng.choice(sorted(CAPTURES))
    before, use, changes = CAPTURES[name]
    lines = [
        Line(text.replace("{i}", str(number)).replace("{{", "{").replace("}}", "}"), kind="guards") for text in changes
    ]
    return Line(_numbered(before, number), kind="guards"), _use(use, number), lines


def write(rng, number):
    """Return definitions, a use, and what the function itself changes."""
    before, use, change = WRITES[rng.choice(sorted(WRITES))]
    return (
        Line(_numbered(before, number), kind="guards"),
        _use(use, number),
        Line(_numbered(change, number), kind="guards"),
    )


def _numbered(text, number):
    return text.replace("{i}", str(number)).replace("{{", "{").replace("}}", "}")


def _use(text, number):
    return text.replace("{i}", str(number))


def constant(rng):
    """Return a number as text."""
    return str(rng.choice([0.5, 0.75, 1.25, 2.5, 3.0, -1.5, 4.0]))
