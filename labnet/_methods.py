"""The base class to which ops are attached as methods and operators of `Tensor`.

Intentionally empty: `labnet.ops` fills it, and the generated ``_methods.pyi`` declares its content.
"""


class Methods:
    """The base class of `Tensor` with all methods that are ops."""

    __slots__ = ()
