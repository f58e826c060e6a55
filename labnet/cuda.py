"""The GPU of this process, under torch's names."""

from labnet.device import CUDA
from labnet.errors import DeviceError
from labnet.ops.core.creation import manual_seed as manual_seed


def is_available() -> bool:
    """Return whether ``device="cuda"`` works here.

    Examples
    --------
    >>> import labnet as ln
    >>> device = "cuda" if ln.cuda.is_available() else "cpu"
    """
    from labnet.kernels.cuda.driver.gpu import current_gpu

    try:
        current_gpu()
    except DeviceError:
        return False
    return True


def device_count() -> int:
    """Return the number of GPUs that labnet uses: one or none."""
    return int(is_available())


def current_device() -> str:
    """Return the name of the GPU as a device."""
    return CUDA


def synchronize() -> None:
    """Wait until the GPU has finished its work.

    Raises
    ------
    DeviceError
        If there is no GPU.
    """
    from labnet.kernels.cuda.driver.gpu import current_gpu

    current_gpu().synchronize()


manual_seed_all = manual_seed
