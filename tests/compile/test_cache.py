"""Compiled code on the disk: found again by other processes, never used for other sources."""

import os
import subprocess
import sys

from labnet.compile import cache

CODE = """
import labnet as ln
f = ln.jit(lambda x: ln.tanh(x) * 2)
f(ln.ones(3))
print(sum(f._last._compiled.stats.cache_hits.values()))
"""


def run(folder):
    environment = {**os.environ, "LABNET_CACHE": str(folder)}
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_another_process_takes_the_code_from_the_disk(tmp_path):
    assert run(tmp_path) == "0"
    files = {path.name for path in tmp_path.glob("step_*.py")}
    assert run(tmp_path) == "1"
    assert {path.name for path in tmp_path.glob("step_*.py")} == files
    assert len(files) == 1


def test_a_changed_runtime_gives_another_name(monkeypatch):
    before = cache.digest("source")
    monkeypatch.setattr(cache, "_runtime", lambda: b"other")
    assert cache.digest("source") != before


def test_old_files_go(tmp_path, monkeypatch):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))
    for number in range(5):
        cache.write(f"# {number}")
    assert cache.clear(keep=2) == 3
    assert len(list(tmp_path.glob("step_*.py"))) == 2
