"""Every exception that labnet raises on purpose.

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
        ├── Unreachable                 nobody answered there
        ├── RemoteTimeout(TimeoutError) no answer in time
        ├── ProtocolMismatch            the answer is not labnet's, or of another version
        ├── RouteNotFound               no such route, or not with this method
        ├── Unauthorized                token missing or wrong, or origin refused
        ├── TooLarge                    body over the server's limit
        ├── BadRequest                  the server refused the message itself
        │   └── Corrupted               bytes of a body were changed on their way
        ├── BadGradient                 a gradient with NaN, infinity or the wrong shape
        ├── GraphExpired                the graph of this call, or the reply to it, is no longer kept
        ├── CallExpired                 a call came so late that nobody knows what became of it
        ├── StaleGradient               a gradient of weights that have changed since
        ├── PartialUpdate               some servers of one backward applied their part, others did not
        ├── Overloaded                  the server is busy or stopping
        │   └── StorageUnavailable      the server cannot write to its store
        └── RemoteFailure               the model or handler raised
            ├── RemoteShapeError        (also a ShapeError)
            └── RemoteDTypeError        (also a DTypeError)

This module knows names only: no tensors, no HTTP.
"""


class LabnetError(Exception):
    """Base class of every error raised by labnet."""


class ShapeError(LabnetError, ValueError):
    """Shapes do not fit together; the message holds both."""


class AxisError(ShapeError, IndexError):
    """A dimension was named that a tensor does not have."""


class DTypeError(LabnetError, TypeError):
    """Data types do not fit together; the message holds both."""


class DeviceError(LabnetError):
    """A device is not available, or tensors of two devices were mixed."""


class GradientError(LabnetError):
    """A gradient was asked for where there is none, or used before it was there."""


class TraceError(LabnetError):
    """Something in a function cannot be compiled; the message names the line and the way out."""


class WireError(LabnetError, ValueError):
    """Bytes that are not a well-formed message."""


class ServeError(LabnetError, ValueError):
    """What was to be served cannot be served this way."""


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
        Id of the call, where the server gave one.
    applied : "no", "yes", "unknown" or None
        Whether the call took effect at the server; None where that is not known to be at stake.
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
    """Nobody answered at this address."""


class RemoteTimeout(RemoteError, TimeoutError):
    """The server did not answer in time."""


class ProtocolMismatch(RemoteError):
    """What answered does not speak labnet's protocol, or another version of it."""


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
    """A call came so late that the server no longer knows whether it was carried out before."""


class StaleGradient(RemoteError):
    """The gradient belongs to weights that have changed since, by more than is allowed; nothing has changed."""


class PartialUpdate(RemoteError):
    """Some servers of one backward applied their part, others did not; call backward again to complete it.

    Attributes
    ----------
    servers : dict of str to str
        By the URL of each server, whether its part was applied: "yes", "no" or "unknown".
    """

    def __init__(self, message: str, *, servers: dict[str, str] | None = None, **details: str | None):
        super().__init__(message, **details)  # type: ignore[arg-type]  # the same keywords
        self.servers = dict(servers or {})


class Overloaded(RemoteError):
    """The server is busy or stopping; try again later."""


class StorageUnavailable(Overloaded):
    """The server cannot write what is to be kept to its store; nothing was changed."""


class RemoteFailure(RemoteError):
    """The served function raised."""


class RemoteShapeError(RemoteFailure, ShapeError):
    """A shape error inside the served function."""


class RemoteDTypeError(RemoteFailure, DTypeError):
    """A dtype error inside the served function."""
