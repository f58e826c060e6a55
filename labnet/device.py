"""Devices: which ones exist, and which one an array lives on.

Knows nothing about tensors or gradients.
"""

from labnet.errors import DeviceError

CPU = "cpu"


def check_device(device: str | None) -> str:
    """Return the name of an available device; ``None`` means the CPU.

    Raises
    ------
    DeviceError
        If the device does not exist here.

    Examples
    --------
    >>> check_device(None)
    'cpu'
    """
    if device is None or device == CPU:
        return CPU
    raise DeviceError(f"device {device!r} is not available: expected {CPU!r}")
