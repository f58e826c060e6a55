"""Warnings about leaves that require gradients but are no parameters of a module."""

import inspect
import os
import warnings
import weakref
from collections.abc import Container, Sequence
from pathlib import Path
from types import FrameType

from labnet.autograd import Leaf, Node
from labnet.tensor import Tensor

#: Every parameter of every module, by identity: tensors compare element by element.
_parameters: "dict[int, weakref.ref[Tensor]]" = {}
#: Leaves from which inputs of a module were computed, at its first call with such inputs.
_inputs: "dict[int, weakref.ref[Tensor]]" = {}
#: Nodes whose leaves are registered: modules in a row share most of their graphs.
_walked: "weakref.WeakSet[Node]" = weakref.WeakSet()

_HOME = f"{Path(__file__).parent.parent}{os.sep}"


def belongs_to_module(tensor: Tensor) -> None:
    """Register a tensor as a parameter of a module.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.ones(1, requires_grad=True)
    >>> belongs_to_module(weight)
    """
    _remember(_parameters, tensor)


def note_inputs(given: Tensor) -> bool:
    """Register the leaves from which a module's input was computed; return whether there are any.

    Examples
    --------
    >>> import labnet as ln
    >>> note_inputs(ln.ones(1, requires_grad=True) * 2), note_inputs(ln.ones(1))
    (True, False)
    """
    pending, seen = [given.node], set[Node]()
    while pending:
        node = pending.pop()
        if node is None or node in seen or node in _walked:
            continue
        seen.add(node)
        if isinstance(node, Leaf):
            _remember(_inputs, node.owner())
        pending += node.parents or ()
    _walked.update(seen)  # at the end: an interrupt leaves nothing half done
    return given.node is not None


def _remember(known: "dict[int, weakref.ref[Tensor]]", tensor: Tensor | None) -> None:
    key = id(tensor)
    if tensor is not None and key not in known:
        known[key] = weakref.ref(tensor, lambda _: known.pop(key, None))


def users_frame() -> FrameType | None:
    """Return the innermost frame outside of labnet."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HOME):
        frame = frame.f_back
    return frame


def warn(text: str) -> None:
    """Warn at the user's line.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("careful")
    >>> str(caught[0].message)
    'careful'
    """
    level, frame, users = 1, inspect.currentframe(), users_frame()
    while frame is not None and frame is not users and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def warn_of_leaves(optimizer: object, leaves: Sequence[Tensor], only: Container[int] | None) -> bool:
    """Warn if an optimizer changes leaves that are inputs, or no leaves.

    A leaf that belongs to no module and was an argument of one counts as an input if parameters of modules are changed
    with it. Other bare tensors count as parameters.

    Parameters
    ----------
    optimizer : Optimizer
    leaves : sequence of tensors
        Leaves with gradients from a backward.
    only : container of int, optional
        Identities of the parameters that the optimizer is restricted to.

    Returns
    -------
    bool
        Whether it warned.
    """
    if only is not None:
        nothing = bool(leaves) and not any(id(leaf) in only for leaf in leaves)
        if nothing:
            warn(
                f"{optimizer} changes nothing: none of the {len(leaves)} leaves with gradients is in its parameters=; "
                "a copied module has parameters of its own: copy it together with its optimizer"
            )
        return nothing
    strangers = [leaf for leaf in leaves if id(leaf) in _inputs and id(leaf) not in _parameters]
    known = sum(id(leaf) in _parameters for leaf in leaves)
    mixed = bool(strangers and known)
    if mixed:
        shapes = ", ".join(str(leaf.shape) for leaf in strangers)
        warn(
            f"{optimizer} changes leaves of shape {shapes} that a module was called with, beside {known} parameters of "
            "modules: if they are inputs, name what is trained with parameters=model.parameters()"
        )
    return mixed
