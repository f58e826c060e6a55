"""What a request gives to the parameter of a user's function, by the content type and the annotation."""

import inspect
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

from labnet import wire
from labnet.errors import DTypeError, LabnetError, ShapeError, WireError
from labnet.network.server.routing import Failure, Request
from labnet.tensor import Tensor

_TEXT = wire.kind_of(wire.TEXT)
#: Content types that a function accepts.
ACCEPTED = (*wire.MESSAGES, wire.FORM, wire.MULTIPART, wire.BYTES, _TEXT)
#: Content types without types: numbers are texts in them.
_UNTYPED = (wire.FORM, wire.MULTIPART, _TEXT)
_ANYTHING = (inspect.Parameter.empty, Any, object)
_ARRAYS = (Tensor, np.ndarray)


class _Unchecked(Exception):
    """The annotation is of a type that labnet does not know."""


@dataclass(frozen=True)
class Parameter:
    """A parameter that is given what was sent.

    Attributes
    ----------
    annotation : type or other annotation
        The type that what was sent is converted to; `inspect.Parameter.empty` for any.
    """

    name: str
    annotation: Any = inspect.Parameter.empty

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> "Parameter":
        """Read a parameter of a signature; an annotation that labnet cannot check counts as none."""
        annotation = parameter.annotation
        if any(annotation is anything for anything in _ANYTHING) or not _is_checked(annotation):
            annotation = inspect.Parameter.empty
        return cls(parameter.name, annotation)

    def values(self, request: Request) -> tuple[Any, ...]:
        """Return what was sent as a tuple of one value; an empty tuple if a message has no tensor.

        Raises
        ------
        WireError
            If the body does not fit its content type.
        Failure
            If it does not fit the annotation.
        """
        kind = request.content_type
        if kind in (wire.NATIVE, wire.NPY):
            value = wire.decode_message(kind, request.body).value
            if value is None:
                return ()
        elif kind == wire.JSON:
            return (self._of_json(request),)
        else:
            value = _DECODERS[kind](request)
        return (self._converted(value, request),)

    def _of_json(self, request: Request) -> Any:
        wants_tensor = self.annotation is Tensor
        if self.annotation is not inspect.Parameter.empty and not wants_tensor:
            return self._converted(wire.decode_data(request.body), request)
        start = bytes(request.body[:64]).lstrip()
        value = wire.decode_data(request.body, arrays=wants_tensor or start.startswith(b"["))
        if wants_tensor or not isinstance(value, dict | str | None):
            try:
                with np.errstate(over="raise"):
                    return Tensor(value)
            except FloatingPointError as error:
                raise WireError(f"the JSON body is not a tensor: {error}") from None
            except (ShapeError, DTypeError) as error:
                if wants_tensor:
                    raise self._mismatch(value, request, str(error)) from None
        return value

    def _converted(self, value: Any, request: Request) -> Any:
        """Convert a value to the annotated type."""
        annotation = self.annotation
        if annotation is inspect.Parameter.empty or (annotation is Tensor and isinstance(value, Tensor)):
            return value
        is_text = isinstance(value, str) and request.content_type != wire.JSON
        if annotation is bytes and not isinstance(value, bytes):  # msgspec would read the text as Base64
            raise self._mismatch(value, request)
        strict = request.content_type not in _UNTYPED
        try:
            return msgspec.convert(value, annotation, strict=strict, dec_hook=_made)
        except _Unchecked:
            return value
        except msgspec.ValidationError as error:
            if request.content_type in (wire.NATIVE, wire.NPY) and (plain := _plain(value)) is not value:
                return self._as_lists(plain, value, request)
            raise self._mismatch(value, request, "" if is_text else str(error)) from None

    def _as_lists(self, plain: Any, value: Any, request: Request) -> Any:
        """Convert tensors that were sent where lists or numbers are expected."""
        try:
            return msgspec.convert(plain, self.annotation, dec_hook=_made)
        except msgspec.ValidationError as error:
            raise self._mismatch(value, request, str(error)) from None

    def _mismatch(self, value: Any, request: Request, detail: str = "") -> Failure:
        expected = inspect.formatannotation(self.annotation).replace("labnet.tensor.Tensor", "labnet.Tensor")
        came = f"{_described(value)} as {request.content_type}"
        reason = f": {detail[0].lower()}{detail[1:]}" if detail else ""
        text = f"{request.path}: parameter {self.name!r} expects {expected}, got {came}{reason}"
        return Failure(422, "BadRequest", text)


#: The parameter of a function without a readable signature.
ANY_VALUE = Parameter("value")


def _is_checked(annotation: Any) -> bool:
    """Return whether values can be converted to an annotation."""
    if isinstance(annotation, str):
        return False
    try:
        msgspec.convert(None, annotation, dec_hook=_made)
    except msgspec.ValidationError:
        return True
    except Exception:  # msgspec cannot read it
        return False
    return True


def _made(kind: Any, value: Any) -> Any:
    """Make a tensor or an array for msgspec, which has other types as elements only."""
    kind = typing.get_origin(kind) or kind
    if kind not in _ARRAYS:
        raise _Unchecked
    if not isinstance(value, list | int | float | Tensor | np.ndarray):
        raise DTypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    try:
        with np.errstate(over="raise"):
            tensor = Tensor(value)
    except (LabnetError, FloatingPointError) as error:
        raise ValueError(str(error)) from None
    return tensor if kind is Tensor else tensor.numpy()


def _plain(value: Any) -> Any:
    """Return tensors as lists or numbers."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _described(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a tensor of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    names: Mapping[type, str] = {dict: "an object", list: "a list", str: "the text", types.NoneType: "null"}
    shown = "" if value is None else f" {reprlib.repr(value):.60}"
    return f"{names.get(type(value), 'the value')}{shown}"


def _text(request: Request) -> str:
    return _decoded(bytes(request.body))


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"a text of the body is not UTF-8: {error}") from None


def _fields(request: Request) -> dict[str, Any]:
    """Return the fields of a form by name: texts, the bytes of files, and lists of these for repeated names."""
    texts: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    parameters = request.headers["Content-Type"].partition(";")[2]
    try:
        parse_body_arguments(f"{request.content_type};{parameters}", bytes(request.body), texts, files)
    except HTTPInputError as error:
        raise WireError(f"the body is not {request.content_type}: {error}") from None
    fields: dict[str, list[Any]] = {}
    for name, values in texts.items():
        # Tornado reads the names of the one kind of form as UTF-8, of the other as Latin-1
        known = name if request.content_type == wire.MULTIPART else _decoded(name.encode("latin-1"))
        fields.setdefault(known, []).extend(map(_decoded, values))
    for name, sent in files.items():
        fields.setdefault(name, []).extend(file["body"] for file in sent)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


_DECODERS = {
    wire.FORM: _fields,
    wire.MULTIPART: _fields,
    wire.BYTES: lambda request: bytes(request.body),
    _TEXT: _text,
}
