"""The first minute: what a fresh process takes until its first training step, beside torch.

``python benchmarks/startup.py`` prints a table and writes ``build/startup.json``. Each row is a process of its
own, started in turns, with warm disk caches; the figure is the median over the rounds. Rows of torch are left
out where it is not installed (``pip install torch==2.13.0``).
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

OURS = """
import labnet as ln
model, optimizer = ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 64)), ln.optim.Adam()
optimizer(ln.loss.mse(model(ln.ones((64, 64))), ln.zeros((64, 64))).backward())
"""
THEIRS = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
optimizer = torch.optim.Adam(model.parameters())
torch.nn.functional.mse_loss(model(torch.ones(64, 64)), torch.zeros(64, 64)).backward()
optimizer.step()
"""
ROWS = {
    "python": "pass",
    "import numpy": "import numpy",
    "import labnet": "import labnet",
    "import labnet, first step": OURS,
    "import torch": "import torch",
    "import torch, first step": THEIRS,
}


def seconds(code: str) -> float:
    """Run a process to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/startup.json"))
    arguments = parser.parse_args()
    rows = {name: code for name, code in ROWS.items() if "torch" not in name or importlib.util.find_spec("torch")}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(arguments.rounds + 1):
        for name, code in rows.items():
            times[name].append(seconds(code))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first fills the caches
    print(f"{'milliseconds of a fresh process':<36}{'median':>9}{'x first step':>14}")
    for name, median in medians.items():
        print(f"{name:<36}{median * 1e3:>9.0f}{median / medians['import labnet, first step']:>14.2f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(medians, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
