"""Where the ops attach themselves as methods and operators of `Tensor`.

Empty on purpose: `labnet.ops` fills it, and the generated ``_methods.pyi`` tells type checkers what is there.
"""


class Methods:
    """Base of `Tensor` that carries every method which is an op."""

    __slots__ = ()
