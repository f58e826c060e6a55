"""The processor that code is compiled for: this machine's, or the one that ``NUMBA_CPU_NAME`` names."""

import functools
import os

import llvmlite.binding as llvm  # type: ignore[import-untyped]

_PROBE = "define <16 x float> @f(<16 x float> %x) {\n%y = fadd <16 x float> %x, %x\nret <16 x float> %y\n}"


def chosen() -> tuple[str, str]:
    """Return the name of the processor, and its features beyond those of the name."""
    name = os.environ.get("NUMBA_CPU_NAME")
    own = "" if name else _features()
    return name or llvm.get_host_cpu_name(), os.environ.get("NUMBA_CPU_FEATURES", own)


@functools.cache
def _features() -> str:
    """Return the features of this machine."""
    found: str = llvm.get_host_cpu_features().flatten()
    return found


def registers() -> tuple[int, int]:
    """Return the number of vector registers, and of float32 lanes in each."""
    return _registers(*chosen())


@functools.cache
def _registers(name: str, features: str) -> tuple[int, int]:
    """Determine the registers from the code that LLVM generates for a vector addition."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    text = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in text:
        return 32, 16
    if "ymm" in text:
        return 16, 8
    return (32 if triple.startswith(("aarch64", "arm64")) else 16), 4


def has(feature: str) -> bool:
    """Return whether this machine has a feature by LLVM's name for it, such as ``avx2``."""
    return bool(llvm.get_host_cpu_features().get(feature))
