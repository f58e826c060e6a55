"""Which tests one process of pytest-xdist runs one after the other, and which of these units begin first.

A unit is a file, so that the fixtures of a module are made once, unless this module says otherwise. Longest first: what
begins last decides how long one process waits for the others at the end.
"""

from xdist.scheduler import LoadScopeScheduling

#: Folders and files that make one unit. Chromium, JupyterLab, Dask and servers under faults load several processors:
#: side by side they would wait for each other longer than their tests do.
TOGETHER = {"machine": ("tests/cluster/", "tests/jupyter/", "tests/network/exactly_once/test_chaos.py")}
#: Files whose tests are units of their own: they share no fixture, and each takes long.
APART = ("tests/cuda/test_device_suite.py",)
#: What takes more than ten seconds of a processor, the longest first; everything else follows in the usual order.
FIRST = (
    "machine",
    "tests/cuda/test_device_suite.py",
    "tests/compile/intrinsics/test_values.py",
    "tests/test_site.py",
    "tests/compile/intrinsics/test_products.py",
    "tests/cuda/test_ptx.py",
    "tests/compile/test_random_programs.py",
    "tests/compile/native/test_cache.py",
    "tests/compile/intrinsics/test_convolution.py",
    "tests/tensors/test_torch_samples.py",
    "tests/compile/codegen/test_functions.py",
    "tests/compile/native/test_compiler_process.py",
    "tests/interop/test_torch_serving.py",
    "tests/tensors/test_memory_use.py",
    "tests/compile/intrinsics/test_formulas.py",
    "tests/test_ported_programs.py",
    "tests/test_examples.py",
    "tests/compile/test_functions.py",
    "tests/compile/test_training.py",
)


def unit(nodeid):
    """Return the name of the unit that a test belongs to."""
    path = nodeid.partition("::")[0]
    if path in APART:
        return nodeid
    return next((name for name, paths in TOGETHER.items() if path.startswith(paths)), path)


def rank(nodeid):
    """Return how early a test begins, the smallest first."""
    name = unit(nodeid)
    return next((position for position, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))


def escaped(value):
    """Return the data of a report with backslashes in place of what UTF-8 cannot encode."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {escaped(name): escaped(each) for name, each in value.items()}
        case list() | tuple():
            return type(value)(map(escaped, value))
    return value


class Scheduling(LoadScopeScheduling):
    """Give each process one unit after the other, in the order in which they were collected."""

    def __init__(self, config, log):
        config.option.loadscopereorder = False  # by the number of tests, which says nothing of their length
        super().__init__(config, log)

    def _split_scope(self, nodeid):
        return unit(nodeid)
