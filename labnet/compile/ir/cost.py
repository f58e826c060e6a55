"""The cost of a program: floating-point operations, memory traffic, and a report of its groups."""

from collections.abc import Sequence
from typing import Any

from labnet.compile.ir.fusion import Group
from labnet.compile.ir.memory_plan import Plan
from labnet.compile.ir.values import Program, Value, is_workspace, placed


def flops(value: Value) -> int:
    """Return the number of floating-point operations of a value: one per element except for products and calls."""
    if value.kind == "matmul":
        return 2 * value.size * value.inputs[0].shape[-1]
    if value.kind == "call":
        return int(value.attributes["flops"])
    return value.inputs[0].size if value.kind in ("reduce", "scatter") else value.size


def traffic(group: Group) -> int:
    """Return the bytes that a group reads and writes if nothing stays in a cache."""
    own = {value.number for value in group.members}
    read = {}
    for value in group.members:
        for operand in value.inputs:
            base = placed(operand)[0]
            if base.number not in own and base.kind != "splat" and not is_workspace(base):
                read[base.number] = base.nbytes
    return sum(read.values()) + sum(store.value.nbytes for store in group.stores)


def explain(
    program: Program, groups: Sequence[Group], plan: Plan, constants: Sequence[Any], guarded: Sequence[str]
) -> str:
    """Return a report: one line per group, then totals and constants, then the lines about guarded values."""
    lines = []
    for position, group in enumerate(groups):
        names = [str(value.attributes.get("name", value.kind)) for value in group.members]
        names += ["store"] * len(group.stores)
        names += ["check"] * len(group.checks)
        single = [value.shape for value in (*group.members, *(check.value for check in group.checks))]
        over = f"over {list(group.shape)}" if group.shape is not None else f"to {list(single[0])}"
        lines.append(f"group {position}: {', '.join(names)} {over}")
    work = sum(flops(value) for group in groups for value in group.members)
    lines.append(f"{len(groups)} groups, {work} flops, {sum(map(traffic, groups))} bytes read and written")
    lines.append(f"arena of {plan.nbytes} bytes for {len(plan.offsets)} intermediate values")
    for array in constants:
        lines.append(f"constant: {array.dtype} of shape {array.shape}")
    lines += guarded
    return "\n".join(dict.fromkeys(lines))  # layers of the same size have equal lines
