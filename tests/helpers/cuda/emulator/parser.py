"""PTX as text -> variables, parameters, registers and basic blocks of one kernel."""

import re
from dataclasses import dataclass, field

import numpy as np

SIZES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4}
SIZES |= {"b64": 8, "u64": 8, "s64": 8, "f64": 8}
_VARIABLE = re.compile(
    r"(?:\.\w+ )*?\.(global|shared|local|const) (?:\.align (\d+) )?\.(\w+) ([\w$%.]+)(?:\[(\d*)\])?(?: = (.*))?$",
    re.DOTALL,
)
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(\w+) (\w+)$")
_REGISTER = re.compile(r"\.reg \.(\w+) (.+)$")
_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$]+) )?([\w.:]+)(?: (.*))?$", re.DOTALL)


_HEAD = re.compile(
    r"(?:\.(?:visible|weak|extern) )*\.(?P<kind>entry|func)\s*(?:\([^)]*\))?"
    r"\s*(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
    r"\s*(?:\.(?:noreturn|maxntid|reqntid|minnctapersm|maxnreg)[^\n{;]*\s*)*(?P<end>[{;])"
)
_CALL = re.compile(r"call(?:\.uni)? (?:\(([\w, ]*)\), )?(\w+)(?:, \(([\w, ]*)\))?$")
_PASSED = re.compile(r"(ld|st)\.param\.(\w+) (.+)$")


class Unsupported(Exception):
    """A part of PTX that is not emulated."""


@dataclass(frozen=True)
class Variable:
    """Memory that a module or a kernel declares.

    Attributes
    ----------
    space : str
        "global", "shared" or "local".
    nbytes, alignment : int
    content : bytes
        What it begins with.
    """

    space: str
    nbytes: int
    alignment: int
    content: bytes = b""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes
    ----------
    opcode : tuple of str
        The parts between the dots.
    operands : tuple of str
    guard : str
        The predicate that it needs, or "".
    inverted : bool
        It needs the predicate to be false.
    """

    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str = ""
    inverted: bool = False

    def __str__(self) -> str:
        guard = f"@{'!' * self.inverted}{self.guard} " * bool(self.guard)
        return f"{guard}{'.'.join(self.opcode)} {', '.join(self.operands)}"


@dataclass
class Block:
    """Instructions that follow each other; only the last one may branch, wait or end."""

    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Kernel:
    """One entry of a module.

    Attributes
    ----------
    name : str
    parameters : dict
        Name -> (type, offset in bytes), packed as C does.
    variables : dict
        Name -> `Variable`, of the module and of the kernel.
    registers : dict
        Name -> type; where several share a name, that with its number.
    blocks : list of Block
    labels : dict
        Name -> number of the block that begins there.
    """

    name: str
    parameters: dict[str, tuple[str, int]]
    variables: dict[str, Variable]
    registers: dict[str, str]
    blocks: list[Block]
    labels: dict[str, int]

    @property
    def packed(self) -> int:
        """Bytes of all parameters."""
        return max((offset + SIZES[kind] for kind, offset in self.parameters.values()), default=0)


def _variable(statement: str) -> tuple[str, Variable] | None:
    found = _VARIABLE.match(statement)
    if found is None:
        return None
    space, alignment, kind, name, count, content = found.groups()
    size = SIZES[kind]
    bytes_ = b""
    if content:
        numbers = [int(part, 0) for part in content.strip("{} ").split(",")]
        bytes_ = np.array(numbers, np.int64).astype(f"u{size}").tobytes()
    nbytes = size * int(count) if count else size
    return name, Variable(space, nbytes, int(alignment or size), bytes_)


def _operands(text: str) -> tuple[str, ...]:
    """Split at commas that are outside of brackets."""
    return tuple(part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)) if text else ()


def _instruction(statement: str) -> Instruction:
    found = _INSTRUCTION.match(statement)
    if found is None:
        raise Unsupported(statement)
    inverted, guard, opcode, operands = found.groups()
    return Instruction(tuple(opcode.split(".")), _operands(operands or ""), guard or "", bool(inverted))


def _ends(instruction: Instruction) -> bool:
    return instruction.opcode[0] in ("bra", "ret", "exit", "bar", "barrier")


def kernels(ptx: str) -> dict[str, Kernel]:
    """Return the kernels of a module by name.

    Raises
    ------
    Unsupported
        If there is something in it that is not emulated.
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", ptx, flags=re.DOTALL)
    text = re.sub(r"\.(version|target|address_size) [^\n]*", "", text)
    shared: dict[str, Variable] = {}
    functions: dict[str, tuple[list[str], list[str]]] = {}
    entries: list[tuple[str, str, str]] = []
    end = 0
    for head in _HEAD.finditer(text):
        if head.start() < end:
            continue
        for statement in _statements(text[end : head.start()]):
            variable = _variable(statement)
            if variable is None:
                raise Unsupported(statement)
            shared[variable[0]] = variable[1]
        if head["end"] == ";":
            end = head.end()
            continue
        end = _closing(text, head.end())
        body = text[head.end() : end - 1]
        if head["kind"] == "entry":
            entries.append((head["name"], head["parameters"], body))
        else:
            functions[head["name"]] = re.findall(r"(\w+)(?=\s*(?:,|$|\[))", head["parameters"]), _lines(body)
    return {name: _kernel(name, head, _lines(body), shared, functions) for name, head, body in entries}


def _closing(text: str, start: int) -> int:
    depth = 1
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return start + match.end()
    raise Unsupported("a kernel without an end")


def _statements(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def _without_scope(line: str) -> str:
    """Take away the braces that inline assembly puts around itself; those of vectors stay."""
    line = line.strip()
    if line.startswith("{"):
        line = line[1:]
    if line.count("}") > line.count("{"):
        line = line[::-1].replace("}", "", 1)[::-1]
    return line


def _lines(body: str) -> list[str]:
    """Return the statements of a body; a label is one of them, with its colon."""
    body = "\n".join(map(_without_scope, body.splitlines()))
    found = _statements(re.sub(r"^\s*([$\w]+):", r"\1:;", body, flags=re.MULTILINE))
    return [statement for statement in found if not statement.startswith((".pragma ", ".loc "))]


def _inlined(lines: list[str], functions: dict[str, tuple[list[str], list[str]]], count: list[int]) -> list[str]:
    """Put functions in the place of their calls; what is passed goes through registers of its own."""
    found: list[str] = []
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            found.append(line)
            continue
        count[0] += 1
        result, name, given = call.groups()
        if name not in functions:
            raise Unsupported(line)
        formal, body = functions[name]
        names = dict(zip(formal, (part.strip() for part in (given or "").split(",")), strict=True)) if formal else {}
        names["func_retval0"] = result
        mark = f"${count[0]}"
        own = {match for part in body for match in _declared(part)}
        body = [one for part in body for one in _one_by_one(part)]
        inner = [
            re.sub(r"[%$\w]+", lambda word: names.get(word[0]) or word[0] + mark * (word[0] in own), part)  # noqa: B023
            for part in body
        ]
        end = f"$end{mark}"
        inner = [f"bra {end}" if part == "ret" else part for part in inner]
        found += [*_inlined(inner, functions, count), f"{end}:"]
    return found


def _one_by_one(statement: str) -> list[str]:
    """Return a declaration of registers as one for each."""
    if not statement.startswith(".reg"):
        return [statement]
    return [f".reg .{kind} {name}" for name, kind in _registers(statement).items()]


def _declared(statement: str) -> list[str]:
    """Return the names that a statement of a function declares, labels too."""
    if statement.endswith(":"):
        return [statement[:-1]]
    if statement.startswith(".reg"):
        return list(_registers(statement))
    variable = _variable(statement) if statement.startswith(".") and ".param" not in statement else None
    return [variable[0]] if variable else []


def _passing(statement: str, parameters: dict[str, tuple[str, int]], registers: dict[str, str]) -> str:
    """Return the move between registers that passing a value is, except for what the kernel itself is given."""
    match = _PASSED.match(statement)
    if match is None:
        return statement
    kind, operands = f"b{8 * SIZES[match[2]]}", _operands(match[3])
    place, other = (operands[1], operands[0]) if match[1] == "ld" else operands
    name = place.strip("[]").removesuffix("+0")
    if name in parameters:
        return statement
    registers[name] = kind
    return f"mov.{kind} {other}, {name}" if match[1] == "ld" else f"mov.{kind} {name}, {other}"


def _kernel(
    name: str,
    head: str,
    lines: list[str],
    variables: dict[str, Variable],
    functions: dict[str, tuple[list[str], list[str]]],
) -> Kernel:
    parameters: dict[str, tuple[str, int]] = {}
    offset = 0
    for part in filter(None, (" ".join(part.split()) for part in head.split(","))):
        match = _PARAMETER.match(part)
        if match is None:
            raise Unsupported(part)
        size = SIZES[match[1]]
        offset = -(-offset // size) * size
        parameters[match[2]] = match[1], offset
        offset += size
    kernel = Kernel(name, parameters, dict(variables), {}, [Block()], {})
    for line in _inlined(lines, functions, [0]):
        statement = _passing(line, parameters, kernel.registers)
        if statement.startswith(".param"):
            continue
        if statement.endswith(":"):
            if kernel.blocks[-1].instructions:
                kernel.blocks.append(Block())
            kernel.labels[statement[:-1]] = len(kernel.blocks) - 1
        elif statement.startswith(".reg"):
            kernel.registers |= _registers(statement)
        elif statement.startswith("."):
            variable = _variable(statement)
            if variable is None:
                raise Unsupported(statement)
            kernel.variables[variable[0]] = variable[1]
        else:
            instruction = _instruction(statement)
            kernel.blocks[-1].instructions.append(instruction)
            if _ends(instruction):
                kernel.blocks.append(Block())
    return kernel


def _registers(statement: str) -> dict[str, str]:
    """Return the registers that a statement declares, and their type."""
    match = _REGISTER.match(statement)
    if match is None:
        raise Unsupported(statement)
    found: dict[str, str] = {}
    for name in match[2].split(","):
        several = re.match(r"([%\w$]+)<(\d+)>$", name.strip())
        if several:
            found |= {f"{several[1]}{i}": match[1] for i in range(int(several[2]))}
        else:
            found[name.strip()] = match[1]
    return found
