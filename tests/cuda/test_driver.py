"""The driver on a stand-in for NVIDIA's library: who may touch the stream when, and how launches are timed."""

import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from labnet.errors import DeviceError
from labnet.kernels.cuda.driver import clock, driver
from labnet.stats import OpStatistics
from labnet.stats.operations import Later

SECONDS = 60
#: Seconds that a launch takes on the stand-in.
LAUNCH = 0.002
#: What puts work into the stream, reads where it stands, or may wait for it.
STREAM = {
    *("cuLaunchKernel", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async"),
    *("cuStreamSynchronize", "cuGraphLaunch", "cuEventRecord", "cuMemFree_v2", "product"),
}
INVALID, NOT_READY = 901, 600
#: A stream of another library.
OTHER = 2


class Function:
    """A function of the library; `argtypes` may be set."""

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        return self._call(*args)


class Library:
    """What `libcuda` is asked for, with a GPU that computes when a test says so.

    Attributes
    ----------
    busy : bool
        Whether the GPU holds still: what is issued from then on does not end before `finish`.
    wrong : list of str
        Calls that would have spoilt a recording of another thread.
    """

    def __init__(self):
        self.busy = False
        self.wrong, self.calls = [], []
        self.fails = {}
        self._condition = threading.Condition()
        self._issued = self._done = self._time = 0
        self._events = {}
        self._handles = iter(range(100, 1_000_000))
        self._recorder = None

    def finish(self):
        with self._condition:
            self.busy, self._done = False, self._issued
            self._condition.notify_all()

    def __getattr__(self, name):
        if not name.startswith("cu") and name != "product":
            raise AttributeError(name)
        function = Function(lambda *args: self._call(name, args))
        setattr(self, name, function)
        return function

    def _call(self, name, args):
        with self._condition:
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            here = threading.get_ident()
            if name == "cuStreamSynchronize" and args[0].value == OTHER:
                return 0
            if name in STREAM and self._recorder not in (None, here):
                self.wrong.append(name)
                return INVALID
            if name in STREAM and self._recorder == here and name.startswith(("cuEvent", "cuStream")):
                self.wrong.append(name)
            if name in STREAM and self._recorder is None and name != "cuEventRecord":
                self._issued += 1
                self._time += LAUNCH
                self._done = self._done if self.busy else self._issued
            answer = ANSWERS.get(name)
            return (answer and answer(self, *args)) or 0

    def _device_get_count(self, count):
        count._obj.value = 1

    def _mem_alloc(self, address, size):
        address._obj.value = next(self._handles) << 12

    def _event_create(self, event, flags):
        event._obj.value = next(self._handles)

    def _event_record(self, event, stream):
        self._events[event.value] = self._issued, self._time

    def _event_query(self, event):
        return 0 if self._events[event.value][0] <= self._done else NOT_READY

    def _event_synchronize(self, event):
        position, _ = self._events[event.value]
        assert self._condition.wait_for(lambda: self._done >= position, SECONDS)

    def _event_elapsed_time(self, milliseconds, first, second):
        milliseconds._obj.value = 1e3 * (self._events[second.value][1] - self._events[first.value][1])

    def _stream_begin_capture(self, stream, mode):
        self._recorder = threading.get_ident()

    def _stream_end_capture(self, stream, graph):
        self._recorder = None
        graph._obj.value = next(self._handles)

    def _graph_instantiate_with_flags(self, ready, graph, flags):
        ready._obj.value = next(self._handles)


#: What the functions do that do more than nothing.
ANSWERS = {
    "cuDeviceGetCount": Library._device_get_count,
    "cuMemAlloc_v2": Library._mem_alloc,
    "cuEventCreate": Library._event_create,
    "cuEventRecord": Library._event_record,
    "cuEventQuery": Library._event_query,
    "cuEventSynchronize": Library._event_synchronize,
    "cuEventElapsedTime": Library._event_elapsed_time,
    "cuStreamBeginCapture_v2": Library._stream_begin_capture,
    "cuStreamEndCapture": Library._stream_end_capture,
    "cuGraphInstantiateWithFlags": Library._graph_instantiate_with_flags,
}


@pytest.fixture
def library(monkeypatch):
    made = Library()
    monkeypatch.setattr(driver, "_library", lambda: made)
    monkeypatch.setattr(driver.os, "register_at_fork", lambda **_: None)
    yield made
    made.finish()  # the end of a counted block waits for every driver that has not been collected


@pytest.fixture
def gpu(library):
    return driver.Driver()


def launch(gpu):
    gpu._launcher(ctypes.c_void_p(1), ["i8"])((1,), (1,), 5)


def product(gpu):
    gpu.issue(gpu._library.product)


class Told(list):
    """Listens; holds seconds."""

    expected = 0

    def expect(self):
        self.expected += 1

    def tell(self, seconds):
        self.append(seconds)


# Who may touch the stream

CALLS = {
    "launch": launch,
    "product": product,
    "upload": lambda gpu: gpu.upload(4096, np.ones(3)),
    "upload of much": lambda gpu: gpu.upload(4096, np.ones(1 << 14)),
    "download": lambda gpu: gpu.download(np.ones(3), 4096),
    "copy": lambda gpu: gpu.copy(4096, 8192, 8),
    "clear": lambda gpu: gpu.clear(4096, 8),
    "synchronize": lambda gpu: gpu.synchronize(),
    "allocate": lambda gpu: gpu.allocate(8),
    "free": lambda gpu: gpu.free(4096),
    "memory": lambda gpu: gpu.memory(),
    "replay": lambda gpu: gpu.replayed(),
    "another stream": lambda gpu: gpu.wait_for(OTHER),
    "seconds": lambda gpu: gpu.clock.arrive(),
}
#: These have nothing to do with the stream, or with ours: they go on.
FREE = {"memory", "another stream", "seconds"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("timed", [False, True])
def test_a_call_that_has_begun_just_before_another_thread_records_keeps_out_of_it(name, timed, gpu, library):
    with gpu.captured() as gpu.replayed:
        launch(gpu)
    ready, recording, through = threading.Event(), threading.Event(), threading.Event()
    attach = gpu._attach

    def attached():  # the last moment in which it does not know that somebody records
        attach()
        if threading.current_thread() is thread and not ready.is_set():
            ready.set()
            assert recording.wait(SECONDS)

    def work():
        if timed:
            with gpu.clock.telling(Told()):
                CALLS[name](gpu)
        else:
            CALLS[name](gpu)
        through.set()

    thread = threading.Thread(target=work)
    gpu._attach = gpu.clock._ready = attached
    if name == "seconds":
        with gpu.clock.telling(Told()):
            launch(gpu)
    thread.start()
    assert ready.wait(SECONDS)
    library.calls.clear()
    with gpu.captured():
        launch(gpu)
        recording.set()
        went_on = through.wait(0.05)
        launch(gpu)
    thread.join(SECONDS)
    assert through.is_set()
    assert went_on == (name in FREE | {"allocate"})
    assert library.wrong == []


def test_a_thread_that_waits_for_the_gpu_delays_no_other(gpu, library):
    library.busy = True
    launch(gpu)
    waiting = [threading.Thread(target=call) for call in (gpu.synchronize, lambda: gpu.download(np.ones(3), 4096))]
    for thread in waiting:
        thread.start()
    while library.calls.count("cuEventSynchronize") < 2:
        threading.Event().wait(0.001)
    launch(gpu)
    with gpu.captured() as replay:
        launch(gpu)
    replay()
    assert all(thread.is_alive() for thread in waiting)
    library.finish()
    for thread in waiting:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert library.wrong == []


def test_waiting_uses_events_again_and_never_the_stream(gpu, library):
    for _ in range(50):
        launch(gpu)
        gpu.download(np.ones(3), 4096)
    assert library.calls.count("cuEventCreate") == 1
    assert "cuStreamSynchronize" not in library.calls


def test_a_thread_that_records_cannot_wait(gpu, library):
    with pytest.raises(DeviceError, match="while launches are recorded"), gpu.captured():
        gpu.synchronize()
    assert library.wrong == []


def test_many_threads_launch_read_and_record_at_once(gpu, library):
    def work(number):
        for turn in range(40):
            if (number + turn) % 4 == 0:
                with gpu.captured() as replay:
                    launch(gpu)
                replay()
            with gpu.clock.telling(told[number]):
                launch(gpu)
            gpu.download(np.ones(3), 4096)
            gpu.clock.arrive()

    told = [Told() for _ in range(8)]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    gpu.clock.arrive(wait=True)
    assert library.wrong == []
    assert [len(each) for each in told] == [each.expected for each in told] == [40] * 8
    assert all(seconds == pytest.approx(LAUNCH) for each in told for seconds in each)


# The seconds of launches


def test_seconds_are_told_when_the_gpu_is_done_without_waiting(gpu, library):
    told = Told()
    library.busy = True
    with gpu.clock.telling(told):
        launch(gpu)
        product(gpu)
    gpu.clock.arrive()
    assert (told, told.expected) == ([], 2)
    library.finish()
    gpu.clock.arrive()
    assert told == pytest.approx([LAUNCH, LAUNCH])
    assert not {"cuEventSynchronize", "cuStreamSynchronize"} & set(library.calls)


def test_arrive_waits_for_the_launches_so_far_and_no_others(gpu, library):
    told, later = Told(), Told()
    library.busy = True
    with gpu.clock.telling(told):
        launch(gpu)
    thread = threading.Thread(target=lambda: gpu.clock.arrive(wait=True))
    thread.start()
    while "cuEventSynchronize" not in library.calls:
        threading.Event().wait(0.001)
    library.finish()
    library.busy = True
    with gpu.clock.telling(later):
        launch(gpu)
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert told == pytest.approx([LAUNCH])
    assert later == []


def test_launches_of_others_are_not_timed_and_cost_no_event(gpu, library):
    told = Told()
    with gpu.clock.telling(told):
        thread = threading.Thread(target=launch, args=(gpu,))
        thread.start()
        thread.join(SECONDS)
    launch(gpu)
    assert told.expected == 0
    assert not any(call.startswith("cuEvent") for call in library.calls)


def test_events_are_used_again_and_their_number_is_bounded(gpu, library):
    told = Told()
    with gpu.clock.telling(told):
        for _ in range(1000):
            launch(gpu)
        assert library.calls.count("cuEventCreate") <= 2 * clock._MANY
        library.busy = True
        for _ in range(2 * clock._MOST):
            launch(gpu)
    assert library.calls.count("cuEventCreate") == 2 * clock._MOST
    assert told.expected <= 1000 + clock._MOST
    library.finish()
    gpu.clock.arrive()
    assert len(told) == told.expected


def test_no_event_is_recorded_into_a_graph_and_its_replay_is_timed_as_one(gpu, library):
    told = Told()
    with gpu.clock.telling(told):
        library.calls.clear()
        with gpu.captured() as replay:
            for _ in range(3):
                launch(gpu)
        assert not any(call.startswith("cuEvent") for call in library.calls)
        replay()
    gpu.clock.arrive()
    assert told == pytest.approx([LAUNCH])
    assert library.wrong == []


def test_a_launch_that_fails_is_not_timed(gpu, library):
    told = Told()
    library.fails["cuLaunchKernel"] = 1
    with gpu.clock.telling(told), pytest.raises(DeviceError):
        launch(gpu)
    assert told == [None]
    library.fails.clear()
    with gpu.clock.telling(told):
        launch(gpu)
    gpu.clock.arrive()
    assert told[1:] == pytest.approx([LAUNCH])


@pytest.mark.parametrize("function", ["cuEventCreate", "cuEventRecord", "cuEventQuery", "cuEventElapsedTime"])
def test_where_events_fail_the_launch_goes_on_untimed(function, gpu, library):
    statistics = OpStatistics()
    library.fails[function] = 700
    with gpu.clock.telling(Later("add", (statistics,))):
        launch(gpu)
    statistics.complete()
    assert library.calls.count("cuLaunchKernel") == 1
    assert statistics.total.seconds == 0


def test_statistics_take_the_seconds_in_when_they_are_read(gpu, library):
    statistics = OpStatistics()
    library.busy = True
    with gpu.clock.telling(Later("add", (statistics,))):
        launch(gpu)
    assert statistics.total.seconds == 0
    library.finish()
    assert statistics.ops["add"].seconds == pytest.approx(LAUNCH)


def test_statistics_that_have_begun_anew_take_in_nothing_of_before(gpu, library):
    statistics = OpStatistics()
    library.busy = True
    with gpu.clock.telling(Later("add", (statistics,))):
        launch(gpu)
    statistics.reset()
    library.finish()
    statistics.complete()
    assert statistics.ops == {}


def test_a_forked_child_asks_nothing_of_the_gpu(gpu, library):
    statistics = OpStatistics()
    library.busy = True
    with gpu.clock.telling(Later("add", (statistics,))):
        launch(gpu)
    gpu._forget()
    gpu._pid = 0
    library.calls.clear()
    statistics.complete()
    assert statistics.total.seconds == 0
    assert library.calls == []
    with pytest.raises(DeviceError, match="forked"):
        gpu.synchronize()


def test_the_stream_of_labnet_is_not_waited_for_as_if_it_were_anothers(gpu, library):
    gpu.stream = SimpleNamespace(value=77)
    for stream in (None, 1, 77):
        gpu.wait_for(stream)
    assert "cuStreamSynchronize" not in library.calls
    gpu.wait_for(OTHER)
    assert library.calls.count("cuStreamSynchronize") == 1
