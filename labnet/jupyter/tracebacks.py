"""Tracebacks of cells, reduced to the user's frames; ``%xmode Verbose`` shows all of them."""

from types import TracebackType
from typing import Any

from labnet.tracebacks import trim


def _show(
    shell: Any, kind: type[BaseException], error: BaseException, traceback: TracebackType, tb_offset: int | None = None
) -> None:
    if shell.InteractiveTB.mode != "Verbose":
        traceback = trim(error).__traceback__ or traceback
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset, running_compiled_code=True)


def register(shell: Any) -> None:
    """Show the errors of a shell's cells; a handler that is set already stays."""
    if not shell.custom_exceptions:
        shell.set_custom_exc((Exception, KeyboardInterrupt), _show)
