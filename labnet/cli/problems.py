"""Errors of commands: one line on standard error and an exit status."""

#: Exit statuses: wrong usage, failure, interrupt, closed output pipe.
MISUSE, FAILURE, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141


class Misuse(Exception):
    """Wrong usage of a command: an option, a file, or a line of the input."""


def one_line(error: BaseException) -> str:
    r"""Return the message of an error as one line.

    Examples
    --------
    >>> one_line(ValueError("first\nsecond")), one_line(KeyError("name")), one_line(ValueError())
    ('first; second', "'name'", 'ValueError')
    """
    text = str(error) or type(error).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
