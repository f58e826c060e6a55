"""Devices: which ones there are, and the one that new tensors are made on.

Knows nothing about tensors or gradients, nor whether this machine has a GPU: that shows when one is used.
"""

from labnet.errors import DeviceError

CPU, CUDA = "cpu", "cuda"
#: Names of devices, and what they stand for.
_NAMES = {CPU: CPU, CUDA: CUDA, "cuda:0": CUDA}
_process_default = [CPU]


def set_device(device: str) -> None:
    """Choose the device that tensors are made on where none is named, in the whole process.

    Parameters
    ----------
    device : str
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    DeviceError
        If there is no such device.

    Examples
    --------
    >>> set_device("cpu")
    >>> get_device()
    'cpu'
    """
    _process_default[0] = check_device(device)


def get_device() -> str:
    """Return the device that tensors are made on where none is named.

    Examples
    --------
    >>> get_device()
    'cpu'
    """
    return _process_default[0]


def check_device(device: str | None) -> str:
    """Return the name of a device; ``None`` means the one of `set_device`.

    Raises
    ------
    DeviceError
        If there is no device of that name.

    Examples
    --------
    >>> check_device(None)
    'cpu'
    """
    if device is None:
        return _process_default[0]
    try:
        return _NAMES[device]
    except (KeyError, TypeError):
        raise DeviceError(f"device {device!r} is not available: expected {CPU!r} or {CUDA!r}") from None
