"""Devices: their names, and the default for new tensors.

This module is independent of tensors and gradients, and does not check whether this machine has a GPU.
"""

from labnet.errors import DeviceError

CPU, CUDA = "cpu", "cuda"
#: Names of devices and their descriptions.
_NAMES = {CPU: CPU, CUDA: CUDA, "cuda:0": CUDA}
_process_default = [CPU]


def set_device(device: str) -> None:
    """Set the default device for new tensors in the whole process.

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
    """Return the default device for new tensors.

    Examples
    --------
    >>> get_device()
    'cpu'
    """
    return _process_default[0]


def device(name: str = CPU, index: int = 0) -> str:
    """Return a device by its name, as torch writes it; a device is a string in labnet.

    Raises
    ------
    DeviceError
        If there is no device of that name.

    Examples
    --------
    >>> device("cuda:0")
    'cuda'
    """
    if index:
        raise DeviceError(f"device: expected index 0, since labnet uses one GPU, got {index}")
    return check_device(name)


def check_device(device: str | None) -> str:
    """Check and return the name of a device; ``None`` means the default device.

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
