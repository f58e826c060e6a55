"""See what ops cost, here and on the servers that compute for us, in one set of figures.

``python examples/op_statistics.py`` trains a chain of two servers while it collects, and prints one table per
process. Nothing is counted, and nothing paid, outside the block.
"""

import os

from processes import running

import labnet as ln


def stage(inputs, outputs):
    ln.manual_seed(inputs)
    return ln.network.serve_model(ln.nn.Linear(inputs, outputs), ln.optim.SGD(lr=1e-2), port=0)


def main():
    with running((stage, 256, 128), (stage, 128, 10)) as (first, second):
        a, b = (ln.network.remote_model(url, blocking=True) for url in (first, second))
        x, target = ln.randn((64, 256)), ln.zeros((64, 10))
        with ln.stats.collect(ln.stats.ConsoleLogger(most=5)) as statistics:
            for _ in range(20):
                ln.loss.mse(b(ln.nn.relu(a(x))), target).backward()
    everywhere = statistics.everywhere
    print(f"\nthis is process {os.getpid()}; {len(statistics.remotes)} others computed for it")
    print(f"all together: {everywhere.total.count} ops, {everywhere.total.flops / 1e6:.1f} Mflop")
    share = 1 - statistics.total.flops / everywhere.total.flops
    print(f"{share:.1%} of the arithmetic was done elsewhere")


if __name__ == "__main__":
    main()
