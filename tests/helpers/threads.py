"""Start functions in threads at the same time, and wait for conditions."""

import threading

from tests.helpers.constants import SECONDS


def together(*functions):
    """Run functions in threads that start at the same time; return their results, or raise the first error."""
    barrier = threading.Barrier(len(functions))
    outcomes = [None] * len(functions)

    def work(position, function):
        barrier.wait(SECONDS)
        try:
            outcomes[position] = (function(), None)
        except BaseException as error:
            outcomes[position] = (None, error)

    threads = [threading.Thread(target=work, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, error in outcomes:
        if error is not None:
            raise error
    return [value for value, _ in outcomes]


def wait_until(condition):
    """Wait until a condition holds, at most some seconds."""
    tick = threading.Event()
    for _ in range(int(SECONDS * 1000)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("the condition was not met in time")
