"""Random programs compiled for real and compared with eager ones: ``python -m tests.compile.fuzz --programs 400``.

A few programs go into one function, since every function has Numba begin anew. A function that fails is taken apart:
its programs are compiled one by one, and of one that fails, steps are left out as long as it goes on failing.
"""

import argparse
import dataclasses
import random
import sys
from collections.abc import Iterator

from tqdm import tqdm

from tests.compile.programs import BINARY, OPTIMIZERS, SHAPING, UNARY, Plan, check_together

NAMES = UNARY + BINARY + SHAPING


def plan(rng: random.Random) -> Plan:
    """Return a random program."""
    steps = [(rng.choice(NAMES), rng.randint(0, 20), rng.randint(0, 20)) for _ in range(rng.randint(1, 8))]
    shapes = [tuple(rng.choice([1, 2, 3, 4, 8]) for _ in range(rng.randint(0, 3))) for _ in range(rng.randint(1, 3))]
    dtype, optimizer = rng.choice(["float32", "float64"]), rng.choice(sorted(OPTIMIZERS))
    return Plan(tuple(steps), tuple(shapes), dtype, optimizer, rng.randint(0, 1000))


def error_of(plans: list[Plan]) -> Exception | None:
    """Compile programs in one function, run it twice, and return what is wrong."""
    try:
        check_together(plans)
    except Exception as error:
        return error
    return None


def smaller(plan: Plan) -> Iterator[Plan]:
    """Yield programs with one step or one parameter less."""
    for field in ("steps", "shapes"):
        parts = getattr(plan, field)
        for position in range(len(parts)):
            if len(parts) > 1:
                yield dataclasses.replace(plan, **{field: parts[:position] + parts[position + 1 :]})


def smallest(plan: Plan) -> Plan:
    """Return a program of which no part can be left out without it being right."""
    while (found := next((other for other in smaller(plan) if error_of([other])), None)) is not None:
        plan = found
    return plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=400)
    parser.add_argument("--each", type=int, default=4, help="programs in one function")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, wrong = random.Random(arguments.seed), 0
    with tqdm(total=arguments.programs, unit="program", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, arguments.programs, arguments.each):
            chosen = [plan(rng) for _ in range(min(arguments.each, arguments.programs - start))]
            if (error := error_of(chosen)) is not None:
                alone = [each for each in chosen if error_of([each])]
                for each in alone:
                    found = smallest(each)
                    bar.write(f"{found}\n{error_of([found])}\n", file=sys.stdout)
                if not alone:
                    bar.write(f"only together: {chosen}\n{error}\n", file=sys.stdout)
                wrong += max(1, len(alone))
            bar.update(len(chosen))
    print(f"{arguments.programs} programs, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
