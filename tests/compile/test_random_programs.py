"""Random programs: values, gradients and updates of compiled functions are those of eager ones.

A thousand of them go through every pass, and Python runs the text that is generated. Numba compiles a sample of them,
many in one function; `make fuzz` takes as many as one likes.
"""

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet.compile import specialisation
from tests.compile import plainly
from tests.compile.programs import check, check_together, plans

#: Programs that Python runs, and functions of several programs each that Numba compiles.
PLAIN = 1000
COMPILED, EACH = 1, 20
OPTIONS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck), "database": None}
OPTIONS |= {"phases": (Phase.explicit, Phase.generate, Phase.shrink)}


@settings(max_examples=PLAIN, **OPTIONS)
@given(plans)
def test_random_programs_do_the_same_where_python_runs_them(plan):
    before, specialisation.cache.load = specialisation.cache.load, plainly.load
    try:
        parameters = plan.parameters()
        check(plan, ln.jit(plan.training(parameters)), parameters)
    finally:
        specialisation.cache.load = before


@settings(max_examples=COMPILED, **OPTIONS)
@given(st.lists(plans, min_size=EACH, max_size=EACH))
def test_random_programs_do_the_same_compiled(chosen):
    check_together(chosen)
