"""Which dot-product instruction serves which dtypes on which target."""

from __future__ import annotations

from schedules.cpu.intrinsics import bf16, neon, neon32, vnni
from schedules.cpu.intrinsics.base import DotIntrinsic
from schedules.encodings import Packing
from targets.spec import TargetSpec

BF16 = ("bfloat16", "bfloat16", "float32")
INT8 = (("uint8", "int8", "int32"), ("int8", "int8", "int32"))


def dot_group(dtypes: tuple[str, str, str]) -> int:
    """Products that are added up in one lane at a time: how many weights lie side by side."""
    if dtypes == BF16:
        return 2
    return 4 if dtypes in INT8 else 1


def dot_lanes(dtypes: tuple[str, str, str], spec: TargetSpec) -> tuple[int, ...] | None:
    """Numbers of accumulators that one dot product may have; None where any will do."""
    if dot_group(dtypes) == 1:
        return None
    full = spec.vector_lanes(dtypes[2])
    return tuple(lanes for lanes in (16, 8, 4) if lanes <= full)


def dot_intrinsic(
    dtypes: tuple[str, str, str], spec: TargetSpec, lanes: int, packing: Packing | None = None
) -> DotIntrinsic:
    """The registered intrinsic for one vector of accumulators.

    Args:
        dtypes: Of activations, weights and sums.
        spec: The target.
        lanes: Of the vector.
        packing: How weights of fewer bits lie in bytes; None where they have whole ones.

    Raises:
        ValueError: These dtypes have none.
    """
    if dtypes == BF16 and packing is None:
        return bf16.dot(spec, lanes)
    if dtypes in INT8 and spec.family == "arm":
        if lanes != neon.LANES:
            raise ValueError(f"NEON has no dot product of {lanes} lanes")
        if spec.machine == "aarch64":
            return neon.dot(spec, dtypes[0], packing)
        return neon32.dot(dtypes[0], packing)
    if dtypes in INT8:
        return vnni.dot(spec, lanes, dtypes[0], packing)
    raise ValueError(f"no dot product of {' and '.join(dtypes[:2])} into {dtypes[2]}")
