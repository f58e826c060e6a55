"""Kernels in several threads: the same bits for any number, and threads that no one notices."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import labnet as ln
from labnet import kernels
from labnet.kernels import blas, partition, threads, total
from labnet.kernels.threads import THREADS, Threads
from labnet.ops.core import single_pass
from tests.helpers.constants import SECONDS
from tests.helpers.threads import together

functions = ln.nn.functional
rng = np.random.default_rng(0)


def normal(*shape):
    return ln.asarray(rng.standard_normal(shape).astype("float32"), requires_grad=True)


def integers(most, *shape):
    return ln.asarray(rng.integers(0, most, shape))


@pytest.fixture
def number():
    """Have any call use several threads, and return what sets their number."""
    before = THREADS.number

    def choose(count):
        THREADS.number = count

    with pytest.MonkeyPatch.context() as patch:
        for module in (kernels, single_pass, total):
            patch.setattr(module, "LEAST", 0)
        for module in (kernels, total):
            patch.setattr(module, "SHARE", 1)
        yield choose
    THREADS.number = before


@pytest.fixture
def calls(monkeypatch):
    """Return the numbers of parts of the calls that were divided."""
    found, run = [], THREADS.run

    def counted(function, parts):
        found.append(len(parts))
        return run(function, parts)

    monkeypatch.setattr(THREADS, "run", counted, raising=False)
    return found


def train(kind):
    def step(x, y):
        optimizer, own = kind(), [(one * 1).detach().requires_grad_() for one in (x, y, x[:1])]
        for _ in range(3):
            optimizer(sum([(one * one).sum() for one in own], ln.zeros(())).backward())
        return sum([one.sum() for one in own], x * 1)

    return step


@pytest.mark.parametrize("name", ["exp", "expm1", "log1p", "log", "sqrt", "tanh", "sin", "acos"])
def test_functions_of_numpy_run_in_threads_and_warn_as_numpy_does(name, number, calls, monkeypatch):
    from labnet.ops.core import dispatch

    monkeypatch.setattr(dispatch, "LEAST", 0)
    function, fine = getattr(ln, name), ln.asarray(np.linspace(0.01, 0.99, 1001, dtype="float32"))

    def outcome(x):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = function(x).numpy()
        return found.tobytes(), [str(one.message) for one in caught]

    inputs = [fine, fine.to("float64"), *[fine * 0 + value for value in (0.0, -1.0, -2.0, 1000.0, np.inf, np.nan)]]
    number(1)
    expected = [outcome(x) for x in inputs]
    assert not calls
    number(2)
    for x in inputs[:2]:
        for _ in range(12):
            function(x)
    for kernel in list(kernels.scalar_kernels.values()):
        kernel.load().result()
    for x, one in zip(inputs, expected, strict=True):
        calls.clear()
        assert outcome(x) == one
        assert calls or x.dtype != "float64"


LABELS = integers(31, 40)
CASES = {
    "gelu": (functions.gelu, (normal(37, 41),)),
    "gelu of columns": (lambda x: functions.gelu(x.T), (normal(37, 41),)),
    "gelu in float64": (functions.gelu, (ln.asarray(rng.standard_normal(1001), requires_grad=True),)),
    "softmax": (lambda x: functions.softmax(x, dim=-1), (normal(3, 5, 31),)),
    "log_softmax": (lambda x: functions.log_softmax(x, dim=-1), (normal(17, 31),)),
    "cross_entropy": (lambda x: functions.cross_entropy(x, LABELS), (normal(40, 31),)),
    "layer_norm": (
        lambda x, w, b: functions.layer_norm(x, (3, 13), w, b),
        (normal(7, 2, 3, 13), normal(3, 13), normal(3, 13)),
    ),
    "layer_norm without weights": (lambda x: functions.layer_norm(x, (13,)), (normal(21, 13),)),
    "layer_norm of one row": (
        lambda x, w, b: functions.layer_norm(x, (30, 13), w, b),
        (normal(1, 30, 13), normal(30, 13), normal(30, 13)),
    ),
    "rms_norm of one row": (lambda x, w: functions.rms_norm(x, (390,), w), (normal(1, 390), normal(390))),
    "batch_norm": (lambda x: functions.batch_norm(x, None, None, training=True), (normal(4, 6, 5, 5),)),
    "batch_norm of features": (
        lambda x, w, b: functions.batch_norm(x, None, None, w, b, training=True),
        (normal(9, 7), normal(7), normal(7)),
    ),
    "convolution": (lambda x, w: functions.conv2d(x, w, padding=1, stride=2), (normal(3, 4, 9, 9), normal(5, 4, 3, 3))),
    "depthwise convolution": (lambda x, w: functions.conv2d(x, w, groups=4), (normal(3, 4, 9, 9), normal(4, 1, 3, 3))),
    "depthwise with stride": (
        lambda x, w: functions.conv2d(x, w, groups=4, stride=2),
        (normal(3, 4, 9, 9), normal(4, 1, 3, 3)),
    ),
    "max_pool2d": (lambda x: functions.max_pool2d(x, 2), (normal(3, 2, 6, 6),)),
    "attention": (functions.scaled_dot_product_attention, tuple(normal(2, 3, 70, 8) for _ in range(3))),
    "causal attention": (
        lambda q, k, v: functions.scaled_dot_product_attention(q, k, v, is_causal=True),
        tuple(normal(3, 70, 8) for _ in range(3)),
    ),
    "sum": (lambda x: x.sum(), (normal(70, 71),)),
    "mean": (lambda x: x.mean(), (normal(5001),)),
    "sum of columns": (lambda x: x.sum(axis=0), (normal(9, 2, 5003),)),
    "sum that keeps dimensions": (lambda x: x.sum(keepdims=True), (normal(4999, 1),)),
    "cumsum": (lambda x: ln.cumsum(x, dim=1), (normal(9, 30),)),
    "prod": (lambda x: x.prod(dim=1), (normal(9, 200),)),
    "take_along_axis": (lambda x: ln.take_along_axis(x, integers(9, 9, 9) * 0 + 2, axis=1), (normal(9, 9),)),
    "SGD": (train(lambda: ln.optim.SGD(0.1)), (normal(7, 7), normal(7, 7))),
    "momentum": (train(lambda: ln.optim.SGD(0.1, 0.9)), (normal(7, 7), normal(7, 7))),
    "Adam": (train(lambda: ln.optim.Adam(0.1)), (normal(7, 7), normal(7, 7))),
}


def outcome(function, inputs):
    """Return the bits of a function and of its gradients."""
    for x in inputs:
        x.grad = None
    out = function(*inputs)
    out.backward(ln.asarray(np.linspace(-1, 1, out.size).reshape(out.shape).astype(out.dtype)))
    return [x.numpy().tobytes() for x in (out, *[x.grad for x in inputs if x.grad is not None])]


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    if not blas.link():
        pytest.skip("NumPy's BLAS has other names here, so there are no compiled kernels: NumPy does their work")
    assert kernels.load()


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_number_of_threads(name, number, calls):
    function, inputs = CASES[name]
    number(1)
    outcome(function, inputs)
    for kernel in list(kernels.scalar_kernels.values()):  # those that it has met
        kernel.load().result()
    one = outcome(function, inputs)
    assert not calls
    for count in (2, 3):
        number(count)
        assert outcome(function, inputs) == one
    assert calls or "one row" in name


@pytest.mark.parametrize("size", [4096, 4097, 5003, 9999, 65_535, 300_001])
def test_sums_in_threads_have_the_bits_of_numpy(size, number, calls):
    x = (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 4, size)).astype("float32")
    for count in (2, 3, 5):
        number(count)
        assert ln.asarray(x).sum().numpy().tobytes() == np.sum(x).tobytes()
    assert len(calls) == 3


@pytest.mark.parametrize("kind", [lambda: ln.optim.SGD(0.1, 0.9), ln.optim.Adam], ids=["momentum", "Adam"])
def test_states_are_overwritten_once_where_the_kernel_does_not_take_all_parameters(kind, number):
    """If some parts were computed and others refused, NumPy would take the step a second time with the former."""
    values = [rng.standard_normal((40, 30)), rng.standard_normal((30, 40)).T, rng.standard_normal((3, 3))]

    def trained(count):
        number(count)
        own = [ln.asarray(x.astype(dtype)) for x, dtype in zip(values, ("float32", "float32", "float64"), strict=True)]
        own, optimizer = [x.requires_grad_() for x in own], kind()
        for _ in range(3):
            optimizer(sum([(x * x).sum() for x in own], ln.zeros(())).backward())
        return [x.numpy().tobytes() for x in own]

    assert trained(1) == trained(2) == trained(3)


def test_states_in_another_order_of_memory_are_overwritten(number):
    number(2)
    start, outcomes = rng.standard_normal((30, 20)).astype("float32"), []
    for order in ("C", "F"):
        x, scalar, optimizer = ln.asarray(start).requires_grad_(), ln.ones(()).requires_grad_(), ln.optim.SGD(0.1, 0.9)
        for step in range(3):
            loss = (x.T * ln.asarray(start.T)).sum() + scalar * scalar
            optimizer(loss.backward())
            if not step:
                state = optimizer._state[id(x)].state
                state.update({name: np.asarray(value, order=order) for name, value in state.items()})
        assert scalar.shape == ()
        outcomes.append(x.numpy().tobytes())
    assert outcomes[0] == outcomes[1]


def test_labels_that_are_no_classes_are_refused_as_with_one_thread(number):
    number(2)
    with pytest.raises(IndexError):
        functions.cross_entropy(normal(40, 31), LABELS * 0 + 31)


@pytest.mark.parametrize("wrong", ["order", "shape"])
def test_arrays_that_do_not_fit_are_not_divided(wrong):
    x = np.zeros((4, 6), "float32")
    other = {"order": np.zeros((4, 6), "float32", order="F"), "shape": np.zeros((6, 4), "float32")}[wrong]
    assert len(partition.elements(2, ((x, x, x[0]),))) == 2
    assert partition.elements(2, ((x, other, x[0]),)) == []


class Stub:
    """A function of Python in place of a kernel, for threads of a team to call with the arrays of a part."""

    def __init__(self, function):
        def compute(words):
            arrays = ctypes.cast(ctypes.c_int64.from_address(words).value, ctypes.py_object).value
            return int(function(*arrays))

        self._function, self._compute = function, ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(compute)
        self.__self__ = (ctypes.cast(self._compute, ctypes.c_void_p).value,)

    def __call__(self, arrays):
        return self._function(*arrays)


def is_caller():
    return threading.current_thread() is threading.main_thread()


@pytest.fixture
def pool():
    own = Threads()
    own.number = 3
    yield own
    own.stop()


def run(pool, function, *parts):
    return pool.run(Stub(function), [((part,),) for part in parts])


def test_each_part_is_computed_once_by_callers_and_helpers(pool):
    for count in (1, 2, 3, 7, 32, 33):
        computed, met = [], set()

        def function(part, computed=computed, met=met):
            computed.append(part)
            met.add(threading.current_thread().name)
            return 1

        assert run(pool, function, *range(count))
        assert sorted(computed) == list(range(count))
        assert len(met) <= 3


def test_helpers_compute_what_the_caller_has_not_begun(pool):
    both = threading.Barrier(3)

    def function(_):
        both.wait(SECONDS)
        return 1

    for pause in (0.0, 0.05):  # helpers look for the next call at first, then they sleep
        threading.Event().wait(pause)
        assert run(pool, function, 1, 2, 3)


def test_the_caller_computes_what_no_helper_takes(pool):
    callers = []
    held = threading.Event()

    def function(_):
        if is_caller():
            callers.append("caller")
        else:
            held.wait(SECONDS)
        if len(callers) == 4:
            held.set()
        return 1

    assert run(pool, function, *range(6))
    assert len(callers) >= 4


def test_all_parts_have_to_be_computed(pool):
    assert not run(pool, lambda done: done, 1, 0, 1)
    assert run(pool, lambda done: done, 1, 1, 1)


def test_numbers_reach_parts_as_they_reach_a_whole_call(pool):
    x, out = np.linspace(-2, 2, 32, dtype="float32").reshape(4, 8), np.empty((2, 4, 8), "float32")
    for logarithm, whole in enumerate(out):
        assert kernels.softmax.compiled((x, whole), logarithm)
        divided = np.empty_like(whole)
        assert pool.run(kernels.softmax.compiled, [((x[i : i + 2], divided[i : i + 2]), logarithm) for i in (0, 2)])
        assert divided.tobytes() == whole.tobytes()
    assert (out[0] != out[1]).all()


def test_a_call_that_finds_the_helpers_in_use_computes_alone(pool):
    seen = []

    def inner(name):
        seen.append((name, threading.current_thread().name))
        return 1

    def outer(_):
        return run(pool, inner, *[threading.current_thread().name] * 3)

    assert run(pool, outer, 1, 2)
    assert len(seen) == 6
    assert all(asked == answered for asked, answered in seen)


def test_an_interrupt_is_raised_when_no_part_is_being_computed(pool, monkeypatch):
    assert run(pool, lambda _: 1, 1)
    began, finished, team = threading.Event(), [], pool._team
    share = team._share

    def interrupted(arrays, helpers, looks):
        if not finished:
            assert began.wait(SECONDS)
            raise KeyboardInterrupt  # while a helper computes
        return share(arrays, helpers, looks)

    def function(_):
        began.set()
        threading.Event().wait(0.1)
        finished.append(1)
        return 1

    monkeypatch.setattr(team, "_share", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(pool, function, *range(9))
    assert len(finished) == 9
    assert run(pool, lambda _: 1, 1, 2)
    assert pool._turn == {}


def test_an_interrupt_while_helpers_are_woken_does_not_leave_them_asleep(pool, monkeypatch):
    assert run(pool, lambda _: 1, 1, 2, 3)
    threading.Event().wait(0.1)  # until they sleep
    helper, turns = type(pool._team._helpers[0]), []
    wake = helper.wake

    def interrupted(own):
        turns.append(own)
        if len(turns) == 1:
            raise KeyboardInterrupt
        wake(own)

    with monkeypatch.context() as patch:
        patch.setattr(helper, "wake", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(pool, lambda _: 1, 1, 2, 3)
    both = threading.Barrier(3)

    def function(_):
        both.wait(SECONDS)
        return 1

    assert run(pool, function, 1, 2, 3)


def test_the_number_of_threads_may_change_while_helpers_start(pool, monkeypatch):
    begin, made, changed = threading.Thread.start, [], threading.Thread(target=lambda: setattr(pool, "number", 2))

    def start(thread):
        begin(thread)
        if thread.name.startswith("labnet-kernels"):
            made.append(thread)
            if len(made) == 1:
                begin(changed)
                while pool._team is not None:  # until it has taken the team
                    threading.Event().wait(0.001)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert run(pool, lambda _: 1, 1, 2, 3)
    changed.join(SECONDS)
    for thread in made:
        thread.join(SECONDS)
    assert not changed.is_alive()
    assert not any(thread.is_alive() for thread in made)


def test_the_number_of_threads_may_change_while_parts_are_computed(pool):
    began = threading.Event()

    def change():
        assert began.wait(SECONDS)
        for number in (1, 4, 2):
            pool.number = number

    changing = threading.Thread(target=change)
    changing.start()
    computed = []

    def function(part):
        began.set()
        threading.Event().wait(0.001)
        computed.append(part)
        return 1

    assert run(pool, function, *range(32))
    changing.join(SECONDS)
    assert sorted(computed) == list(range(32))
    assert run(pool, function, 32, 33)


def test_several_callers_compute_their_own_parts(pool):
    def call():
        for _ in range(50):
            computed = []

            def function(part, computed=computed):
                computed.append(part)
                return 1

            assert run(pool, function, *range(5))
            assert sorted(computed) == list(range(5))

    together(*[call] * 4)


@pytest.fixture
def both_processors():
    if not blas.threads():
        pytest.skip("NumPy has another BLAS here")
    before = ln.get_num_threads()
    ln.set_num_threads(2)
    yield
    ln.set_num_threads(before)


def test_products_run_in_one_thread_inside_of_a_function_and_what_was_chosen_holds_after_it(both_processors):
    @blas.in_one_thread
    def inside(then=lambda: None):
        assert blas.threads() == 1
        then()
        assert blas.threads() == 1
        return blas.threads()

    assert inside(inside) == 1
    assert blas.threads() == 2
    inside(lambda: ln.set_num_threads(3))
    assert blas.threads() == 3
    inside(lambda: ln.set_num_threads(1))
    assert blas.threads() == 1
    inside()
    assert blas.threads() == 1
    ln.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        inside(lambda: 1 / 0)
    assert blas.threads() == 2


def test_threads_that_overlap_inside_restore_the_number_once_all_have_left(both_processors):
    entered, left = threading.Barrier(2), threading.Event()

    @blas.in_one_thread
    def first():
        entered.wait(SECONDS)

    @blas.in_one_thread
    def second():
        entered.wait(SECONDS)
        assert left.wait(SECONDS)
        return blas.threads()

    def leave():
        first()
        seen = blas.threads()
        left.set()
        return seen

    assert together(leave, second) == [1, 1]
    assert blas.threads() == 2


def test_any_thread_changes_the_number_of_threads_of_products(both_processors):
    changing = threading.Thread(target=ln.set_num_threads, args=(3,))
    changing.start()
    changing.join(SECONDS)
    assert blas.threads() == 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")
def test_interrupts_at_any_moment_leave_threads_and_products_as_they_were(both_processors):
    """Interrupts come some microseconds after each call begins, in each of its parts."""
    image, weight = normal(8, 3, 64, 64), normal(8, 3, 3, 3)
    x = normal(1 << 19)

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before, caught = signal.signal(signal.SIGALRM, interrupt), 0
    try:
        for turn in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + turn % 300))
                functions.conv2d(image, weight)
                functions.sigmoid(x)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught > 50
    assert blas.threads() == 2
    assert THREADS._turn == {}
    both = threading.Barrier(2)

    def function(_):
        both.wait(SECONDS)
        return 1

    assert run(THREADS, function, 1, 2)


def test_a_call_first_computes_the_parts_of_a_call_that_an_interrupt_has_left(pool):
    assert run(pool, lambda _: 1, 1)
    computed, team = [], pool._team
    stub, calls = Stub(lambda part: computed.append(part) or 1), [((1,),), ((2,),)]
    words = np.frombuffer(b"".join([threads._words(stub.__self__[0], *call) for call in calls]), np.int64).reshape(2, 2)
    team._held = calls, words
    team._publish((team._board, words), 2, len(team._helpers))
    assert run(pool, lambda part: computed.append(part) or 1, 3, 4)
    assert sorted(computed[:2]) == [1, 2]
    assert sorted(computed[2:]) == [3, 4]
    assert team._held is None


def test_the_number_of_threads_is_a_positive_integer():
    before = ln.get_num_threads()
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            ln.set_num_threads(wrong)
    assert ln.get_num_threads() == before


@pytest.mark.parametrize(
    ("chosen", "expected"), [("3", 3), ("2,4", 2), ("", None), ("many", None), ("0", None)], ids=repr
)
def test_the_environment_sets_the_number(chosen, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    own = Threads()
    assert own.number == (threads.available() if expected is None else expected)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
    ids=repr,
)
def test_a_container_limits_the_number(files, most, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.available(tmp_path) == (most or 8)


FORKED = """
import os
import labnet as ln
from labnet.kernels import blas

ln.set_num_threads(2)
child = blas.in_one_thread(os.fork)()
if not child:
    os._exit(blas.threads())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
assert blas.threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_that_is_forked_inside_of_a_block_multiplies_in_all_threads():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=5 * SECONDS)
    assert (done.returncode, done.stderr) == (0, "")


PROGRAM = """
import os, sys, threading
import numpy as np
import labnet as ln
from labnet import kernels

def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("labnet-kernels")]

ln.set_num_threads(3)
assert kernels.load()
softmax = ln.nn.functional.softmax
softmax(ln.ones((8, 8)), dim=-1)
assert names() == [], names()
x = ln.asarray(np.linspace(-1, 1, 1 << 19).reshape(-1, 64).astype("float32"))
before = softmax(x, dim=-1).numpy()
assert len(names()) == 2, names()
child = os.fork()
if not child:
    assert names() == []
    assert (softmax(x, dim=-1).numpy() == before).all()
    assert len(names()) == 2, names()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
ln.set_num_threads(1)
assert names() == [], names()
ln.set_num_threads(2)
assert (softmax(x, dim=-1).numpy() == before).all()
assert len(names()) == 1, names()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_threads_start_with_the_first_large_array_also_in_a_forked_process_and_end_with_it():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=5 * SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
