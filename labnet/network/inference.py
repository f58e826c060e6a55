"""The Open Inference Protocol, version 2 (KServe, Triton), for a served model: the routes below ``/v2``.

Inference runs in evaluation mode and keeps no graph. Errors are ``{"error": "..."}``, as the protocol defines.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from labnet import json_codec, wire
from labnet.network.model.served import ServedModel
from labnet.network.protocol import inference_bodies
from labnet.network.protocol.headers import VERSION
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.network.threads import run_apart
from labnet.nn import Module
from labnet.tensor import Tensor, wrap
from labnet.version import __version__

#: The only version of a model; the version of its weights is in the header Labnet-Version.
MODEL_VERSION = "1"
#: Names of a single output tensor, and of the input of a model without input names.
OUTPUT = "output"
INPUT = "input"


def routes(name: str, served: ServedModel | None) -> dict[str, Route]:
    """Return the routes of a server, with those of its model if it has one."""
    table = {
        inference_bodies.ROOT: _constant(
            {"name": "labnet", "version": __version__, "extensions": ["binary_tensor_data"]},
            "Name, version and extensions of the server, as the Open Inference Protocol has them",
        ),
        f"{inference_bodies.ROOT}/health/live": _constant({"live": True}, "Whether the server runs"),
        f"{inference_bodies.ROOT}/health/ready": _constant({"ready": True}, "Whether the server takes requests"),
    }
    if served is None:
        return table
    model = Model(name, served)
    for path in (
        f"{inference_bodies.ROOT}/models/{name}",
        f"{inference_bodies.ROOT}/models/{name}/versions/{MODEL_VERSION}",
    ):
        table[path] = Route(
            ("GET",),
            model.metadata,
            readable=True,
            counted=False,
            summary="Inputs and outputs of the model",
            replies=(wire.JSON,),
        )
        table[path + "/ready"] = _constant({"name": name, "ready": True}, "Whether the model takes requests")
        table[path + "/infer"] = Route(
            ("POST",),
            model.infer,
            content_types=(wire.JSON, wire.BYTES, ""),
            label="v2/infer",
            replies=(wire.JSON, wire.BYTES),
            summary="Carry out a forward in evaluation mode, by the Open Inference Protocol",
        )
    return table


def _constant(document: dict[str, Any], summary: str) -> Route:
    async def answer(request: Request) -> Reply:
        return Reply(wire.encode_json(document))

    return Route(("GET",), answer, readable=True, counted=False, summary=summary, replies=(wire.JSON,))


class Model:
    """A served model in terms of the protocol: inputs and outputs with names, datatypes and shapes.

    Parameters
    ----------
    name : str
        Name in the path.
    served : ServedModel
        The served model.
    """

    def __init__(self, name: str, served: ServedModel):
        self._name = name
        self._served = served
        self._signature = _signature(served.model)
        self._names = _input_names(self._signature)
        datatype = _datatype(served.model)
        self._inputs = [_described(given, datatype, 1) for given in self._names or [INPUT]]
        self._outputs = [_described(OUTPUT, datatype, 1)]

    async def metadata(self, request: Request) -> Reply:
        """Return names, datatypes and shapes of the last call; before the first, a guess from the signature."""
        document = {
            "name": self._name,
            "versions": [MODEL_VERSION],
            "platform": "labnet",
            "inputs": self._inputs,
            "outputs": self._outputs,
        }
        return Reply(wire.encode_json(document))

    async def infer(self, request: Request) -> Reply:
        """Answer an inference request."""
        length = request.headers.get(inference_bodies.JSON_LENGTH)
        is_long = len(request.body) > json_codec.LARGE and (length is None or len(length) > 5)  # of the JSON
        asked = await run_apart(lambda: inference_bodies.decode(request.body, length), is_long=is_long)
        inputs = {name: wrap(array) for name, array in asked.inputs.items()}
        version, message = await self._served.evaluate(inputs, named=self._by_name(inputs))
        outputs = message.tensors if message.named else {OUTPUT: message.tensors[wire.SINGLE]}
        self._inputs, self._outputs = _describe(inputs), _describe(outputs)
        wanted = dict.fromkeys(outputs, asked.binary) if asked.outputs is None else asked.outputs
        if unknown := wanted.keys() - outputs.keys():
            raise Failure(400, "BadRequest", f"no output {min(unknown)!r:.80}: this model has {sorted(outputs)}")
        head = {"model_name": self._name, "model_version": MODEL_VERSION}
        if asked.id is not None:
            head["id"] = asked.id
        chosen = {name: (outputs[name].numpy(), binary) for name, binary in wanted.items()}
        is_long = wire.is_long([array for array, binary in chosen.values() if not binary])
        body, json_length = await run_apart(lambda: inference_bodies.encode(head, chosen), is_long=is_long)
        headers = {VERSION: str(version)}
        return Reply(
            body, headers if json_length is None else {**headers, inference_bodies.JSON_LENGTH: str(json_length)}
        )

    def _by_name(self, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether inputs are passed by name: all except a single one with a name unknown to the model.

        Raises
        ------
        Failure
            If the model cannot be called with these inputs.
        """
        if self._signature is None:
            return len(inputs) > 1
        names = self._names or ()
        by_name = inputs.keys() <= set(names) or (len(inputs) > 1 and bool(names))
        problem = _mismatch(self._signature, inputs, by_name=by_name)
        if problem and not names and _mismatch(self._signature, inputs, by_name=not by_name) is None:
            return not by_name
        if problem:
            takes = list(names) if names else str(self._signature)
            raise Failure(400, "BadRequest", f"{problem}: inputs are {sorted(inputs)}, this model takes {takes}")
        return by_name


def _mismatch(signature: inspect.Signature, inputs: Mapping[str, Tensor], *, by_name: bool) -> str | None:
    """Return why a function cannot be called with these inputs; None if it can."""
    try:
        if by_name:
            signature.bind(**inputs)
        else:
            signature.bind(*inputs.values())
    except TypeError as error:
        return str(error)
    return None


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a model, or None if Python cannot determine it."""
    try:
        return inspect.signature(model.forward if isinstance(model, Module) else model)
    except (TypeError, ValueError):
        return None


def _input_names(signature: inspect.Signature | None) -> list[str] | None:
    """Return the names of a model's inputs, or None if its signature does not name them."""
    parameters = [] if signature is None else list(signature.parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    return [p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY] or None


def _datatype(model: Callable[..., Any]) -> str:
    parameters = list(model.parameters()) if isinstance(model, Module) else []
    return inference_bodies.DATATYPE_OF[parameters[0].dtype if parameters else np.dtype("float32")]


def _described(name: str, datatype: str, ndim: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1] * ndim}


def _describe(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [_described(name, inference_bodies.DATATYPE_OF[t.dtype], t.ndim) for name, t in tensors.items()]
