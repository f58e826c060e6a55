"""``labnet train`` and ``labnet infer``, on tensors from standard input, one line at a time."""

import argparse
import asyncio
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labnet import io, loss
from labnet.autograd import Gradients, no_grad
from labnet.cli.problems import Misuse, one_line
from labnet.cli.targets import check_folder, connect, fitting, is_file, load, module_of, optimizer_of
from labnet.errors import DTypeError, LabnetError, RemoteError, ShapeError, WireError
from labnet.network.runner.model_file import LOSSES, ModelFile
from labnet.nn import Module
from labnet.tensor import Tensor

Lines = Iterable[tuple[int, str]]


def infer(options: argparse.Namespace) -> int:
    """Write the output of a model for each line of the input, in order."""
    model = _asked(options)
    with asyncio.Runner() as runner, no_grad():
        for number, line in _lines():
            result = _computed(number, functools.partial(_ask, model, line, runner))
            print(_written(result), flush=True)
    return 0


def _ask(model: Any, line: str, runner: asyncio.Runner) -> Any:
    return _resolved(model(_parse(line)), runner)


def _asked(options: argparse.Namespace) -> Any:
    """Return the model for inference, with the weights of the options."""
    if not is_file(options.target):
        if options.weights is not None:
            raise Misuse("--weights goes with a model file; a server has weights of its own")
        return connect(options.target, options.timeout)
    file = _load(options)
    if options.weights is not None:
        if not Path(options.weights).is_file():
            raise Misuse(f"there is no file {options.weights!r}")
        with fitting(options.weights):
            module_of(file, "--weights").load_state_dict(io.load(options.weights))
    return file.model.eval() if isinstance(file.model, Module) else file.model


@dataclass(frozen=True)
class Trainer:
    """A model with its loss and optimizer."""

    model: Any
    loss_of: Callable[..., Any]
    update: Callable[[Gradients], Any]

    def step(self, line: str, runner: asyncio.Runner) -> float:
        """Run one step on the example of a line; return the loss before it."""
        left, bar, right = line.partition("|")
        if not bar:
            raise Misuse(f"expected X | Y, such as [1, 2] | [3], got {line!r:.80}")
        output = _resolved(self.model(_parse(left)), runner)
        loss_value = self.loss_of(output, _parse(right, keeps_integers=self.loss_of is loss.cross_entropy))
        self.update(_resolved(loss_value.backward(), runner))
        return float(loss_value.item())


def train(options: argparse.Namespace) -> int:
    """Train a model on the examples of the input, one step per line."""
    trainer = _trainer(options)
    lines: Lines = _lines() if options.epochs == 1 else list(_lines())
    first, last, count = 0.0, 0.0, 0
    with asyncio.Runner() as runner, tqdm(unit="step", disable=not sys.stderr.isatty()) as bar:
        for _ in range(options.epochs):
            for number, line in lines:
                last = _computed(number, functools.partial(trainer.step, line, runner))
                first = last if count == 0 else first
                count += 1
                bar.set_postfix(loss=f"{last:.4g}", refresh=False)
                bar.update()
    if not count:
        raise Misuse("there were no examples on the input: expected lines such as [1, 2] | [3]")
    if options.save is not None:
        io.save(options.save, trainer.model.state_dict())
    print(f"labnet: {count} steps, loss {first:.6g} at first and {last:.6g} at last", file=sys.stderr)
    return 0


def _trainer(options: argparse.Namespace) -> Trainer:
    """Return the trainer for the options."""
    if options.save is not None:
        check_folder(options.save, "--save")
    if not is_file(options.target):
        for option in ("optimizer", "lr", "checkpoint"):
            if getattr(options, option) is not None:
                raise Misuse(f"--{option} goes with a model file; a server has an optimizer of its own")
        if options.loss is not None and options.loss not in LOSSES:
            raise Misuse(f"unknown loss {options.loss!r}: expected {', '.join(LOSSES)}")
        return Trainer(connect(options.target, options.timeout), LOSSES[options.loss or "mse"], lambda gradients: None)
    file = _load(options)
    if options.save is not None:
        module_of(file, "--save")
    try:
        loss_of = file.loss(options.loss)
    except LookupError as error:
        raise Misuse(str(error.args[0])) from None
    return Trainer(file.model, loss_of, optimizer_of(file, options) or (lambda gradients: None))


def _resolved(value: Any, runner: asyncio.Runner) -> Any:
    """Return a value, awaited if it is awaitable."""

    async def awaiting() -> Any:
        return await value

    return runner.run(awaiting()) if inspect.isawaitable(value) else value


def _lines() -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of the input with their numbers."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    for number, line in enumerate(sys.stdin, start=1):
        if line.strip():
            yield number, line.strip()


def _load(options: argparse.Namespace) -> ModelFile:
    """Load the model file of the options."""
    if options.timeout is not None:
        raise Misuse("--timeout goes with a server; a model file has none")
    return load(options.target)


def _parse(text: str, *, keeps_integers: bool = False) -> Tensor:
    """Parse a tensor; integers without a dtype become float32, the dtype of models."""
    tensor = io.parse(text)
    plain = ":" not in text and tensor.dtype.kind == "i" and not keeps_integers
    return tensor.astype("float32") if plain else tensor


def _computed(number: int, compute: Callable[[], Any]) -> Any:
    """Run a computation for a line; name the line in errors.

    Raises
    ------
    Misuse
        If the line is invalid.
    LabnetError
        If the computation fails otherwise.
    """
    try:
        return compute()
    except (Misuse, WireError, ShapeError, DTypeError) as error:
        raise Misuse(f"line {number}: {one_line(error)}") from None
    except RemoteError:
        raise
    except Exception as error:
        raise LabnetError(f"line {number}: {type(error).__name__}: {one_line(error)}") from error


def _written(result: Any) -> str:
    """Format a tensor in its readable form, and several tensors as JSON of these."""
    if isinstance(result, dict):
        return json.dumps({name: io.format(tensor) for name, tensor in result.items()})
    if isinstance(result, list | tuple):
        return json.dumps([io.format(tensor) for tensor in result])
    return io.format(result)
