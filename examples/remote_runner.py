"""Upload a model file to a runner: it is served in a process of its own, and trained from here.

``python examples/remote_runner.py`` starts the runner too. A runner runs whatever is uploaded to it, so it
always has a token; on one machine the clients of the same user find it by themselves.
"""

import tempfile
from pathlib import Path

from processes import running

import labnet as ln

MODEL = """
import labnet as ln

ln.manual_seed(0)
model = ln.nn.Linear(2, 1)
optimizer = ln.optim.SGD(lr=0.1)
print("a linear model, made in a process of its own")
"""


def runner():
    return ln.network.serve_runner(port=0, allow_shell=True)


def main():
    with tempfile.TemporaryDirectory() as folder, running(runner) as (url,):
        file = Path(folder) / "linear.py"
        file.write_text(MODEL)
        remote = ln.network.remote_runner(url, blocking=True)
        model = remote.serve_model(file)
        ln.manual_seed(1)
        for step in range(1, 61):
            x = ln.randn((16, 2))
            loss = ln.loss.mse(model(x), x.sum(axis=1, keepdims=True))
            loss.backward()
            if step % 20 == 0:
                print(f"step {step}: loss {loss.item():.6f}")
        print("its log:", remote.logs("linear").strip())
        print("the runner's shell:", remote.shell("echo hello").stdout.strip())


if __name__ == "__main__":
    main()
