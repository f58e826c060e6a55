"""Runs random programs: ``python -m tests.compile.fuzz --programs 10000 --jobs 2``."""

import argparse
import collections
import contextlib
import os
import sys
import tempfile
import time

from tqdm import tqdm

from tests.compile.fuzz.drawing import KINDS, draw
from tests.compile.fuzz.judge import judged
from tests.compile.fuzz.workers import Pool, mode_of, tasks, work


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--without", default="", help=f"kinds to leave out, of {','.join(KINDS)}; cuda leaves the simulator out"
    )
    parser.add_argument("--only", type=int, help="run one program, and print it")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextlib.contextmanager
def _cache():
    """Keep the machine code of random programs apart from that of the user."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABNET_CACHE"] = folder
        yield


def _show_one(arguments, without):
    mode = mode_of(arguments.only, cuda="cuda" not in without)
    case = draw(f"{arguments.seed}/{arguments.only}", mode=mode, without=without)
    verdict = judged(case, mode)
    print(case.runnable(), f"# {mode}: {verdict.kind} {verdict.text}", sep="\n")
    return int(verdict.is_fault)


def _show(report, write):
    write(f"\n{'=' * 100}\nprogram {report.number} ({report.mode}, {report.label}): {report.kind}: {report.text}\n")
    write(report.program + "\n")


def main():
    arguments = _arguments()
    if arguments.task:
        work(arguments.task)
        return 0
    without = tuple(filter(None, arguments.without.split(",")))
    if unknown := set(without) - {*KINDS, "cuda"}:
        sys.exit(f"--without takes {', '.join((*KINDS, 'cuda'))}, not {', '.join(sorted(unknown))}")
    if arguments.only is not None:
        return _show_one(arguments, without)
    return _run(arguments, without)


def _run(arguments, without):
    began = time.monotonic()
    counts, refused, faults = collections.Counter(), collections.Counter(), collections.defaultdict(list)
    todo = tasks(range(arguments.programs), seed=arguments.seed, without=without, cuda="cuda" not in without)
    try:
        with _cache(), tqdm(total=arguments.programs, unit="program", disable=not sys.stderr.isatty()) as bar:
            for report in Pool(todo, jobs=arguments.jobs):
                counts[report.mode, report.kind] += 1
                if report.kind == "refused":
                    refused[report.text[:110]] += 1
                if report.is_fault:
                    faults[report.label].append(report.number)
                    _show(report, lambda text: bar.write(text, file=sys.stdout))
                bar.update()
    finally:
        _summarise(counts, refused, faults, time.monotonic() - began)
    return int(bool(faults))


def _summarise(counts, refused, faults, seconds):
    print(f"{sum(counts.values())} programs in {seconds:.0f} s")
    for mode in sorted({mode for mode, _ in counts}):
        print(f"  {mode}: " + ", ".join(f"{n} {kind}" for (where, kind), n in sorted(counts.items()) if where == mode))
    print(f"refused: {sum(refused.values())}")
    for text, count in refused.most_common():
        print(f"  {count} x {text}")
    print(f"faults: {sum(map(len, faults.values()))}")
    for name, numbers in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"  {len(numbers)} x {name}: first program {min(numbers)}; {sorted(numbers)[:12]}")


if __name__ == "__main__":
    sys.exit(main())
