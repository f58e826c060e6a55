"""A cache of launch plans for ops whose body is one expression of their arguments.

A body computes the same expression for all arrays of the same forms and dtypes. So later calls need only the kernel of
the first call and the positions of its arguments. Running the body through NumPy's protocols would take longer than
the launch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen import elementwise
from labnet.kernels.cuda.codegen.elementwise import Plan
from labnet.kernels.cuda.driver.kernel import Dtype


class CachedPlan(NamedTuple):
    """The plan of a body.

    Attributes
    ----------
    shape, dtype
        Of the result.
    plan : Plan
    read : tuple of int
        Positions of the arguments that the kernel reads.
    constants : tuple of numbers
    """

    shape: tuple[int, ...]
    dtype: Dtype
    plan: Plan
    read: tuple[int, ...]
    constants: tuple[Any, ...]


_plans: dict[Any, CachedPlan] = {}
#: Maximum number of plans.
_MOST = 4096


def execute(body: Callable[..., Any], arrays: tuple[DeviceArray, ...], static: dict[str, Any]) -> Any:
    """Return the result of the body of an op for one or two arrays that are not pending, and other arguments."""
    one, other = arrays[0], arrays[-1]
    key: Any = body, one.form, other.form, one.dtype.char, other.dtype.char, one is other
    if static:
        key += tuple([(name, _exact_key(value)) for name, value in static.items()])
    try:
        cached = _plans.get(key)
    except TypeError:  # an array among the arguments, such as labels
        return body(*arrays, **static)
    if cached is not None:
        shape, dtype, plan, read, constants = cached
        out = DeviceArray.empty(shape, dtype)
        assert plan.launch is not None
        plan.launch(
            plan.grid,
            plan.block,
            *plan.sizes,
            *[arrays[i].allocated_address for i in read],
            *constants,
            out.allocated_address,
        )
        return out
    result = body(*arrays, **static)
    node = result.expression if type(result) is DeviceArray else None
    if node is None:
        return result
    result.materialize()
    positions = {id(array): position for position, array in enumerate(arrays)}
    plan = elementwise.plan_of(node, result)
    if plan.launch is not None and all(id(leaf) in positions for leaf in node.leaves):
        if len(_plans) >= _MOST:
            _plans.clear()
        constants = tuple([elementwise.number(*node.constants[position]) for position in plan.constants])
        read = tuple([positions[id(node.leaves[position])] for position in plan.leaves])
        _plans[key] = CachedPlan(result.shape, result.dtype, plan, read, constants)
    return result


def _exact_key(value: Any) -> Any:
    """Return a key that distinguishes equal numbers of different meaning: 1 and 1.0, 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple([_exact_key(each) for each in value])
    return type(value), float(value).hex() if isinstance(value, float | np.floating) else value
