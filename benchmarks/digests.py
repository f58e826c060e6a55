"""What a digest of every body costs: ``python benchmarks/digests.py``.

A round trip of an identity model, with the four digests that labnet computes for it: of request and reply, on both
sides. Next to it, the time of four digests of the same bytes by several algorithms. Medians, in one process.
"""

import hashlib
import os
import statistics
import time
import zlib

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import xxhash

import labnet as ln

ALGORITHMS = {
    "XXH3-128": xxhash.xxh3_128_digest,
    "CRC-32": zlib.crc32,
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
    "SHA-512": lambda data: hashlib.sha512(data).digest(),
}
SIZES = {"512 B": 512, "256 KB": 1 << 18, "16 MB": 1 << 24}


def median_ms(function, rounds):
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main():
    print(f"{'body':8} {'round trip':>12} " + " ".join(f"4 x {name:>9}" for name in ALGORITHMS))
    with ln.network.serve_model(lambda x: x, port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for name, nbytes in SIZES.items():
            x = ln.asarray(np.random.default_rng(0).standard_normal(nbytes // 4).astype("float32"))
            data, rounds = x.numpy().tobytes(), 300 if nbytes < 1 << 20 else 20
            with ln.no_grad():
                trip = median_ms(lambda x=x: remote(x), rounds)
            costs = [4 * median_ms(lambda f=function, d=data: f(d), rounds) for function in ALGORITHMS.values()]
            shares = " ".join(f"{cost:7.3f} {cost / trip:4.0%}" for cost in costs)
            print(f"{name:8} {trip:9.2f} ms  {shares}", flush=True)


if __name__ == "__main__":
    main()
