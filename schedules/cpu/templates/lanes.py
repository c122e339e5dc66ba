"""Convolutions and matrix products by micro-kernels that multiply with elements of loaded rows.

`schedules.cpu.microkernels` holds the kernels, `schedules.cpu.compute.lanes` the definitions,
`schedules.cpu.rules.microkernels` the schedule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import ceil, inf, prod
from typing import Any

from schedules.cpu.annotations import CHOICE
from schedules.cpu.compute import lanes
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.microkernels import kernel_named, kernels_for
from schedules.cpu.microkernels.base import Groups, MicroKernel
from schedules.cpu.templates.products import needs_padding, weights_are_larger
from schedules.cpu.tiling import RegisterTile
from schedules.space import Choice, Decision, Space
from schedules.workload import LEAST, Extent, Workload
from targets.spec import DTYPE_BYTES, TargetSpec

ALGORITHM = "lanes"
#: Tiles that a search may choose from, the analytic model's favourites.
MAX_TILES = 24
MAX_ROWS, MAX_VECTORS = 16, 8
#: Chunks of the reduction written out one after the other.
UNROLLS = (1, 2, 4)
#: Cycles of a block beside its products and its epilogue.
BLOCK_CYCLES = 6.0
#: Vector instructions on four sums of floats, of integers; what is loaded for four columns.
EPILOGUE_INSTRUCTIONS, COLUMN_LOADS = (4.0, 6.0), 2.0
#: Bytes of weights from the second cache in a cycle that arithmetic does not hide.
STREAM_BYTES = 32.0
#: Elements of a vector register. A line of a window is read as one run of memory where a position
#: has fewer channels.
VECTOR_ELEMENTS = {"float32": 4, "float16": 8, "bfloat16": 8, "uint8": 16, "int8": 16}
#: Rows that blocks are chosen for where their number is not known.
UNKNOWN_ROWS = 64
#: From so many panels on activations are shifted once, not by each of them.
SHIFT_ONCE = 4
#: Vector registers left to LLVM.
SPARE_REGISTERS = 1


class Lanes:
    """A block of sums in registers over the whole reduction, activations taken from lanes.

    Decisions: ``kernel`` (what multiplies), ``tile`` (as of the direct algorithm), ``unroll``,
    ``order`` of the loops over blocks, ``pad`` (activations padded once, or strip by strip),
    ``shift`` (unsigned activations made signed once, or by each block that loads them).
    """

    operators = frozenset({"conv2d", "dense", "batch_matmul"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({""})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`; empty where the target has no micro-kernel."""
        if not _fits(workload):
            return ()
        kernels = kernels_for(workload.dtypes, spec, **_weights(workload))
        return tuple(s for k in kernels if (s := _space(workload, k, spec)) is not None)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: the micro-kernel's cycles, and its epilogue's.

        Infinite for what would build the same kernel as another choice: padding by strips
        without strips, a reduction that does not fall into unrolled steps.
        """
        if choice.get("pad") == "strip" and choice["order"] != "strip":
            return inf
        kernel = _kernel(workload, choice, spec)
        reading = _reading(workload, kernel)
        if choice["unroll"] > 1 and reading.groups.chunks % choice["unroll"]:
            return inf
        return _cycles(workload, kernel, RegisterTile(*choice["tile"]), spec)

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        tile = RegisterTile(*choice["tile"])
        kernel = _kernel(workload, choice, spec)
        reading = _reading(workload, kernel)
        attrs: dict[str, Any] = {CHOICE: json.dumps(choice, sort_keys=True)}
        once = choice.get("shift", "once") == "once"
        a = workload.attributes
        if workload.operator == "dense":
            return lanes.matmul(
                data, weight, int(workload.weight[1]), tile, reading, attrs, once=once
            )
        if workload.operator == "batch_matmul":
            return lanes.batch_matmul(
                data, weight, tile, reading, attrs, transpose_rhs=bool(a["transpose_rhs"])
            )
        outputs, inner, kh, kw = (int(v) for v in workload.weight)
        return lanes.conv2d(
            data, weight, outputs, (kh, kw), geometry_of(workload), tile, reading, attrs,
            inner=inner, input_dilation=tuple(a.get("input_dilation", (1, 1))),
            out_size=(int(workload.output[1]), int(workload.output[2])),
            pad_value=a.get("pad_value", 0), once=once,
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        if workload.operator == "batch_matmul":
            return ((workload.weight, workload.dtypes[1]),)
        columns = RegisterTile(*choice["tile"]).columns
        kernel = _kernel(workload, choice, spec)
        reading = _reading(workload, kernel)
        last = (reading.groups.steps, columns * kernel.group)
        if workload.operator == "dense":
            shape = [ceil(int(workload.weight[1]) / columns), *last]
        else:
            outputs, _, kh, kw = (int(v) for v in workload.weight)
            groups = int(workload.attributes["groups"])
            panels = groups * ceil(outputs // groups / columns)
            shape = [panels, kh, 1 if reading.flat else kw, *last]
        if reading.shifted:
            shape = [shape[0], lanes.SUM_BYTES * columns + prod(shape[1:])]
        return ((tuple(shape), workload.dtypes[1]),)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`; the right side of ``batch_matmul`` stays as it is."""
        if workload.operator == "batch_matmul":
            return weight
        columns = RegisterTile(*choice["tile"]).columns
        kernel = _kernel(workload, choice, spec)
        reading = _reading(workload, kernel)
        groups = int(workload.attributes.get("groups", 1))
        if workload.operator == "dense":
            packed = lanes.pack_matrix(weight[0], columns, reading.groups)
        else:
            packed = lanes.pack_kernel(
                weight[0], columns, groups, reading.groups, flat=reading.flat
            )
        if not reading.shifted:
            return (packed,)
        if kernel.name == "smlal" and (weight[0] == -128).any():
            raise ValueError("the choice is for weights of at least -127")
        outputs_first = weight[0].T if workload.operator == "dense" else weight[0]
        return (lanes.with_start(packed, outputs_first, columns, groups),)


def bounded(workload: Workload, spec: TargetSpec, weight: Callable[[], Any]) -> Workload:
    """The workload with `LEAST`, where it takes other kernels because a weight is -128.

    Args:
        workload: A product, or a depthwise convolution.
        spec: The target.
        weight: Gives the weights (NumPy).
    """
    if workload.dtypes[1] != "int8" or workload.weight_encoding:
        return workload
    if workload.operator == "depthwise_conv2d":
        matters = spec.machine == "aarch64"
    else:
        kinds = (kernels_for(workload.dtypes, spec, narrow=narrow) for narrow in (True, False))
        few, many = ([kernel.name for kernel in kind] for kind in kinds)
        matters = few != many
    if not matters or not (weight() == -128).any():
        return workload
    return replace(workload, attributes={**workload.attributes, LEAST: -128})


def _space(workload: Workload, kernel: MicroKernel, spec: TargetSpec) -> Space | None:
    """The choices with one kernel."""
    tiles = _tiles(workload, kernel.name, spec)
    if not tiles:
        return None
    orders = ("columns", "strip", "rows") if workload.operator == "conv2d" else (
        "columns", "rows")  # fmt: skip
    decisions = [
        Decision("kernel", (kernel.name,)),
        Decision("tile", tiles),
        Decision("unroll", UNROLLS),
    ]
    default: Choice = {
        "algorithm": ALGORITHM, "kernel": kernel.name, "tile": tiles[0], "unroll": 1,
    }  # fmt: skip
    if workload.operator != "batch_matmul":
        decisions.append(Decision("order", orders))
        default["order"] = "columns" if weights_are_larger(workload) else orders[1]
    if workload.operator == "conv2d" and needs_padding(workload):
        decisions.append(Decision("pad", ("once", "strip")))
        default["pad"] = "once"
    elif _reading(workload, kernel).shifted:
        decisions.append(Decision("shift", ("once", "loaded")))
        panels = ceil(_known(workload.output[-1], 48) / RegisterTile(*tiles[0]).columns)
        default["shift"] = "once" if panels >= SHIFT_ONCE else "loaded"
    return Space(ALGORITHM, tuple(decisions), default)


def _weights(workload: Workload) -> dict[str, bool]:
    """What is known of the weights, as `kernels_for` takes it."""
    constant = workload.operator != "batch_matmul"
    return {"constant": constant, "narrow": constant and LEAST not in workload.attributes}


def _kernel(workload: Workload, choice: Choice, spec: TargetSpec) -> MicroKernel:
    return kernel_named(str(choice["kernel"]), workload.dtypes, spec, **_weights(workload))


def _fits(workload: Workload) -> bool:
    """Whether the extents that code is written out for are known."""
    if workload.operator == "conv2d":
        return all(isinstance(v, int) for v in (*workload.weight, *workload.output[1:]))
    if workload.operator == "batch_matmul":
        return workload.is_static
    return all(isinstance(v, int) for v in workload.weight)


def _reading(workload: Workload, kernel: MicroKernel) -> lanes.Reading:
    """How the reduction falls into steps of a kernel."""
    flat = False
    if workload.operator == "conv2d":
        size, kw = int(workload.weight[1]), int(workload.weight[3])
        a = workload.attributes
        plain = int(a["groups"]) == 1 and int(a["dilation"][1]) == 1
        width = VECTOR_ELEMENTS.get(workload.dtypes[0], 1)
        flat = plain and kw > 1 and size < width and size * kw >= kernel.group
        size = size * kw if flat else size
    else:
        size = int(workload.data[-1])
    groups = Groups(max(size, kernel.group), kernel.group, kernel.chunk)
    shifted = kernel.shifted and workload.operator != "batch_matmul"
    return lanes.Reading(groups, flat, shifted, workload.dtypes[2])


@lru_cache(maxsize=4096)
def _tiles(workload: Workload, name: str, spec: TargetSpec) -> tuple[list[int], ...]:
    """Blocks of sums that fit into the registers, the best by the analytic model first."""
    kernel = kernel_named(name, workload.dtypes, spec, **_weights(workload))
    high, wide = _rows(workload)
    groups = int(workload.attributes.get("groups", 1))
    if groups > 1 and int(workload.weight[1]) < kernel.group:
        return ()  # a step would reach into the next group of channels, or behind the last one
    columns = _known(workload.output[-1], 48) // groups
    found: list[tuple[float, int, list[int]]] = []
    for vectors in range(1, MAX_VECTORS + 1):
        width = vectors * kernel.lanes
        if vectors > 1 and width >= columns + kernel.lanes:
            break
        if groups > 1 and columns % width:
            continue
        for inner in range(1, min(MAX_ROWS, wide or MAX_ROWS) + 1):
            for outer in range(1, min(MAX_ROWS // inner, high or 1) + 1):
                if outer > 1 and inner < wide:
                    break  # a second row only when the first is complete
                rows = inner * outer
                if rows % kernel.row_step:
                    continue
                if kernel.registers(rows, vectors) > spec.vector_registers - SPARE_REGISTERS:
                    break
                tile = RegisterTile(outer, inner, vectors, kernel.lanes)
                cycles = _cycles(workload, kernel, tile, spec)
                found.append((cycles, -rows * vectors, tile.as_list()))
    found.sort(key=lambda f: (f[0], f[1]))
    return tuple(tile for _, _, tile in found[:MAX_TILES])


def _cycles(workload: Workload, kernel: MicroKernel, tile: RegisterTile, spec: TargetSpec) -> float:
    """Cycles of all blocks of a product."""
    reading = _reading(workload, kernel)
    groups = reading.groups
    high, wide = (v or UNKNOWN_ROWS for v in _rows(workload))
    split = int(workload.attributes.get("groups", 1))
    columns = _known(workload.output[-1], 48) // split
    lead = prod(_known(v, 1) for v in workload.output[:1]) if workload.operator == "conv2d" else (
        prod(_known(v, 1) for v in workload.output[:-2]))  # fmt: skip
    blocks = (
        lead * ceil(high / tile.row_outer) * ceil(wide / tile.row_inner)
        * split * ceil(columns / tile.columns)
    )  # fmt: skip
    window = 1
    if workload.operator == "conv2d":
        kh, kw = (int(v) for v in workload.weight[2:])
        window = kh if reading.flat else kh * kw
    whole = kernel.cycles(tile.rows, tile.vectors, spec)
    overhead = 0.75 if groups.chunks else 0.0  # of a loop's iteration
    line = groups.chunks * (whole + overhead)
    line += sum(whole * len(p) / kernel.chunk + 1.0 for _, _, _, p in groups.pieces())
    rate = spec.peak_ops_per_cycle.get("float32", 8.0) / 8
    each = EPILOGUE_INSTRUCTIONS[workload.is_integer]
    if workload.is_integer and tile.vectors % 4:  # bytes are made of 16 sums at once
        each += 0.5
    epilogue = tile.vectors * (tile.rows * each + COLUMN_LOADS) / rate
    total = window * line + BLOCK_CYCLES + epilogue
    panel = window * groups.size * tile.columns * DTYPE_BYTES[workload.dtypes[1]]
    if panel > spec.cache_bytes(1) / 2:  # it comes from the second cache for each block
        total += panel / STREAM_BYTES
    if columns % tile.columns:
        total *= 1.05  # the part of a panel that hangs over is stored element by element
    # As everywhere, cycles are those of one row where their number is not known.
    return blocks * total / prod(UNKNOWN_ROWS for v in _rows(workload) if not v)


def _rows(workload: Workload) -> tuple[int, int]:
    """Extents of the two dimensions that a block's rows are in; 0 for an unknown one."""
    if workload.operator == "conv2d":
        return _known(workload.output[1], 0), _known(workload.output[2], 0)
    return 1, _known(workload.output[-2], 0)


def _known(extent: Extent, otherwise: int) -> int:
    return extent if isinstance(extent, int) else otherwise
