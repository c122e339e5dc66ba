"""Which features of an instruction set matter to a workload: they decide what code can be made.

A float32 kernel is the same code with and without AMX or VNNI, so a record of it serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from schedules.workload import Workload
from targets.spec import TargetSpec
from targets.vta.config import vta_config

#: Of every arithmetic; the vectors' width is compared beside them.
_ALWAYS = frozenset(
    {"sse4.1", "avx", "avx2", "fma", "avx512f", "avx512dq", "avx512vl", "neon", "sve", "sve2"}
)
_INT8 = frozenset(
    {"ssse3", "avx512bw", "avx512vnni", "avxvnni", "avxvnniint8", "amx-tile",
     "amx-int8", "dotprod", "i8mm"}
)  # fmt: skip
#: Further ones of each dtype.
_OF_DTYPE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "float32": frozenset(),
        "float64": frozenset(),
        "int32": frozenset(),
        "bfloat16": frozenset({"avx512bw", "avx512bf16", "amx-tile", "amx-bf16", "bf16"}),
        "float16": frozenset(
            {"avx512bw", "f16c", "avx512fp16", "amx-tile", "amx-fp16", "fullfp16"}
        ),
        "int8": _INT8,
        "uint8": _INT8,
    }
)


def relevant_features(workload: Workload, spec: TargetSpec) -> frozenset[str]:
    """The features of `spec` that matter to `workload`; all of them for a dtype not known here.

    A VTA's are its widths and sizes.
    """
    if spec.family == "vta":
        return frozenset(f"{name}={value}" for name, value in vta_config(spec).shape().items())
    wanted: frozenset[str] = _ALWAYS
    for dtype in workload.dtypes:
        if dtype not in _OF_DTYPE:
            return spec.features
        wanted |= _OF_DTYPE[dtype]
    return spec.features & wanted


__all__ = ["relevant_features"]
