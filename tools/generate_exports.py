"""Add the ops of the registry to the imports and ``__all__`` of ``labnet/ops/__init__.py`` and ``labnet/__init__.py``.

Run it after adding an op: ``python tools/generate_exports.py``. A test keeps the files true.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from labnet import ops

ROOT = Path(__file__).parent.parent / "labnet"
TARGETS = (ROOT / "ops" / "__init__.py", ROOT / "__init__.py")


def places() -> dict[str, str]:
    """Return the module of each op."""
    for module in pkgutil.walk_packages(ops.__path__, "labnet.ops."):
        importlib.import_module(module.name)
    return {name: inspect.unwrap(op.function).__module__ for name, op in ops.REGISTRY.items()}


def natural(name: str) -> list[tuple[int, str | int]]:
    """Return a key that sorts ``log2`` before ``log10``, and constants and classes before functions, as ruff does."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return [(kind, ""), *((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)]


def with_imports(text: str, wanted: dict[str, list[str]]) -> str:
    """Add names to the imports of a module's text."""
    for module, names in wanted.items():
        found = re.search(rf"^from {re.escape(module)} import (\([^)]*\)|[^\n(]*)\n", text, re.M)
        known = set(re.findall(r"[\w]+(?: as \w+)?", found[1])) if found else set()
        if set(names) <= {name.split(" as ")[-1] for name in known}:
            continue
        listed = "".join(f"    {name},\n" for name in sorted({*known, *names}, key=natural))
        block = f"from {module} import (\n{listed})\n"
        if found:
            text = text.replace(found[0], block)
        else:
            later = [m for m in re.finditer(r"^from (labnet\.ops\.[\w.]+) import", text, re.M) if m[1] > module]
            at = later[0].start() if later else text.index("\nattach()")
            text = text[:at] + block + text[at:]
    return text


def with_names(text: str, names: list[str]) -> str:
    """Add names to ``__all__`` of a module's text."""
    found = re.search(r"^__all__ = \[\n(.*?)\]\n", text, re.M | re.S)
    assert found
    starred = "".join(re.findall(r"^ +\*\w+,\n", found[1], re.M))  # other names, from a table
    known = set(ast.literal_eval(f"[{re.sub(r'^ +[*].*', '', found[1], flags=re.M)}]"))
    if known.issuperset(names):
        return text
    listed = starred + "".join(f'    "{name}",\n' for name in sorted({*known, *names}, key=natural))
    return text.replace(found[0], f"__all__ = [\n{listed}]\n")


def generate() -> dict[Path, str]:
    """Return the text of both files."""
    found, by_module = places(), {}
    for name, module in found.items():
        by_module.setdefault(module, []).append(name)
    named = ops.named_functions()  # exported by the table of names
    public = [
        name
        for name, module in found.items()
        if ".ops.nn." not in module and ops.REGISTRY[name].is_public and name not in named
    ]
    inner, top = (target.read_text() for target in TARGETS)
    return {
        TARGETS[0]: with_names(with_imports(inner, by_module), list(found)),
        TARGETS[1]: with_names(with_imports(top, {"labnet.ops": public}), public),
    }


if __name__ == "__main__":
    for target, text in generate().items():
        target.write_text(text)
        print(f"wrote {target}")
