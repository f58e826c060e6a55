"""The lock of a store's folder: one process writes there, whatever becomes of the files and of the folder's name."""

import os
import subprocess
import sys

import pytest

from labnet.errors import StoreError
from labnet.store import Store
from labnet.store.offline import compact, contents
from tests.helpers.constants import ROOT
from tests.helpers.network.store_server import make_model, make_optimizer
from tests.store.test_faults import step, values

HOLDING = """
import sys
from labnet.store import Store
from tests.helpers.network.store_server import make_model, make_optimizer

held = Store(sys.argv[1], make_model(), make_optimizer())
print("held", flush=True)
input()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the store in the folder open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def remove(path):
    path.unlink()


def remake(path):
    path.unlink()
    path.touch()


def replace(path):
    other = path.with_name("other")
    other.touch()
    os.replace(other, path)


@pytest.mark.parametrize("change", [remove, remake, replace])
def test_a_store_whose_lock_file_is_gone_is_still_in_use(tmp_path, holder, change):
    change(tmp_path / "lock")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for use in (lambda: Store(tmp_path, make_model(), make_optimizer()), lambda: compact(tmp_path)):
        with pytest.raises(StoreError, match="in use by another process: stop that server"):
            use()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_holder_is_named(tmp_path, holder):
    with pytest.raises(StoreError, match=f"in use by process {holder.pid}: stop that server"):
        Store(tmp_path, make_model(), make_optimizer())


def test_a_store_of_a_killed_process_is_free_at_once(tmp_path, holder):
    holder.kill()
    holder.wait()
    Store(tmp_path, make_model(), make_optimizer()).close()


def test_a_store_whose_folder_was_moved_away_writes_nothing_to_the_one_in_its_place(tmp_path):
    model, optimizer = make_model(), make_optimizer()
    first = Store(tmp_path / "store", model, optimizer)
    step(first, model, optimizer)
    (tmp_path / "store").rename(tmp_path / "moved")
    other = make_model()
    second = Store(tmp_path / "store", other, make_optimizer())
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    step(first, model, optimizer)
    with pytest.raises(OSError, match="is another folder than the one that was opened"):
        first.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
    second.close()
    assert (contents(tmp_path / "store").version, contents(tmp_path / "moved").version) == (0, 2)
    again = make_model()
    Store(tmp_path / "moved", again, make_optimizer()).close()
    assert values(again) == values(model) != values(other)
