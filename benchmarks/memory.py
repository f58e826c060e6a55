"""The peak memory of a training step in eager mode beside torch: the bytes beyond those before the step.

``python benchmarks/memory.py`` starts a process for each model and library, takes three steps with Adam, and prints the
most memory that the third needs beyond what the process holds before it (`VmHWM` and `VmRSS` of Linux), and labnet's
share of torch's. The last rows have each layer of the encoder in `ln.checkpoint` and `torch.utils.checkpoint`. Torch is
needed (``pip install torch==2.13.0``); both libraries use one thread.
"""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("encoder of 4 layers", "ConvNet", "encoder of 4 layers, checkpoints")


def memory(name: str) -> float:
    """Return a figure of this process in MB."""
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) / 1e3


def encoder(nn: Any, checkpoint: Callable[[Any], Any]) -> tuple[list[Any], Any, tuple[int, ...]]:
    layers = [nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True) for _ in range(4)]

    def forward(x: Any) -> Any:
        for layer in map(checkpoint, layers):
            x = layer(x)
        return x

    return layers, forward, (16, 128, 256)


def convnet(nn: Any, checkpoint: Callable[[Any], Any]) -> tuple[list[Any], Any, tuple[int, ...]]:
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4096, 10))
    return [model], model, (64, 3, 32, 32)


def measure(library: str, model: str) -> float:
    """Return the MB of a step in this process."""
    build = convnet if model == "ConvNet" else encoder
    checkpointed = model.endswith("checkpoints")
    parameters: list[Any]
    if library == "torch":
        import torch
        from torch.utils.checkpoint import checkpoint

        torch.set_num_threads(1)
        again = (lambda layer: lambda x: checkpoint(layer, x, use_reentrant=False)) if checkpointed else lambda x: x
        layers, forward, shape = build(torch.nn, again)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        optimizer = torch.optim.Adam(parameters)

        def step() -> None:
            optimizer.zero_grad()
            (forward(x) ** 2).mean().backward()
            optimizer.step()

    else:
        import labnet as ln

        layers, forward, shape = build(ln.nn, ln.checkpoint if checkpointed else lambda x: x)
        x = ln.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
        adam = ln.optim.Adam()
        ln.kernels.load()

        def step() -> None:
            adam((forward(x) ** 2).mean().backward())

    step()
    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier steps have freed
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # restarts VmHWM
    step()
    return memory("VmHWM") - before


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    print(f"{'peak of a training step':36}{'labnet':>10}{'torch':>10}{'ratio':>8}")
    for model in MODELS:
        found = []
        for library in ("labnet", "torch"):
            command = [sys.executable, __file__, library, model]
            done = subprocess.run(command, env=os.environ | one_thread, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
        print(f"{model:36}{found[0]:7.1f} MB{found[1]:7.1f} MB{found[0] / found[1]:8.2f}")


if __name__ == "__main__":
    main()
