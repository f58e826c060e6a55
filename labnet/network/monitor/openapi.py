"""``/openapi.json``: an OpenAPI 3.1 description, generated from the table of routes."""

from collections.abc import Mapping
from typing import Any

from labnet import wire
from labnet.network.protocol import inference_bodies
from labnet.network.protocol.headers import CALL, TOKEN_HEADER
from labnet.network.server.routing import Route
from labnet.version import __version__

_ERRORS = {
    "400": "the body is malformed, or speaks another version of the protocol",
    "401": "the token is missing or wrong",
    "403": "Host or Origin is not trusted where no token was given",
    "404": "no such route",
    "405": "the route does not answer this method",
    "409": "the key of the request is older than what is remembered of its client",
    "410": "the graph of the call is not kept",
    "412": "the weights have changed by more updates than the server allows",
    "413": "the body is over the server's limit",
    "415": "the content type or a Content-Encoding is not accepted",
    "422": "the tensors do not fit the model, or the body does not fit the annotation of the function",
    "429": "the server is busy",
    "500": "the served function raised",
    "503": "the server is stopping",
}
_HEADERS = {"/optimize": (CALL, True), "/infer": (inference_bodies.JSON_LENGTH, False)}


def document(name: str, routes: Mapping[str, Route], *, url: str, readable: bool) -> dict[str, Any]:
    """Describe the routes of a server.

    Parameters
    ----------
    name : str
        Name of the server.
    routes : mapping of str to Route
        Its table.
    url : str
        Its address.
    readable : bool
        Whether read-only routes need no token.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": __version__},
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "paths": {
            _escaped(path): {method.lower(): _operation(path, method, route, readable) for method in route.methods}
            for path, route in sorted(routes.items())
        },
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": TOKEN_HEADER}},
            "schemas": {"Error": _error_schema("error", "message"), "InferenceError": _error_schema("error")},
        },
    }


def _escaped(path: str) -> str:
    """Escape the braces in a path, which OpenAPI reads as parameters."""
    return path.replace("{", "%7B").replace("}", "%7D")


def _error_schema(*required: str) -> dict[str, Any]:
    known = {"error": {"type": "string"}, "message": {"type": "string"}, "server": {"type": "string"}}
    properties: dict[str, Any] = dict(known, call={"type": ["string", "null"]}) if len(required) > 1 else {}
    return {"type": "object", "required": list(required), "properties": properties or {"error": known["error"]}}


def _operation(path: str, method: str, route: Route, readable: bool) -> dict[str, Any]:
    schema = "InferenceError" if inference_bodies.is_below(path) else "Error"
    error = {wire.JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}:{path}",
        "summary": route.summary or path.strip("/"),
        "responses": {
            "200": {"description": "the result", "content": {kind: {} for kind in route.replies}},
            **{status: {"description": text, "content": error} for status, text in _ERRORS.items()},
        },
    }
    if readable and route.readable:
        operation["security"] = [{}, {"token": []}]
    if route.sealed:
        operation["security"] = []
    if method == "POST":
        operation["requestBody"] = {"required": True, "content": {kind: {} for kind in route.content_types if kind}}
        operation["parameters"] = [
            {"name": name, "in": "header", "required": required, "schema": {"type": "string"}}
            for ending, (name, required) in _HEADERS.items()
            if path.endswith(ending)
        ]
    return operation
