"""JAX and labnet together: functions of JAX are served, and servers are called from JAX."""

from labnet.interop.jax.adapter import JaxAdapter
from labnet.interop.jax.remote import RemoteFunction, remote_function

__all__ = ["JaxAdapter", "RemoteFunction", "remote_function"]
