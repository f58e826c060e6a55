"""The exceptions of labnet.

The tree, most general first::

    LabnetError
    ├── ShapeError(ValueError)          shapes that do not fit
    │   └── AxisError(IndexError)       a dimension that does not exist
    ├── DTypeError(TypeError)           dtypes that do not fit
    ├── DeviceError                     a device that is missing or mixed
    ├── GradientError                   a backward that cannot be right
    ├── TraceError                      what `ln.jit` cannot compile
    ├── WireError(ValueError)           bytes that are not a message
    ├── ServeError(ValueError)          a server that cannot be set up this way
    ├── StoreError                      a store that is in use, damaged, or of another model
    └── RemoteError(ConnectionError)    a call to a server did not succeed
        ├── Unreachable                 no server answered at the address
        ├── RemoteTimeout(TimeoutError) no answer in time
        ├── ProtocolMismatch            the answer is not labnet's, or of another version
        ├── RouteNotFound               no such route, or not with this method
        ├── Unauthorized                token missing or wrong, or origin refused
        ├── TooLarge                    body over the server's limit
        ├── BadRequest                  the server refused the message itself
        │   └── Corrupted               bytes of a body were changed on their way
        ├── BadGradient                 a gradient with NaN, infinity or the wrong shape
        ├── GraphExpired                the graph of this call, or the reply to it, is no longer kept
        ├── CallExpired                 a call came too late, and its outcome is unknown
        ├── StaleGradient               a gradient of weights that have changed since
        ├── PartialUpdate               some servers of one backward applied their part, others did not
        ├── Overloaded                  the server is busy or stopping
        │   └── StorageUnavailable      the server cannot write to its store
        └── RemoteFailure               the model or handler raised
            ├── RemoteShapeError        (also a ShapeError)
            ├── RemoteDTypeError        (also a DTypeError)
            └── RemoteGradientError     (also a GradientError)

This module is independent of tensors and HTTP.
"""


class LabnetError(Exception):
    """Base class of every error raised by labnet."""


class ShapeError(LabnetError, ValueError):
    """Shapes do not match; the message contains both."""


class AxisError(ShapeError, IndexError):
    """A tensor does not have the named dimension."""


class DTypeError(LabnetError, TypeError):
    """Data types do not match; the message contains both."""


class DeviceError(LabnetError):
    """A device is not available, or tensors of two devices were mixed."""


class GradientError(LabnetError):
    """A gradient does not exist, or was used before it was awaited."""


class TraceError(LabnetError):
    """A function cannot be compiled; the message names the line and a remedy."""


class WireError(LabnetError, ValueError):
    """Bytes that are not a well-formed message."""


class ServeError(LabnetError, ValueError):
    """A server cannot be set up this way."""


class StoreError(LabnetError):
    """A store that is in use, damaged, or of another model; nothing in it was changed."""


class RemoteError(LabnetError, ConnectionError):
    """A call to a server did not succeed.

    Attributes
    ----------
    server : str
        URL of the server, without a token.
    route : str
        Route that was called, such as ``/forward``.
    call : str or None
        Id of the call, if the server reported one.
    applied : "no", "yes", "unknown" or None
        Whether the call took effect on the server; None for a call without an effect.
    """

    def __init__(
        self, message: str, *, server: str = "", route: str = "", call: str | None = None, applied: str | None = None
    ):
        super().__init__(message)
        self.server = server
        self.route = route
        self.call = call
        self.applied = applied


class Unreachable(RemoteError):
    """No server answered at the address."""


class ServerStopped(Unreachable):
    """The server was stopped on purpose, so waiting for it is of no use."""


class RemoteTimeout(RemoteError, TimeoutError):
    """The server did not answer in time."""


class ProtocolMismatch(RemoteError):
    """The answer is not labnet's protocol, or another version of it."""


class RouteNotFound(RemoteError):
    """The server has no such route, or not with this method."""


class Unauthorized(RemoteError):
    """The token is missing or wrong, or the origin is not allowed."""


class TooLarge(RemoteError):
    """The body is over the server's limit."""


class BadRequest(RemoteError):
    """The server could not read the message."""


class Corrupted(BadRequest):
    """The body does not match its checksum; it is sent again."""


class BadGradient(RemoteError):
    """A gradient with NaN, infinity or the wrong shape; no weight has changed."""


class GraphExpired(RemoteError):
    """The server no longer keeps the graph of this call, or the reply to it."""


class CallExpired(RemoteError):
    """A call came so late that the server no longer knows whether it was carried out."""


class StaleGradient(RemoteError):
    """The weights have changed too often since the forward of this gradient; nothing was changed."""


class PartialUpdate(RemoteError):
    """Some servers of one backward applied their part, others did not; call backward again to complete it.

    Attributes
    ----------
    servers : dict of str to str
        Whether each server's part was applied, by URL: "yes", "no" or "unknown".
    """

    def __init__(self, message: str, *, servers: dict[str, str] | None = None, **details: str | None):
        super().__init__(message, **details)  # type: ignore[arg-type]  # the same keywords
        self.servers = dict(servers or {})


class Overloaded(RemoteError):
    """The server is busy or stopping; try again later."""


class StorageUnavailable(Overloaded):
    """The server cannot write to its store; nothing was changed."""


class RemoteFailure(RemoteError):
    """The served function raised."""


class RemoteShapeError(RemoteFailure, ShapeError):
    """A shape error inside the served function."""


class RemoteDTypeError(RemoteFailure, DTypeError):
    """A dtype error inside the served function."""


class RemoteGradientError(RemoteFailure, GradientError):
    """A gradient that the served model cannot give; no weight has changed."""
