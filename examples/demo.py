"""The main job in a terminal: one process serves a model, another trains it over HTTP on real data.

``python examples/demo.py`` starts both; ``make demo`` installs what is needed first.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import labnet as ln

BATCH = 32
TRAINED = 1400  # of 1797 images


def serve() -> None:
    """Serve the model until the parent process closes our standard input."""
    ln.manual_seed(0)
    model = ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 10))
    with ln.network.serve_model(model, ln.optim.Adam(lr=3e-3), port=0, name="digits") as server:
        print(server.url, flush=True)
        sys.stdin.read()


def train(url: str, *, epochs: int) -> float:
    """Train the served model and return its accuracy on images that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = (images[order] / 16).astype("float32"), labels[order]
    model = ln.network.remote_model(url, blocking=True)
    starts = range(0, TRAINED, BATCH)
    with tqdm(total=epochs * len(starts), unit="step", desc="training over HTTP") as bar:
        for _ in range(epochs):
            for start in starts:
                batch = slice(start, min(start + BATCH, TRAINED))
                loss = ln.loss.cross_entropy(model(ln.asarray(x[batch])), ln.asarray(y[batch]))
                loss.backward()
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                bar.update()
    with ln.no_grad():
        predicted = model(ln.asarray(x[TRAINED:])).argmax(axis=1).numpy()
    return float((predicted == y[TRAINED:]).mean())


def table(statistics: dict) -> str:
    """Lay out the statistics of the routes for people."""
    lines = [f"{'route':<10}{'hits':>8}{'seconds':>10}{'errors':>8}{'p50 ms':>9}{'p99 ms':>9}{'MB in':>8}{'MB out':>8}"]
    for route, row in statistics.items():
        if route != "server":
            p50, p99 = (row["latency"][key] * 1e3 for key in ("p50", "p99"))
            lines.append(
                f"{route:<10}{row['hits']:>8,}{row['seconds']:>10.3f}{row['errors']:>8}{p50:>9.2f}{p99:>9.2f}"
                f"{row['bytes_in'] / 1e6:>8.2f}{row['bytes_out'] / 1e6:>8.2f}"
            )
    return "\n".join(lines)


def main() -> int:
    """Start the server process, train, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        url = server.stdout.readline().strip()
        if not url:
            print("the server process did not start", file=sys.stderr)
            return 1
        print(f"process {server.pid} serves the model at {url}")
        print(f"this process trains it on {TRAINED} handwritten digits (8x8 pixels, from scikit-learn)\n")
        began = time.perf_counter()
        accuracy = train(url, epochs=arguments.epochs)
        seconds = time.perf_counter() - began
        print(f"\naccuracy on the other 397 digits: {accuracy:.1%}, after {seconds:.1f} s\n")
        print(table(ln.network.remote_model(url, blocking=True).statistics()))
        return 0
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finally:
        server.stdin.close()
        server.wait(timeout=10)


if __name__ == "__main__":
    sys.exit(main())
