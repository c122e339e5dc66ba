"""Micro-kernels of processors: how blocks of sums in registers are computed."""

from __future__ import annotations

from schedules.cpu.microkernels.base import Dtypes, MicroKernel
from targets.spec import TargetSpec


def kernels_for(dtypes: Dtypes, spec: TargetSpec) -> tuple[MicroKernel, ...]:
    """The kernels for activations, weights and sums of these dtypes on a target, best first."""
    from schedules.cpu.microkernels.neon_float import FloatByElement

    if spec.machine != "aarch64":
        return ()
    found: list[MicroKernel] = []
    if dtypes == ("float32", "float32", "float32"):
        found.append(FloatByElement())
    return tuple(found)


def kernel_named(name: str, dtypes: Dtypes, spec: TargetSpec) -> MicroKernel:
    """The kernel with this name.

    Raises:
        ValueError: The target has none for these dtypes.
    """
    for kernel in kernels_for(dtypes, spec):
        if kernel.name == name:
            return kernel
    raise ValueError(f"{spec.name} has no kernel {name!r} for {' and '.join(dtypes)}")


__all__ = ["MicroKernel", "kernel_named", "kernels_for"]
