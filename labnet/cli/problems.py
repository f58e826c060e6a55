"""How a command ends that cannot do its job: one line on standard error, and the exit status."""

#: Exit statuses: the command was used wrongly; it failed; it was interrupted; nobody reads its output any more.
MISUSE, FAILURE, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141


class Misuse(Exception):
    """The command was used wrongly: an option, a file, or a line of the input."""


def one_line(error: BaseException) -> str:
    r"""Return an error's message in one line.

    Examples
    --------
    >>> one_line(ValueError("first\nsecond")), one_line(KeyError("name")), one_line(ValueError())
    ('first; second', "'name'", 'ValueError')
    """
    text = str(error) or type(error).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
