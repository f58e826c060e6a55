"""The magics: ``%serve_model`` and ``%%serve_model``."""

from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from labnet import optim
from labnet.network import Server, serve_model

_OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam}


@magics_class
class LabnetMagics(Magics):  # type: ignore[misc]
    """labnet in one line."""

    @magic_arguments()
    @argument("model", help="name of the object to serve")
    @argument(
        "--optimizer", "-o", default="adam", help="sgd, adam, none, or the name of an optimizer object (default: adam)"
    )
    @argument("--lr", type=float, default=None, help="step size of sgd or adam (default: 1e-3)")
    @argument("--port", "-p", type=int, default=3000, help="port, or 0 for a free one (default: 3000)")
    @argument("--name", default=None, help="name of the server (default: the object's name)")
    @argument("--no-panel", action="store_true", help="do not show the live panel")
    @line_cell_magic
    def serve_model(self, line: str, cell: str | None = None) -> Server:
        """Serve a model from this kernel, with a live panel below the cell.

        As a line, serves an object that exists. As a cell, runs the cell, which must define the object, and
        serves it. Running it again replaces the model on its port; connections and statistics survive.
        """
        try:
            arguments = parse_argstring(self.serve_model, line)
        except SystemExit:  # argparse's way out after --help
            raise UsageError("see %serve_model? for the arguments") from None
        if cell is not None:
            self._run(cell)
        model = self._lookup(arguments.model)
        optimizer = self._optimizer(arguments.optimizer, arguments.lr)
        try:
            server = serve_model(
                model, optimizer, port=arguments.port, name=arguments.name or arguments.model, replace=True
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"%serve_model: {str(error).removeprefix('serve_model: ')}") from None
        if not arguments.no_panel:
            display(server.panel())
        return server

    def _run(self, cell: str) -> None:
        """Run the cell's code in the user's namespace, with one clean traceback if it fails."""
        shell = self.shell
        source = shell.transform_cell(cell)
        if shell.should_run_async(cell, transformed_cell=source):
            raise UsageError(
                "%%serve_model: the cell uses top-level await, which a cell magic cannot run: "
                "await in a cell of its own, then define the model here, or use %serve_model on the object"
            )
        filename = shell.compile.cache(source, shell.execution_count)
        exec(shell.compile(source, filename, "exec"), shell.user_ns)

    def _lookup(self, name: str) -> Any:
        if name not in self.shell.user_ns:
            raise UsageError(f"%serve_model: there is no {name!r}; define it first, or in a %%serve_model cell")
        return self.shell.user_ns[name]

    def _optimizer(self, name: str, lr: float | None) -> Any:
        if name in _OPTIMIZERS:
            return _OPTIMIZERS[name](**({} if lr is None else {"lr": lr}))
        if lr is not None:
            raise UsageError(f"%serve_model: --lr goes with sgd or adam, not with {name!r}")
        if name == "none":
            return None
        if name not in self.shell.user_ns:
            raise UsageError(f"%serve_model: unknown optimizer {name!r}: expected sgd, adam, none or an object's name")
        return self.shell.user_ns[name]
