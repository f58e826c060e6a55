"""The commands with their options, help and exit statuses."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from labnet.cli import caching, figures, lines, serving, stores
from labnet.cli.problems import BROKEN_PIPE, FAILURE, INTERRUPTED, MISUSE, Misuse, one_line
from labnet.cli.targets import TOKEN_VARIABLE
from labnet.errors import LabnetError
from labnet.network.protocol.headers import TOKEN_HEADER
from labnet.network.runner.model_file import LOSSES, OPTIMIZERS
from labnet.store import LEVELS
from labnet.version import __version__

_EPILOG = f"""\
a model file is a Python file that defines 'model', and may define 'optimizer', 'loss' and 'routes':

  import labnet as ln
  model = ln.nn.Linear(2, 1)
  optimizer = ln.optim.SGD(lr=0.1)

servers of yours on this machine are found without a token; for others set {TOKEN_VARIABLE}
"""

_SERVE = """\
examples:
  labnet serve model.py                          the object 'model', trained with the file's 'optimizer' or Adam
  labnet serve model.py:net --optimizer sgd --lr 0.1 --port 3001
  labnet serve model.py --checkpoint net.safetensors   loads the file if it is there, then saves as updates come
  labnet serve                                   a runner, which runs model files that clients upload
"""

_TRAIN = """\
each line of the input is an example, X | Y, in brackets, with a dtype where it matters:

  printf '[[1, 2]] | [[3]]\\n[[2, 2]] | [[4]]\\n' | labnet train model.py --epochs 100 --save net.safetensors
  printf '[[1, 2]] | [0]:int64\\n' | labnet train localhost:3000 --loss cross_entropy

numbers without a dtype become float32, except the labels of cross_entropy
"""

_INFER = """\
each line of the input is a tensor, and so is each line of the output:

  echo '[[1, 2]]' | labnet infer model.py --weights net.safetensors
  echo '[[1, 2]]:float64' | labnet infer localhost:3000
"""

_STORE = "What serve_model(store=PATH) keeps: a checkpoint, and a journal of the updates since."

_CACHE = """\
compiled code is kept, so that another process does not compile it again; LABNET_CACHE names another folder
"""

_TOKEN = f"""\
for curl:
  curl -H "{TOKEN_HEADER}: $(labnet token 3000)" --json "[[1, 2]]" localhost:3000/forward
"""


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Examples
    --------
    >>> main(["token", "1"])
    1
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except Misuse as error:
        return _end(MISUSE, one_line(error))
    except BrokenPipeError:
        # the rest of the buffer would raise again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (LabnetError, OSError) as error:
        return _end(FAILURE, one_line(error))
    except KeyboardInterrupt:
        return _end(INTERRUPTED, "interrupted")


def _end(status: int, message: str) -> int:
    print(f"labnet: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="labnet",
        description="A lab bench for networked, trainable models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"labnet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_train(commands)
    _add_infer(commands)
    _add_statistics(commands)
    _add(commands, "list", serving.show, "list your servers on this machine", "")
    stop = _add(commands, "stop", serving.stop, "stop a server", "")
    stop.add_argument("target", metavar="URL|PORT|NAME", help="server, such as localhost:3000, 3000 or its name")
    _add_timeout(stop)
    _add_store(commands)
    cache = _add(commands, "cache", caching.show, "show or clear the machine code that is kept on the disk", _CACHE)
    what = cache.add_mutually_exclusive_group()
    what.add_argument("--clear", action="store_true", help="delete all of it; what is needed is compiled again")
    what.add_argument("--warm", action="store_true", help="compile the kernels of layers and optimizers beforehand")
    token = _add(commands, "token", serving.token, "print the token of a server of yours on this machine", _TOKEN)
    token.add_argument("port", type=_port, metavar="PORT")
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, epilog: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_serve(commands: Any) -> None:
    serve = _add(commands, "serve", serving.serve, "serve the model of a file over HTTP, or a runner", _SERVE)
    serve.add_argument("file", nargs="?", metavar="FILE[:NAME]", help="model file; without one a runner is served")
    serve.add_argument("--port", type=_port, help="port, or 0 for a free one (default: 3000, of a runner 3113)")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1, this machine only)")
    serve.add_argument("--name", help="name of the server (default: the object's name)")
    _add_optimizer(serve)
    serve.add_argument("--checkpoint", metavar="PATH", help="safetensors file that holds the weights between runs")
    serve.add_argument(
        "--store", metavar="PATH", help="folder that keeps every update, and the replies that were given"
    )
    serve.add_argument("--durability", choices=LEVELS, default="group", help="what a reply promises (default: group)")
    serve.add_argument("--allow-shell", action="store_true", help="of a runner: let clients run shell commands too")


def _add_train(commands: Any) -> None:
    train = _add(commands, "train", lines.train, "train a model on examples from standard input", _TRAIN)
    train.add_argument("target", metavar="FILE[:NAME]|URL", help="model file, or a server: its address, port or name")
    train.add_argument("--loss", help=f"{', '.join(LOSSES)}, or one of the file (default: the file's 'loss', or mse)")
    _add_optimizer(train)
    train.add_argument("--epochs", type=_at_least_one, default=1, help="times that all examples are used (default: 1)")
    train.add_argument("--save", metavar="PATH", help="safetensors file for the weights at the end")
    train.add_argument("--checkpoint", metavar="PATH", help="safetensors file that holds the weights between runs")
    _add_timeout(train)


def _add_infer(commands: Any) -> None:
    infer = _add(commands, "infer", lines.infer, "write what a model makes of tensors from standard input", _INFER)
    infer.add_argument("target", metavar="FILE[:NAME]|URL", help="model file, or a server: its address, port or name")
    infer.add_argument("--weights", metavar="PATH", help="safetensors file with the weights of the file's model")
    _add_timeout(infer)


def _add_statistics(commands: Any) -> None:
    statistics = _add(
        commands, "statistics", figures.statistics, "show what a server has done, and the servers behind it", ""
    )
    statistics.add_argument("url", metavar="URL|PORT|NAME", help="server, such as localhost:3000, 3000 or its name")
    statistics.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=1.0,
        metavar="SECONDS",
        help="show them again every so many seconds (default: 1) until Ctrl-C",
    )
    _add_timeout(statistics)


def _add_store(commands: Any) -> None:
    store = commands.add_parser("store", help="look into the folder of a served model", description=_STORE)
    verbs = store.add_subparsers(dest="verb", required=True, metavar="show|verify|compact|repair")
    for name, run, summary in (
        ("show", stores.show, "print version, optimizer, weights and replies"),
        ("verify", stores.verify, "read everything, and say that it is whole"),
        ("compact", stores.shorten, "put a checkpoint in place of the journal; no server may have the store open"),
        ("repair", stores.mend, "cut a damaged journal off, and keep a copy of it; replace a missing one"),
    ):
        _add(verbs, name, run, summary, "").add_argument("path", metavar="PATH")


def _add_optimizer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--optimizer",
        help=f"{', '.join(OPTIMIZERS)}, none, or one of the file (default: the file's 'optimizer', or adam)",
    )
    command.add_argument("--lr", type=float, help="step size of sgd, adam or adamw")


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="of a server: most seconds for each reply, all attempts together (default: 60)",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return seconds
