"""Legalizations of the integer operators on rows: kernels that nothing fuses with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from compiler.compress.operators import PREFIX, attributes_of
from compiler.lower.graph import operator_name
from schedules.cpu.compute import dynamic, integer_rows
from targets.spec import TargetSpec

#: TVM's fusion pattern of functions that stay alone.
OPAQUE = 8
#: Definitions, and whether they are told how many lanes a vector has.
COMPUTE: Mapping[str, tuple[Callable[..., Any], bool]] = {
    "exponentials": (integer_rows.exponentials, True),
    "row_factors": (integer_rows.row_factors, True),
    "row_scales": (dynamic.row_scales, True),
    "layer_norm": (integer_rows.layer_norm, True),
    # In float32 the number of partial sums is part of the definition.
    "sum_rows": (integer_rows.sum_rows, False),
}


def legalizations(spec: TargetSpec) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Relax operator name -> legalization."""

    def legalize(bb: Any, call: Any, _original: Any) -> Any:
        name = operator_name(call).removeprefix(PREFIX)
        function, takes_lanes = COMPUTE[name]
        options = {"lanes": spec.vector_lanes("int32")} if takes_lanes else {}
        return bb.call_te(
            partial(function, **options, **attributes_of(call)),
            *call.args,
            primfunc_name_hint=name,
            primfunc_attrs={"op_pattern": OPAQUE},
        )

    return {f"{PREFIX}{name}": legalize for name in COMPUTE}


__all__ = ["legalizations"]
