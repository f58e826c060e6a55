"""The tests of `device`, run twice without a GPU: in Numba's simulator, and as PTX on the emulated GPU.

Each in a process of its own: the simulator has to be asked for before Numba is imported.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in (Path(__file__).parent / "device").glob("test_*.py"))
WAYS = {"simulated": {"NUMBA_ENABLE_CUDASIM": "1"}, "emulated": {"LABNET_TEST_GPU": "emulated"}}
pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')


def run(way, name):
    """Run one file in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/cuda/device/{name}"]
    others = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    environment = {**others, **WAYS[way], "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def results(request):
    """Run the files that were chosen; gives each as it will be.

    One process per core at a time, or one for each worker of pytest-xdist, which share the cores.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield run
        return
    chosen = [item.callspec.params for item in request.session.items if "results" in item.fixturenames]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = {(each["way"], each["name"]): pool.submit(run, each["way"], each["name"]) for each in chosen}
        yield lambda way, name: futures[way, name].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", WAYS)
def test_as_on_a_gpu(way, name, results):
    result = results(way, name)
    assert result.returncode == 0, f"{' '.join(result.args)}\n{result.stdout[-20_000:]}{result.stderr[-2_000:]}"
