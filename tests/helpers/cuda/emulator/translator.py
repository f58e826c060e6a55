"""Instructions of a kernel -> Python that carries each out for many threads at once, with NumPy.

A register is an array with one element per thread. ``I`` selects the threads that execute a block: an array of their
numbers, or a slice where it is all of them.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.helpers.cuda.emulator import arithmetic
from tests.helpers.cuda.emulator.parser import SIZES, Instruction, Kernel, Unsupported

SPECIAL = tuple(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz")
#: Where the windows of shared and of local memory begin among generic addresses.
WINDOWS = {"shared": 1 << 60, "local": 1 << 61}
_IGNORED = {
    "approx",
    "full",
    "global",
    "volatile",
    "nc",
    "lo",
    "wide",
    "hi",
    "cc",
    "to",
    "uni",
    "relaxed",
    "gpu",
    "weak",
}
_ROUNDINGS = ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")
_ORDERS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ORDERS |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_APPROXIMATED = {
    "ex2": "np.exp2({0}.astype('f8'))",
    "lg2": "np.log2({0}.astype('f8'))",
    "rcp": "1.0 / {0}.astype('f8')",
    "rsqrt": "1.0 / np.sqrt({0}.astype('f8'))",
    "sqrt": "np.sqrt({0}.astype('f8'))",
    "sin": "np.sin({0}.astype('f8'))",
    "cos": "np.cos({0}.astype('f8'))",
    "tanh": "np.tanh({0}.astype('f8'))",
}


def dtype_of(kind: str) -> str:
    """Return the NumPy type of a PTX type: bits are unsigned numbers."""
    if kind == "pred":
        return "?"
    return {"b": "u", "s": "i"}.get(kind[0], kind[0]) + str(SIZES[kind])


class Translation:
    """The Python text of a kernel.

    Attributes
    ----------
    text : str
        A function ``bind(registers, addresses, memory, threads)`` that returns one function per block.
    names : dict
        What the text refers to.
    """

    def __init__(self, kernel: Kernel):
        self._kernel = kernel
        self._registers = {**kernel.registers, **dict.fromkeys(SPECIAL, "b32")}
        self._views: dict[tuple[str, str], str] = {}
        self._addresses: dict[str, str] = {}
        self.names: dict[str, Any] = {"np": np, "am": arithmetic, "sub": _some}
        blocks = [self._block(number) for number in range(len(kernel.blocks))]
        head = ["def bind(registers, addresses, memory, threads):"]
        head += [f"    {name} = registers[{key[0]!r}].view({key[1]!r})" for key, name in self._views.items()]
        head += [f"    {name} = addresses[{key!r}]" for key, name in self._addresses.items()]
        tail = [f"    return [{', '.join(f'block{number}' for number in range(len(blocks)))}]"]
        self.text = "\n".join([*head, *["\n".join(lines) for lines in blocks], *tail]) + "\n"

    def _block(self, number: int) -> list[str]:
        lines = [f"    def block{number}(I):"]
        instructions = self._kernel.blocks[number].instructions
        for instruction in instructions:
            if instruction.opcode[0] in ("bra", "ret", "exit", "bar", "barrier"):
                lines += [f"        {line}" for line in self._end(instruction, number + 1)]
                return lines
            chosen = "I"
            if instruction.guard:
                chosen = "J"
                mask = self._source(instruction.guard, "?", "I")
                lines.append(f"        J = sub(I, {'~' * instruction.inverted}{mask})")
            lines += [f"        {line}" for line in self._plain(instruction, chosen)]
        lines.append(f"        threads.pc[I] = {number + 1}")
        return lines

    def _end(self, instruction: Instruction, following: int) -> list[str]:
        name = instruction.opcode[0]
        if name in ("bar", "barrier"):
            if instruction.guard or instruction.operands != ("0",):
                raise Unsupported(str(instruction))
            return [f"threads.wait(I, {following})"]
        target = "threads.done" if name != "bra" else str(self._kernel.labels[instruction.operands[0]])
        if not instruction.guard:
            return [f"threads.pc[I] = {target}"]
        first, second = (following, target) if instruction.inverted else (target, following)
        return [f"threads.pc[I] = np.where({self._source(instruction.guard, '?', 'I')}, {first}, {second})"]

    def _constant(self, value: Any) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def _view(self, register: str, dtype: str) -> str:
        name = f"r_{re.sub(r'[^a-zA-Z0-9]', '_', register)}_{dtype.replace('?', 'p')}"
        self._views[register, dtype] = name
        return name

    def _source(self, operand: str, dtype: str, chosen: str) -> str:
        """Return the text of an operand read as a type; the low bits of a register that is wider."""
        if operand in self._registers:
            own = dtype_of(self._registers[operand])
            if own == dtype or own[1:] == dtype[1:]:
                return f"{self._view(operand, dtype)}[{chosen}]"
            if int(own[1:]) < int(dtype[1:]):
                raise Unsupported(f"{operand} is narrower than {dtype}")
            return f"{self._view(operand, 'u' + own[1:])}[{chosen}].astype('u{dtype[1:]}').view({dtype!r})"
        if operand in self._kernel.variables:
            name = f"a{list(self._kernel.variables).index(operand)}"
            self._addresses[operand] = name
            return name
        if dtype == "?":
            return self._constant(np.bool_(int(operand)))
        bits = re.match(r"0[fFdD]([0-9a-fA-F]+)$", operand)
        if bits and dtype[0] == "f":
            return self._constant(np.array(int(bits[1], 16), f"u{len(bits[1]) // 2}").view(dtype)[()])
        if re.match(r"-?(0[xX][0-9a-fA-F]+|\d+)U?$", operand):
            size = int(dtype[1:])
            number = int(operand.rstrip("U"), 0) & ((1 << 8 * size) - 1)
            return self._constant(np.array(number, f"u{size}").view(dtype)[()])
        raise Unsupported(f"operand {operand}")

    def _store(self, operand: str, dtype: str, chosen: str, value: str) -> str:
        """Return the statement that writes a value of a type to a register, extended to its width."""
        own = dtype_of(self._registers[operand])
        if dtype == "?" or own[1:] == dtype[1:]:
            return f"{self._view(operand, dtype)}[{chosen}] = {value}"
        if int(own[1:]) < int(dtype[1:]) or dtype[0] == "f":
            raise Unsupported(f"{dtype} into {operand}")
        wide = dtype[0] + own[1:]
        return f"{self._view(operand, wide)}[{chosen}] = np.asarray({value}).astype({dtype!r}).astype({wide!r})"

    def _plain(self, instruction: Instruction, chosen: str) -> list[str]:
        name, *rest = instruction.opcode
        method: Callable[..., list[str]] | None = getattr(self, f"_do_{name}", None)
        if method is None:
            raise Unsupported(str(instruction))
        return method(instruction, [part for part in rest if part not in _IGNORED], chosen)

    def _simple(
        self, instruction: Instruction, kind: str, text: str, chosen: str, result: str | None = None
    ) -> list[str]:
        dtype = dtype_of(kind)
        sources = [self._source(operand, dtype, chosen) for operand in instruction.operands[1:]]
        return [self._store(instruction.operands[0], result or dtype, chosen, text.format(*sources))]

    def _do_mov(self, op, rest, chosen):
        target, source = op.operands
        if "{" not in target + source:
            return self._simple(op, rest[-1], "{0}", chosen)
        whole, parts = (target, source) if "{" in source else (source, target)
        parts = self._targets(parts)
        size = SIZES[rest[-1]] // len(parts)
        dtypes, shifts = f"u{size * len(parts)}", [8 * size * place for place in range(len(parts))]
        if whole == target:
            text = " | ".join(
                f"({self._source(part, f'u{size}', chosen)}.astype('{dtypes}') << np.{np.dtype(dtypes).name}({shift}))"
                for part, shift in zip(parts, shifts, strict=True)
            )
            return [self._store(whole, dtypes, chosen, text)]
        value = self._source(whole, dtypes, chosen)
        return [
            self._store(part, f"u{size}", chosen, f"({value} >> np.{np.dtype(dtypes).name}({shift})).astype('u{size}')")
            for part, shift in zip(parts, shifts, strict=True)
        ]

    def _do_cvta(self, op, rest, chosen):
        spaces = [part for part in op.opcode if part in (*WINDOWS, "global")]
        sign = "-" if "to" in op.opcode else "+"
        return self._simple(op, rest[-1], f"{{0}} {sign} np.uint64({WINDOWS.get(spaces[0], 0)})", chosen)

    def _arithmetic(self, op, rest, chosen):
        name, kind = op.opcode[0], rest[-1]
        flush, saturate = "ftz" in rest, "sat" in rest
        how = next((part for part in rest if part in _ROUNDINGS), "rn")
        if kind[0] == "f":
            if kind == "f16":
                raise Unsupported(str(op))
            parts = [f"am.flushed({{{place}}}, {flush})" if flush else f"{{{place}}}" for place in (0, 1)]
            text = f"am.binary({name!r}, {parts[0]}, {parts[1]}, '{dtype_of(kind)}', {how!r})"
            if flush or saturate:
                text = f"am.saturated(am.flushed({text}, {flush}), {saturate})"
            return self._simple(op, kind, text, chosen)
        if "cc" in op.opcode:
            return self._do_addc(op, rest, chosen)
        if saturate:
            raise Unsupported(str(op))
        return self._simple(op, kind, "{0} + {1}" if name == "add" else "{0} - {1}", chosen)

    _do_add = _do_sub = _arithmetic

    def _do_mul(self, op, rest, chosen):
        kind = rest[-1]
        if kind[0] == "f":
            return self._arithmetic(op, rest, chosen)
        return [self._store(op.operands[0], *self._product(op, kind, chosen))]

    def _product(self, op, kind, chosen):
        dtype = dtype_of(kind)
        a, b = (self._source(operand, dtype, chosen) for operand in op.operands[1:3])
        if "wide" in op.opcode:
            wide = f"{dtype[0]}{2 * int(dtype[1:])}"
            return wide, chosen, f"{a}.astype({wide!r}) * {b}.astype({wide!r})"
        return dtype, chosen, f"am.high_product({a}, {b})" if "hi" in op.opcode else f"{a} * {b}"

    def _do_mad(self, op, rest, chosen):
        dtype, _, product = self._product(op, rest[-1], chosen)
        return self._with_carry(op, dtype, product, self._source(op.operands[3], dtype, chosen), chosen)

    def _do_addc(self, op, rest, chosen):
        dtype = dtype_of(rest[-1])
        return self._with_carry(
            op, dtype, *(self._source(operand, dtype, chosen) for operand in op.operands[1:3]), chosen
        )

    _do_madc = _do_mad
    _do_subc = _do_addc

    def _with_carry(self, op, dtype, a, b, chosen):
        """Return statements that add with what the last addition carried, and note what this one does."""
        name, before = op.opcode[0], "carry" if op.opcode[0].endswith("c") else "False"
        function = "difference_and_borrow" if name.startswith("sub") else "sum_and_carry"
        lines = [f"total, carry = am.{function}({a}, {b}, {before})"]
        return [*lines, self._store(op.operands[0], dtype, chosen, "total")]

    def _do_fma(self, op, rest, chosen):
        kind = rest[-1]
        flush, saturate, how = "ftz" in rest, "sat" in rest, next(part for part in rest if part in _ROUNDINGS)
        text = f"am.fma({{0}}, {{1}}, {{2}}, '{dtype_of(kind)}', {how!r})"
        return self._simple(op, kind, f"am.saturated(am.flushed({text}, {flush}), {saturate})", chosen)

    def _do_div(self, op, rest, chosen):
        kind = rest[-1]
        if kind[0] == "f":
            return self._arithmetic(op, rest, chosen)
        return self._simple(op, kind, "am.quotient({0}, {1})", chosen)

    def _do_rem(self, op, rest, chosen):
        return self._simple(op, rest[-1], "am.remainder({0}, {1})", chosen)

    def _do_neg(self, op, rest, chosen):
        return self._simple(op, rest[-1], "-{0}", chosen)

    def _do_abs(self, op, rest, chosen):
        return self._simple(op, rest[-1], "np.abs({0})", chosen)

    def _least(self, op, rest, chosen):
        name = {"min": ("am.smallest", "np.minimum"), "max": ("am.largest", "np.maximum")}[op.opcode[0]]
        if "NaN" in rest or "ftz" in rest:
            raise Unsupported(str(op))
        return self._simple(op, rest[-1], f"{name[rest[-1][0] != 'f']}({{0}}, {{1}})", chosen)

    _do_min = _do_max = _least

    def _do_copysign(self, op, rest, chosen):
        return self._simple(op, rest[-1], "np.copysign({1}, {0})", chosen)

    def _approximation(self, op, rest, chosen):
        kind, dtype = rest[-1], dtype_of(rest[-1])
        flush = "ftz" in rest
        coarse = dtype == "f8" and "approx" in op.opcode
        value = f"am.flushed({{0}}, {flush})"
        text = _APPROXIMATED[op.opcode[0]].format(f"am.coarse({value})" if coarse else value)
        text = f"am.coarse({text})" if coarse else f"({text}).astype({dtype!r})"
        return self._simple(op, kind, f"am.flushed({text}, {flush})", chosen)

    _do_ex2 = _do_lg2 = _do_rcp = _do_rsqrt = _do_sqrt = _do_sin = _do_cos = _do_tanh = _approximation

    def _logic(self, op, rest, chosen):
        sign = {"and": "&", "or": "|", "xor": "^"}[op.opcode[0]]
        return self._simple(op, rest[-1], f"{{0}} {sign} {{1}}", chosen)

    _do_and = _do_or = _do_xor = _logic

    def _do_not(self, op, rest, chosen):
        return self._simple(op, rest[-1], "~{0}", chosen)

    def _shift(self, op, rest, chosen):
        kind = dtype_of(rest[-1])
        value, count = self._source(op.operands[1], kind, chosen), self._source(op.operands[2], "u4", chosen)
        name = {"shl": "left", "shr": "right"}[op.opcode[0]]
        return [self._store(op.operands[0], kind, chosen, f"am.{name}({value}, {count})")]

    _do_shl = _do_shr = _shift

    def _do_clz(self, op, rest, chosen):
        return self._simple(op, rest[-1], "am.leading_zeros({0})", chosen, "u4")

    def _do_popc(self, op, rest, chosen):
        return self._simple(op, rest[-1], "np.bitwise_count({0}).astype('u4')", chosen, "u4")

    def _do_bfi(self, op, rest, chosen):
        dtype = dtype_of(rest[-1])
        a, b = (self._source(operand, dtype, chosen) for operand in op.operands[1:3])
        if not all(operand.isdigit() for operand in op.operands[3:]):
            raise Unsupported(str(op))
        start, count = map(int, op.operands[3:])
        mask = self._constant(np.array(((1 << count) - 1) << start, dtype)[()])
        shift = self._constant(np.array(start, dtype)[()])
        return [self._store(op.operands[0], dtype, chosen, f"({b} & ~{mask}) | (({a} << {shift}) & {mask})")]

    def _do_selp(self, op, rest, chosen):
        dtype = dtype_of(rest[-1])
        a, b = (self._source(operand, dtype, chosen) for operand in op.operands[1:3])
        return [
            self._store(
                op.operands[0], dtype, chosen, f"np.where({self._source(op.operands[3], '?', chosen)}, {a}, {b})"
            )
        ]

    def _do_setp(self, op, rest, chosen):
        order, kind = rest[0], rest[-1]
        if "|" in op.operands[0] or len(op.operands) > 3 or len(rest) > 2 + ("ftz" in rest):
            raise Unsupported(str(op))
        dtype = dtype_of(kind)
        a, b = (self._source(operand, dtype, chosen) for operand in op.operands[1:3])
        if kind[0] != "f":
            text = f"{a} {_ORDERS[order]} {b}"
        elif order in ("num", "nan"):
            text = f"{'~' * (order == 'num')}(np.isnan({a}) | np.isnan({b}))"
        elif order == "ne":
            text = f"({a} < {b}) | ({a} > {b})"
        elif order.endswith("u") and order[:-1] in _ORDERS:
            text = f"({a} {_ORDERS[order[:-1]]} {b}) | np.isnan({a}) | np.isnan({b})"
        else:
            text = f"{a} {_ORDERS[order]} {b}"
        return [self._store(op.operands[0], "?", chosen, text)]

    def _do_cvt(self, op, rest, chosen):
        to, source = dtype_of(rest[-2]), dtype_of(rest[-1])
        how = next((part for part in rest if part in _ROUNDINGS), "rn")
        flush, saturate = "ftz" in rest, "sat" in rest
        value = f"am.flushed({self._source(op.operands[1], source, chosen)}, {flush})"
        if to[0] != "f":
            text = f"{value}.astype({to!r})" if source[0] != "f" else f"am.to_integer({value}, {to!r}, {how!r})"
        elif source[0] == "f" and how in _ROUNDINGS[4:]:
            text = f"am.whole({value}, {how!r})"
        elif source[0] == "f" and how != "rn":
            text = f"am.rounded({value}, {to!r}, {how!r})"
        else:
            if how != "rn":
                raise Unsupported(str(op))
            text = f"{value}.astype({to!r})"
        if saturate and to[0] != "f":
            raise Unsupported(str(op))
        return [self._store(op.operands[0], to, chosen, f"am.saturated({text}, {saturate})")]

    def _place(self, operand: str, chosen: str) -> str:
        base, _, offset = operand.strip("[]").partition("+")
        text = self._source(base, "u8", chosen)
        return f"{text} + np.uint64({int(offset or 0) % (1 << 64)})" if offset else text

    def _targets(self, operand: str) -> list[str]:
        return [part.strip() for part in operand.strip("{}").split(",")]

    def _do_ld(self, op, rest, chosen):
        kind = rest[-1]
        if "param" in rest:
            offset = self._kernel.parameters[op.operands[1].strip("[]")][1]
            text = f"threads.parameter({offset}, '{dtype_of(kind)}')"
            return [self._store(op.operands[0], dtype_of(kind), chosen, text)]
        space = self._space(op)
        dtype, size = dtype_of(kind), SIZES[kind]
        lines = [f"place = {self._place(op.operands[1], chosen)}"]
        targets = self._targets(op.operands[0])
        for number, target in enumerate(targets):
            width = 1 if number else len(targets)
            where = f"memory.load({chosen}, place + np.uint64({number * size}), '{dtype}', '{space}', {width})"
            lines.append(self._store(target, dtype, chosen, where))
        return lines

    def _do_st(self, op, rest, chosen):
        kind, space = rest[-1], self._space(op)
        dtype, size = dtype_of(kind), SIZES[kind]
        sources = self._targets(op.operands[1])
        lines = [f"place = {self._place(op.operands[0], chosen)}"]
        for number, source in enumerate(sources):
            value, width = self._source(source, dtype, chosen), 1 if number else len(sources)
            where = f"{chosen}, place + np.uint64({number * size}), '{dtype}', '{space}', {width}"
            lines.append(f"memory.store({where}, {value})")
        return lines

    @staticmethod
    def _space(instruction: Instruction) -> str:
        found = [part for part in instruction.opcode if part in ("global", "shared", "local")]
        return found[0] if found else "generic"


def _some(chosen: Any, mask: np.ndarray) -> np.ndarray:
    """Return the numbers of those threads for which something holds."""
    return np.flatnonzero(mask) if isinstance(chosen, slice) else chosen[mask]
