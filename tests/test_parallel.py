"""How the tests are shared out among processes, and what becomes of processes that they leave running."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import parallel

ROOT = Path(__file__).parent.parent
#: Leaves a process in a session of its own, whose parent has ended, which holds the output open.
LEAVES = """
import os, subprocess, sys
os.environ["PYTEST_CURRENT_TEST"] = "tests/test_it.py::test_that_leaves (call)"
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
kept = f"import subprocess; subprocess.Popen({sleep}, start_new_session=True)"
subprocess.run([sys.executable, "-c", kept])
"""


def test_paths_that_are_scheduled_by_name_exist():
    named = [*parallel.APART, *(path for paths in parallel.TOGETHER.values() for path in paths)]
    named += [start for start in parallel.FIRST if start not in parallel.TOGETHER]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_what_make_quick_runs_exists():
    done = subprocess.run(["make", "--dry-run", "quick"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = [word for word in done.stdout.split() if word.startswith("tests/")]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_unit_is_a_file_a_folder_or_a_test():
    assert parallel.unit("tests/test_it.py::test_one[a::b]") == "tests/test_it.py"
    for name, paths in parallel.TOGETHER.items():
        assert {parallel.unit(f"{path}::test_one") for path in paths} == {name}
    for path in parallel.APART:
        assert parallel.unit(f"{path}::test_one[1]") == f"{path}::test_one[1]"


def test_what_takes_longest_begins_first():
    ranks = [
        parallel.rank(f"{next(iter(parallel.TOGETHER.get(start, [start])))}::test_one") for start in parallel.FIRST
    ]
    assert ranks == sorted(ranks)
    assert parallel.rank("tests/test_it.py::test_one") == len(parallel.FIRST)


def test_output_that_is_not_unicode_is_escaped_in_reports():
    report = {"sections": [("Captured log", "lone: \ud800")], "duration": 1.0, "longrepr": None}
    assert parallel.escaped(report) == {**report, "sections": [("Captured log", "lone: \\ud800")]}


def supervised(code, grace_seconds=60.0):
    run = f"import sys; from tests.supervisor import supervise; sys.exit(supervise(sys.argv[1:], {grace_seconds}))"
    command = [sys.executable, "-c", run, sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_of_a_supervised_command_is_passed_on(status):
    assert supervised(f"raise SystemExit({status})").returncode == status


def test_a_supervised_command_that_a_signal_ends_fails():
    done = supervised("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 128 + signal.SIGKILL


def test_a_process_that_ends_by_itself_soon_is_not_held_against_the_tests():
    done = supervised("import subprocess; subprocess.Popen(['sleep', '0.2'])")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say whose descendant an orphan is")
def test_a_process_that_is_left_running_is_named_and_killed_and_fails_the_tests():
    done = supervised(LEAVES, grace_seconds=0.5)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "left running, killed: " in line
    assert "time.sleep(600)" in line
    assert "started in tests/test_it.py::test_that_leaves (call)" in line
    pid = int(line.partition("killed: ")[2].split()[0])
    assert not psutil.pid_exists(pid)
