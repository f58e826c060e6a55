"""The magics: ``%serve_model``, ``%%serve_model``, ``%remote_model`` and ``%labnet``."""

import ast
import keyword
import types
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from labnet.errors import LabnetError, RemoteError
from labnet.jupyter import arguments
from labnet.jupyter.listing import Listing, find, listing
from labnet.jupyter.panel import Panel
from labnet.network import RemoteModel, Server, remote_model, serve_model, tfetch
from labnet.optim.algorithms import OPTIMIZERS

_CONNECT_SECONDS = 2.0
_KINDS = ", ".join(OPTIMIZERS)


@magics_class
class LabnetMagics(Magics):  # type: ignore[misc]
    """The magics of labnet."""

    @magic_arguments()
    @argument("model", help="name of the object to serve")
    @argument(
        "--optimizer",
        "-o",
        default="adam",
        help=f"{_KINDS}, none, or the name of an optimizer object (default: adam)",
    )
    @argument(
        "--lr", type=float, default=None, help="learning rate of an optimizer that is made by name (default: 1e-3)"
    )
    @argument("--port", "-p", type=int, default=3000, help="port, or 0 for a free one (default: 3000)")
    @argument("--name", default=None, help="name of the server (default: the object's name)")
    @argument("--no-panel", action="store_true", help="do not show the live panel")
    @argument("--compile", action="store_true", help="compile the forward and the training step")
    @argument("--params", default=None, help="name of the parameters of a function of JAX")
    @argument("--method", default=None, help="method of an estimator (default: predict_proba, or the next it has)")
    @argument("--vjp", default=None, help="name of the gradient rule of a function of arrays")
    @line_cell_magic
    def serve_model(self, line: str, cell: str | None = None) -> Server:
        """Serve a model from this kernel, with a live panel below the cell.

        The object is a model or function of labnet, or a model of torch, JAX or scikit-learn. The line magic serves an
        existing object. The cell magic runs the cell, which must define the object, and serves it. Running it again
        replaces the model on its port; connections and statistics are kept. The server keeps the model even if its
        name is deleted; ``%labnet stop NAME`` stops it.
        """
        __tracebackhide__ = True  # errors of the user's cell are shown without labnet's frames
        if cell is not None:
            line, cell = arguments.continued(line, cell)
        given = arguments.parse(self.serve_model, line)
        if cell is not None:
            self._run(cell)
        model, params, vjp = (name and self._lookup(name) for name in (given.model, given.params, given.vjp))
        optimizer = self._optimizer(given.optimizer, given.lr)
        try:
            server = serve_model(
                model,
                optimizer,
                port=given.port,
                name=given.name or given.model,
                replace=True,
                compile=given.compile,
                params=params,
                method=given.method,
                vjp=vjp,
            )
        except (OSError, ValueError, LabnetError) as error:
            reason = getattr(error, "strerror", None) or _one_line(error)
            reason = reason.removeprefix("serve_model: ").replace("port=0", "--port 0")
            raise UsageError(f"%serve_model: {reason}") from None
        if not given.no_panel:
            display(server.panel())
        return server

    @magic_arguments()
    @argument("target", help="address of the server, such as localhost:3000, or its name if it runs on this machine")
    @argument("name", help="name to give the remote model")
    @argument("--token", default=None, help="name of a variable that holds the token; none is needed on one machine")
    @argument("--timeout", type=float, default=60.0, help="most seconds until a reply is there (default: 60)")
    @argument("--blocking", action="store_true", help="work without await")
    @line_magic
    def remote_model(self, line: str) -> RemoteModel:
        """Connect to a served model under a name: ``y = await name(x)``, ``await loss.backward()``."""
        given = arguments.parse(self.remote_model, line)
        if not given.name.isidentifier() or keyword.iskeyword(given.name):
            raise UsageError(f"%remote_model: {given.name!r} is not a name that a variable can have")
        token = self._token(given.token)
        try:
            found = find(given.target)
            url = found.url if isinstance(found, Server) else found
            remote = remote_model(url, timeout=given.timeout, token=token, blocking=given.blocking)
            _reach(url, token)
        except (LookupError, ValueError, RemoteError) as error:
            raise UsageError(f"%remote_model: {_one_line(error)}") from None
        self.shell.push({given.name: remote})
        return remote

    @magic_arguments()
    @argument("action", choices=("list", "stop", "panel"), help="list, stop NAME or panel URL")
    @argument("target", nargs="?", default=None, help="name, port or address of a server")
    @line_magic
    def labnet(self, line: str) -> Listing | None:
        """List the servers on this machine, stop one of this kernel, or show the panel of any server.

        ``%labnet list`` shows the servers of this kernel and of the same user's other processes. ``%labnet stop NAME``
        stops one of this kernel. ``%labnet panel URL`` shows the live panel of a server, by its name on this machine or
        by its address anywhere.
        """
        given = arguments.parse(self.labnet, line)
        if given.action == "list":
            return listing()
        if given.target is None:
            raise UsageError(f"%labnet {given.action}: which server? %labnet list names them")
        try:
            found = find(given.target)
            if given.action == "stop":
                _stop(found)
            else:
                if not isinstance(found, Server):
                    remote_model(found)  # refuses an invalid address
                    _reach(found)
                display(Panel(found))
        except (LookupError, ValueError, RemoteError) as error:
            raise UsageError(f"%labnet {given.action}: {_one_line(error)}") from None
        return None

    def _run(self, cell: str) -> None:
        """Run the cell's code in the user's namespace, with one clean traceback if it fails.

        It displays what an ordinary cell displays: by default the value of a final expression.
        """
        __tracebackhide__ = True
        shell = self.shell
        source = shell.transform_cell(cell)
        if shell.should_run_async(cell, transformed_cell=source):
            raise UsageError(
                "%%serve_model: the cell uses top-level await, which a cell magic cannot run: "
                "await in a cell of its own, then define the model here, or use %serve_model on the object"
            )
        filename = shell.compile.cache(source, shell.execution_count)
        try:
            steps = self._steps(source, filename)
        except (SyntaxError, OverflowError, ValueError):
            shell.showsyntaxerror(filename)
            raise UsageError("%%serve_model: nothing was run or served") from None
        for code in steps:
            exec(code, shell.user_ns)

    def _steps(self, source: str, filename: str) -> list[types.CodeType]:
        """Compile a cell, with displayed expressions apart for the display hook."""
        compiler = self.shell.compile
        nodes = self.shell.transform_ast(compiler.ast_parse(source, filename)).body
        shown = (
            0
            if DisplayHook.semicolon_at_end_of_expression(source)
            else _number_shown(nodes, self.shell.ast_node_interactivity)
        )
        silent = nodes[: len(nodes) - shown]
        steps: list[tuple[ast.mod, str]] = [(ast.Module(silent, []), "exec")]
        steps += [(ast.Interactive([node]), "single") for node in nodes[len(nodes) - shown :]]
        return [compiler(tree, filename, mode) for tree, mode in steps]

    def _lookup(self, name: str) -> Any:
        if name not in self.shell.user_ns:
            raise UsageError(f"%serve_model: there is no {name!r}; define it first, or in a %%serve_model cell")
        return self.shell.user_ns[name]

    def _optimizer(self, name: str, lr: float | None) -> Any:
        if name in OPTIMIZERS:
            try:
                return OPTIMIZERS[name](**({} if lr is None else {"lr": lr}))
            except ValueError as error:
                raise UsageError(f"%serve_model: {error}") from None
        if lr is not None:
            raise UsageError(f"%serve_model: --lr goes with an optimizer that is made by name, not with {name!r}")
        if name == "none":
            return None
        if name not in self.shell.user_ns:
            raise UsageError(f"%serve_model: unknown optimizer {name!r}: expected {_KINDS}, none or an object's name")
        return self.shell.user_ns[name]

    def _token(self, variable: str | None) -> str | None:
        """Return the token in a variable; a token on the line itself would be saved with the notebook."""
        if variable is None:
            return None
        token = self.shell.user_ns.get(variable)
        if not isinstance(token, str):
            raise UsageError(
                "%remote_model: --token takes the name of a variable that holds the token, not the token: "
                "import getpass; token = getpass.getpass()"
            )
        return token


def _number_shown(nodes: list[ast.stmt], interactivity: str) -> int:
    """Return how many final statements of a cell have values that IPython displays."""
    if interactivity in ("all", "last"):
        return len(nodes) if interactivity == "all" else len(nodes[-1:])
    if interactivity == "last_expr_or_assign" and nodes:
        nodes += _name_that_is_assigned(nodes[-1])
    return int(interactivity != "none" and bool(nodes) and isinstance(nodes[-1], ast.Expr))


def _name_that_is_assigned(node: ast.stmt) -> list[ast.stmt]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        return []
    return [ast.fix_missing_locations(ast.Expr(ast.Name(targets[0].id, ast.Load())))]


def _stop(found: Server | str) -> None:
    if not isinstance(found, Server):
        raise LookupError(f"{found} is not a server of this kernel: stop it where it runs")
    found.stop()
    print(f"stopped {found.name!r}; its port {found.port} is free")


def _reach(url: str, token: str | None = None) -> None:
    """Check that a server is reachable."""
    tfetch(url.rstrip("/") + "/health", timeout=_CONNECT_SECONDS, token=token, blocking=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if isinstance(error, LookupError) else error).split())
