"""Compiled steps beside labnet's eager ones, torch eager and jax.jit, in one run: on one thread, then on two.

``python benchmarks/compiled.py`` prints a table and writes ``build/compiled.json``. Rounds are interleaved and
medians are taken, as in ``benchmarks/eager.py``. "Floor" is what products and memory traffic alone would take on this
machine (``benchmarks/floor.py``), "x floor" how many times as long the compiled step takes. A row ends with the
least ratios to torch and jax that the project asks for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = THREADS
if THREADS != "1":
    os.environ.setdefault("XLA_FLAGS", "")  # jax's own default: all cores

from compiled_rows import all_rows
from eager import Row, measure, torch
from floor import Work

from labnet import kernels
from labnet.errors import TraceError

if torch:
    torch.set_num_threads(int(THREADS))

#: Least ratios to torch eager and to jax.jit.
TARGETS = {"T1": (100.0, 30.0), "T2": (6.0, 2.7), "T3": (1.5, 1.25), "T4": (2.0, 2.5)}
TARGETS |= {"hidden layer 64": (8.0, None), "hidden layer 128": (2.5, None), "hidden layer 1024": (0.95, None)}
TARGETS |= {"encoder layer": (2.0, None), "LSTM": (2.0, None)}
COLUMNS = ("labnet", "compiled", "torch", "jax")


def measured(make: Callable[[], Row], *, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median seconds of the columns and of what the floor takes; without those of what is not compiled."""
    row = make()
    compiled = row["compiled"]
    try:
        compiled()
    except TraceError as error:
        print(f"  {error}", file=sys.stderr)
        del row["compiled"]
        return measure(row, rounds=rounds, seconds=seconds)
    work = Work.of(compiled.step._last.program)
    times = measure(row | work.tasks(), rounds=rounds, seconds=seconds)
    return {name: times[name] for name in row} | {"floor": work.seconds(times)}


def ratio(times: dict[str, float], peer: str) -> float | None:
    return times[peer] / times["compiled"] if peer in times and "compiled" in times else None


def cell(number: float | None, width: int, digits: int = 2) -> str:
    return f"{'':>{width}}" if number is None else f"{number:>{width}.{digits}f}"


def line(name: str, times: dict[str, float], both: dict[str, float]) -> str:
    """Return a row of the table: one thread, the floor, then the compiled step and torch on two threads."""
    least = TARGETS.get(name, (None, None))
    ratios = ratio(times, "torch"), ratio(times, "jax")
    short = any(t and (r is None or r < t) for r, t in zip(ratios, least, strict=True))
    cells = [cell(times[c] * 1e6 if c in times else None, 10) for c in COLUMNS]
    cells += [cell(ratios[0], 9), cell(ratios[1], 8), cell(times["floor"] * 1e6 if "floor" in times else None, 10)]
    cells.append(cell(times["compiled"] / times["floor"] if "floor" in times else None, 9))
    cells += [cell(both["compiled"] * 1e6 if "compiled" in both else None, 11), cell(ratio(both, "torch"), 9)]
    wanted = " ".join(f"{t:g}" for t in least if t)
    return f"{name:<18}{''.join(cells)}  {wanted}{'  short' if short else ''}"


def on_two_threads(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure everything in a process that may use two threads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two.json"
        command = [sys.executable, __file__, "--threads", "2", "--only", arguments.only, "--json", str(path)]
        command += ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(path.read_text())


def table(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure all rows and print them, or, on more than one thread, measure them only."""
    kernels.load()
    rows = {name: make for name, make in all_rows().items() if arguments.only in name}
    both = on_two_threads(arguments) if arguments.threads == 1 else {}
    print(
        f"{'microseconds':<18}"
        + "".join(f"{c:>10}" for c in COLUMNS)
        + f"{'x torch':>9}{'x jax':>8}{'floor':>10}{'x floor':>9}{'2 threads':>11}{'x torch':>9}  least"
    )
    results = {}
    for name, make in rows.items():
        times = results[name] = measured(make, rounds=arguments.rounds, seconds=arguments.seconds)
        print(line(name, times, both.get(name, {})), flush=True)
    if arguments.threads == 1:
        return {name: {"one thread": times, "two threads": both[name]} for name, times in results.items()}
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one round of one column")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="of everybody, where they can use them")
    parser.add_argument("--json", type=Path, default=Path("build/compiled.json"))
    arguments = parser.parse_args()
    results = table(arguments)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
