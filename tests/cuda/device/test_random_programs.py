"""Random programs compiled for a GPU leave what they leave eagerly on the CPU."""

from tests.compile.fuzz.drawing import draw
from tests.compile.fuzz.judge import judged

PROGRAMS = 20


def test_random_programs_do_the_same_on_a_gpu():
    for number in range(PROGRAMS):
        case = draw(f"device/{number}", mode="cuda")
        verdict = judged(case, "cuda")
        assert not verdict.is_fault, f"{verdict.text}\n{case.runnable()}"
