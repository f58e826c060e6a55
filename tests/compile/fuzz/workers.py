"""Runs programs in processes of their own, so that one that crashes or hangs is one fault among others.

A worker reads what to do from its command line, and writes one line of JSON for each thing that happens.
"""

import collections
import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace

from tests.compile.fuzz.drawing import draw
from tests.compile.fuzz.judge import judged, judged_together
from tests.compile.fuzz.reduction import SHAPE, reduced

#: Programs that one process runs, and programs that are compiled as one function.
CHUNK, TOGETHER = 250, 8
#: Seconds that making a program smaller may take, and faults of one label that are made smaller, in one process.
SECONDS, EXAMPLES = {"plain": 10.0, "real": 40.0, "cuda": 20.0, "served": 10.0}, 4
#: Seconds after which a process that says nothing is taken to hang.
PATIENCE = 300.0


@dataclass(frozen=True)
class Task:
    """Programs of one mode, by number."""

    mode: str
    numbers: tuple[int, ...]
    seed: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What came of one program."""

    number: int
    mode: str
    kind: str
    text: str = ""
    label: str = ""
    program: str = ""

    @property
    def is_fault(self):
        return self.kind in ("wrong", "broken", "crashed")


def mode_of(number, *, cuda=True):
    """Return what runs a program: Python mostly, machine code in each fourth, and the CUDA simulator in some."""
    if number % 40 == 5 and cuda:
        return "cuda"
    if number % 20 == 9:
        return "served"
    return "real" if number % 4 == 3 else "plain"


def tasks(numbers, *, seed, without, cuda):
    """Return the tasks for programs, those first that take longest."""
    found = []
    for mode in ("cuda", "real", "served", "plain"):
        of_mode = [number for number in numbers if mode_of(number, cuda=cuda) == mode]
        length = CHUNK if mode == "plain" else CHUNK // 4
        found += [
            Task(mode, tuple(of_mode[start : start + length]), seed, tuple(without))
            for start in range(0, len(of_mode), length)
        ]
    return found


# In a worker


class Worker:
    """Draws, runs and judges the programs of a task."""

    def __init__(self, task):
        self._task = task
        self._seen = collections.Counter()

    def reports(self):
        """Yield what came of each program."""
        group = []
        for number in self._task.numbers:
            case = draw(f"{self._task.seed}/{number}", mode=self._task.mode, without=self._task.without)
            if self._task.mode != "real":
                yield self._report(number, case, judged(case, self._task.mode))
                continue
            group.append((number, case))
            if len(group) == TOGETHER or number == self._task.numbers[-1]:
                yield from self._together(group)
                group = []

    def _together(self, group):
        verdicts = judged_together([case for _, case in group])
        for (number, case), verdict in zip(group, verdicts, strict=True):
            alone = judged(case, "real") if verdict.kind in ("wrong", "broken", "refused") else verdict
            if verdict.kind == "wrong" and not alone.is_fault:
                numbers = [number for number, _ in group]
                text = f"only together, of programs {numbers}: {verdict.text}"
                yield Report(number, "real", "wrong", text, "together", case.runnable())
            else:
                yield self._report(number, case, alone)

    def _report(self, number, case, verdict):
        mode = self._task.mode
        if not verdict.is_fault:
            return Report(number, mode, verdict.kind, verdict.text)
        if self._seen[label(case, verdict)] < EXAMPLES:
            self._seen[label(case, verdict)] += 1
            case, verdict = reduced(case, verdict, mode=mode, seconds=SECONDS[mode])
        return Report(number, mode, verdict.kind, verdict.text, label(case, verdict), case.runnable())


def label(case, verdict):
    """Return the kinds of faults that what is left of a program may show: one of them is the case."""
    if "Hazard" in verdict.text:
        return "reuse"
    kinds = [kind for kind in case.kinds() if kind != "reuse"]
    given = [text for call in case.calls for text in call.arguments]
    if len({str(SHAPE.findall(str(call.arguments))) for call in case.calls}) > 1:
        kinds.append("guards of shapes")
    if "same" in given:
        kinds.append("updates")
    if any("special=True" in text for text in given):
        kinds = ["values"]
    return " or ".join(sorted(set(kinds))) or "reuse"


def work(text):
    """Do a task that is given as JSON, and print one line for each program."""
    task = Task(**json.loads(text))
    if task.mode == "cuda":
        sys.setswitchinterval(1e-5)  # threads of the simulator wait for each other in loops
    for report in Worker(task).reports():
        print(json.dumps(asdict(report)), flush=True)


# In the process that starts them


class Pool:
    """Some workers at a time; iterating gives reports as they come."""

    def __init__(self, todo, *, jobs):
        self._todo, self._found = queue.SimpleQueue(), queue.SimpleQueue()
        for task in todo:
            self._todo.put(task)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(jobs)]

    def __iter__(self):
        for thread in self._threads:
            thread.start()
        left = len(self._threads)
        while left:
            report = self._found.get()
            if report is None:
                left -= 1
            else:
                yield report

    def _run(self):
        try:
            while (task := self._next()) is not None:
                while task.numbers:
                    task = self._left_of(task)
        finally:
            self._found.put(None)

    def _next(self):
        try:
            return self._todo.get_nowait()
        except queue.Empty:
            return None

    def _left_of(self, task):
        """Run a task, and return what is left of it after a program that crashed or hung."""
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1" if task.mode == "cuda" else "0"}
        command = [sys.executable, "-m", "tests.compile.fuzz", "--task", json.dumps(asdict(task))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        errors = _Lines(process.stderr)
        seen = set()
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        for line in process.stdout:
            if line.startswith("{"):
                timer.cancel()
                timer = threading.Timer(PATIENCE, process.kill)
                timer.start()
                report = Report(**json.loads(line))
                seen.add(report.number)
                self._found.put(report)
        timer.cancel()
        left = [number for number in task.numbers if number not in seen]
        if process.wait() == 0 or not left:
            return replace(task, numbers=())
        text = f"the process ended with {process.returncode}:\n{errors.text()}"
        self._found.put(Report(left[0], task.mode, "crashed", text, "crash", f"# --seed {task.seed} --only {left[0]}"))
        return replace(task, numbers=tuple(left[1:]))


class _Lines:
    """The last lines of a stream, which is read all the time."""

    def __init__(self, stream):
        self._lines = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            self._lines = [*self._lines[-19:], line]

    def text(self):
        self._thread.join()
        return "".join(self._lines)
