"""Micro-kernels of processors: how blocks of sums in registers are computed."""

from __future__ import annotations

from schedules.cpu.microkernels.base import Dtypes, MicroKernel
from targets.spec import TargetSpec


def kernels_for(
    dtypes: Dtypes, spec: TargetSpec, *, constant: bool = True, narrow: bool = True
) -> tuple[MicroKernel, ...]:
    """The kernels for a product on a target, best first.

    Args:
        dtypes: Of activations, weights and sums.
        spec: The target.
        constant: Whether the weights are known when the kernel is built.
        narrow: Whether no weight of 8 bits is -128.
    """
    from schedules.cpu.microkernels.neon_dot import DotByElement
    from schedules.cpu.microkernels.neon_float import FloatByElement
    from schedules.cpu.microkernels.neon_half import DTYPES, HalfByElement
    from schedules.cpu.microkernels.neon_matrix import MatrixBfloat, bytes_kernel
    from schedules.cpu.microkernels.neon_widening import WideningPairs

    if spec.machine == "armv7l":
        return _kernels32(dtypes, spec, constant=constant, narrow=narrow)
    if spec.machine != "aarch64":
        return ()
    found: list[MicroKernel] = []
    if dtypes == ("float32", "float32", "float32"):
        found.append(FloatByElement())
    if dtypes[0] in ("uint8", "int8") and dtypes[1:] == ("int8", "int32"):
        if spec.has("i8mm"):
            found.append(bytes_kernel(dtypes[0]))
        if spec.has("dotprod"):
            mixed = spec.has("i8mm")
            found.append(DotByElement(dtypes[0], constant=constant, mixed=mixed))
        else:
            if narrow:
                found.append(WideningPairs(dtypes[0], constant=constant, narrow=True))
            found.append(WideningPairs(dtypes[0], constant=constant, narrow=False))
    if dtypes == DTYPES and spec.has("fullfp16"):
        found.append(HalfByElement())
    if dtypes == ("bfloat16", "bfloat16", "float32") and spec.has("bf16"):
        found.append(MatrixBfloat())
    return tuple(found)


def _kernels32(
    dtypes: Dtypes, spec: TargetSpec, *, constant: bool, narrow: bool
) -> tuple[MicroKernel, ...]:
    """The kernels of 32-bit ARM, see `kernels_for`."""
    from schedules.cpu.microkernels.neon32 import FloatByCopy, Widening32

    if not spec.has("neon"):
        return ()
    if dtypes == ("float32", "float32", "float32") and spec.has("vfp4"):
        return (FloatByCopy(),)
    if dtypes[0] in ("uint8", "int8") and dtypes[1:] == ("int8", "int32"):
        kinds = (True, False) if narrow else (False,)
        return tuple(Widening32(dtypes[0], constant=constant, narrow=kind) for kind in kinds)
    return ()


def kernel_named(
    name: str, dtypes: Dtypes, spec: TargetSpec, *, constant: bool = True, narrow: bool = True
) -> MicroKernel:
    """The kernel with this name, see `kernels_for`.

    Raises:
        ValueError: The target has none for these dtypes.
    """
    for kernel in kernels_for(dtypes, spec, constant=constant, narrow=narrow):
        if kernel.name == name:
            return kernel
    raise ValueError(f"{spec.name} has no kernel {name!r} for {' and '.join(dtypes)}")


__all__ = ["MicroKernel", "kernel_named", "kernels_for"]
