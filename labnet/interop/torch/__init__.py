"""torch and labnet together: modules of torch are served, servers are called from torch, and weights go both ways."""

from labnet.interop.torch.conversion import from_torch, state_dict, to_torch
from labnet.interop.torch.remote import Parallel, RemoteModule, remote_module

__all__ = ["Parallel", "RemoteModule", "from_torch", "remote_module", "state_dict", "to_torch"]
