"""The direct algorithm: convolutions and matrix products with a register tile.

`schedules.cpu.compute.packed` holds the definitions, `schedules.cpu.rules.tiled` the schedule.
"""

from __future__ import annotations

import json
from math import ceil, prod
from typing import Any

from schedules.cpu.annotations import CHOICE, DOT
from schedules.cpu.compute import packed
from schedules.cpu.compute.canonical import geometry_of
from schedules.cpu.compute.encoded import Form, pack_codes, table_vectors
from schedules.cpu.intrinsics.select import dot_group, dot_intrinsic, dot_lanes
from schedules.cpu.intrinsics.vnni import has_vpdpbusd
from schedules.cpu.microkernels import kernels_for
from schedules.cpu.tiling import RankedTile, RegisterTile, rank_register_tiles
from schedules.encodings import PACKINGS
from schedules.space import Choice, Decision, Space
from schedules.weights import encoding_of, weight_operands
from schedules.workload import Extent, Workload
from targets.spec import TargetSpec

ALGORITHM = "direct"
#: Tiles that a search may choose from, the analytic model's favourites.
MAX_TILES = 32
#: Steps of the reduction written out one after the other.
UNROLLS = (1, 2, 4, 8)


class Direct:
    """A block of accumulators in registers over the whole reduction, weights packed for it.

    Weights of fewer bits are decoded where they are multiplied: once for all rows of a tile.
    """

    operators = frozenset({"conv2d", "dense", "batch_matmul"})
    algorithms = frozenset({ALGORITHM})
    encodings = frozenset({"", *PACKINGS})

    def spaces(self, workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
        """See `schedules.space.Template`."""
        if not _fits(workload):
            return ()
        tiles = self._tiles(workload, spec)
        orders = ("columns", "strip", "rows") if workload.operator == "conv2d" else (
            "columns", "rows")  # fmt: skip
        order = "columns" if weights_are_larger(workload) else orders[1]
        decisions = [
            Decision("tile", tuple(t.tile.as_list() for t in tiles[:MAX_TILES])),
            Decision("unroll", UNROLLS),
        ]
        default: Choice = {
            "algorithm": ALGORITHM,
            "tile": tiles[0].tile.as_list(),
            "unroll": 1,
        }
        if workload.operator != "batch_matmul":
            decisions.append(Decision("order", orders))
            default["order"] = order
        if workload.operator == "conv2d" and needs_padding(workload):
            decisions.append(Decision("pad", ("once", "strip")))
            default["pad"] = "once"
        return (Space(ALGORITHM, tuple(decisions), default),)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """See `schedules.space.Template`: multiply-adds over the rate of the register tile.

        Infinite for what would build the same kernel as another choice: padding by strips
        without strips, a reduction that does not fall into unrolled steps.
        """
        if choice.get("pad") == "strip" and choice["order"] != "strip":
            return float("inf")
        if _steps(workload) % choice["unroll"]:
            return float("inf")
        wanted = RegisterTile(*choice["tile"])
        for ranked in self._tiles(workload, spec):
            if ranked.tile == wanted:
                rate = ranked.macs_per_cycle / _decoding(workload, wanted, spec)
                if workload.is_integer and _group(workload) == 1:
                    rate /= _WIDENED_CYCLES
                if not workload.weight_encoding and kernels_for(workload.dtypes, spec):
                    rate /= _BROADCAST_CYCLES[workload.is_integer]
                return workload.flops / 2 / max(rate, 1e-3)
        return float("inf")

    def compute(
        self, workload: Workload, choice: Choice, spec: TargetSpec, data: Any, *weight: Any
    ) -> Any:
        """See `schedules.space.Template`."""
        tile = RegisterTile(*choice["tile"])
        attrs: dict[str, Any] = {CHOICE: json.dumps(choice, sort_keys=True)}
        if _group(workload) > 1:
            packing = encoding_of(workload).packing
            attrs[DOT] = dot_intrinsic(workload.dtypes, spec, tile.lanes, packing).name
        form = _form(workload, tile, spec)
        accumulator = workload.dtypes[2]
        a = workload.attributes
        if workload.operator == "dense":
            n = int(workload.weight[1])
            return packed.matmul_packed(
                data, weight, n, tile, accumulator, attrs, form, block=_block(workload)
            )
        if workload.operator == "batch_matmul":
            return packed.batch_matmul(
                data, weight[0], tile, accumulator, attrs,
                transpose_rhs=a["transpose_rhs"], group=_group(workload),
            )  # fmt: skip
        return packed.conv2d_packed(
            data, weight, int(workload.weight[0]), geometry_of(workload), tile, accumulator, attrs,
            form, inner=int(workload.weight[1]), block=_block(workload),
            input_dilation=tuple(a.get("input_dilation", (1, 1))),
            out_size=(int(workload.output[1]), int(workload.output[2])),
            pad_value=a.get("pad_value", 0),
        )  # fmt: skip

    def packed(
        self, workload: Workload, choice: Choice, spec: TargetSpec
    ) -> tuple[tuple[tuple[Extent, ...], str], ...]:
        """See `schedules.space.Template`."""
        if workload.operator == "batch_matmul":
            return ((workload.weight, workload.dtypes[1]),)
        tile = RegisterTile(*choice["tile"])
        form = _form(workload, tile, spec)
        (plain, dtype), *others = weight_operands(workload)
        lanes = (tile.columns, form.dot) if form.dot > 1 else (tile.columns,)
        lead, size = _panels(workload, tile, plain)
        codes = (*lead, ceil(size / form.step), *lanes)
        found = [(codes, "uint8" if form.packing else dtype)]
        for shape, kind in others:
            if encoding_of(workload).name == "codebook":
                found.append((shape, kind))
            else:
                lead, size = _panels(workload, tile, shape)
                found.append(((*lead, size, tile.columns), kind))
        return tuple(found)

    def pack(
        self, workload: Workload, choice: Choice, spec: TargetSpec, *weight: Any
    ) -> tuple[Any, ...]:
        """See `schedules.space.Template`; the right side of ``batch_matmul`` stays as it is."""
        if workload.operator == "batch_matmul":
            return weight
        tile = RegisterTile(*choice["tile"])
        form = _form(workload, tile, spec)
        codes = _pack(workload, tile, weight[0], form.step)
        if form.packing is not None:
            fields = codes.reshape(*codes.shape[:-1], form.packing.per_byte, form.dot)
            codes = pack_codes(fields, form.packing, -2)[..., 0, :]
            codes = codes if form.dot > 1 else codes[..., 0]
        if encoding_of(workload).name == "codebook":
            return codes, *weight[1:]
        return codes, *(_pack(workload, tile, scales, 1) for scales in weight[1:])

    def _tiles(self, workload: Workload, spec: TargetSpec) -> list[RankedTile]:
        rows, columns, row_elements = _matrix(workload)
        groups = int(workload.attributes.get("groups", 1))
        ranked = rank_register_tiles(
            spec, rows, columns // groups, workload.dtypes[2],
            row_elements * _ITEM_BYTES.get(workload.dtypes[0], 4),
            exact=groups > 1, group=_group(workload),
            reserved=_RESERVED if workload.weight_encoding else 0,
        )  # fmt: skip
        allowed = dot_lanes(workload.dtypes, spec) if _group(workload) > 1 else None
        fitting = [r for r in ranked if allowed is None or r.tile.lanes in allowed]
        if workload.dtypes[0] == "int8":
            # What the shift of signed activations adds is one more vector for each of weights.
            fitting = [
                r for r in fitting
                if r.tile.vectors * (r.tile.rows + 2) + 2 <= spec.vector_registers
            ] or fitting  # fmt: skip
        if workload.weight_encoding:  # tiles of more rows decode less often
            fitting.sort(key=lambda r: -r.macs_per_cycle / _decoding(workload, r.tile, spec))
        return fitting


#: Vector registers that decoding needs: masks, offsets, a scale.
_RESERVED = 5
#: Integers without a dot product are widened, multiplied and added: over one multiply-add.
_WIDENED_CYCLES = 2.5
#: Where micro-kernels take activations from lanes: for floats, broadcasts take as long as
#: arithmetic does; integers are also shifted, widened and added up in each step.
_BROADCAST_CYCLES = (1.8, 4.2)
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1}


def _group(workload: Workload) -> int:
    """Elements that are multiplied and added up in one step."""
    if workload.operator == "conv2d" and int(workload.attributes["groups"]) > 1:
        return 1
    return dot_group(workload.dtypes)


def _fits(workload: Workload) -> bool:
    """Whether the weight's encoding can be read here: whole steps in groups of either kind."""
    encoding = encoding_of(workload)
    if not encoding.name:
        return True
    if workload.operator == "batch_matmul":
        return False
    step = _group(workload) * (encoding.packing.per_byte if encoding.packing else 1)
    if encoding.group % step:
        return False
    groups = int(workload.attributes.get("groups", 1))
    return groups == 1 or int(workload.weight[1]) % step == 0


def _form(workload: Workload, tile: RegisterTile, spec: TargetSpec) -> Form:
    """How the packed weight is read."""
    encoding = encoding_of(workload)
    block = _block(workload)
    uniform = block % tile.lanes == 0  # one row of the codebook for a whole vector
    floats = workload.dtypes[2] == "float32"
    tables = table_vectors(encoding, tile.lanes, spec) if uniform and floats else 0
    return Form(encoding, _group(workload), tile.lanes, tables)


def _block(workload: Workload) -> int:
    """Outputs that share a row of a codebook; 0 where all do."""
    books = int(workload.attributes.get("codebooks", 1))
    outputs = int(workload.output[-1]) if workload.weight_encoding else 0
    return outputs // books if books > 1 else 0


def _decoding(workload: Workload, tile: RegisterTile, spec: TargetSpec) -> float:
    """Factor that decoding lengthens the loop by: its instructions over those of the products."""
    encoding = encoding_of(workload)
    steps = 1.0 if workload.dtypes[1] == "float16" else 0.0
    if workload.dtypes[0] == "float32" and workload.dtypes[1] in ("int8", "uint8"):
        tables = _form(workload, tile, spec).tables
        if encoding.name == "codebook":
            steps = {0: 20.0, 1: 2.0, 2: 4.0}[tables]
        else:
            steps = 2.0 if encoding.packing is None or tables else 3.5
    elif encoding.packing is not None:
        steps = 2.5
    steps += 1.0 if encoding.group else 0.0
    return (1.0 + steps / (tile.rows + 2)) * _share_of_products(workload, tile, spec)


def _share_of_products(workload: Workload, tile: RegisterTile, spec: TargetSpec) -> float:
    """Instructions for products with codes, over those for whole bytes.

    Without VNNI these are widened to 16 bits, which codes need not be (`intrinsics.vnni`).
    """
    packing = encoding_of(workload).packing
    integers = workload.dtypes[0] in ("uint8", "int8") and _group(workload) > 1
    whole = spec.family != "x86" or has_vpdpbusd(spec, tile.lanes)
    if packing is None or not integers or whole:
        return 1.0
    return (2 * packing.per_byte + 1) / (4 * packing.per_byte)


def _panels(
    workload: Workload, tile: RegisterTile, shape: tuple[Extent, ...]
) -> tuple[tuple[int, ...], int]:
    """The extents of a packed operand in front of its reduction's innermost one, and that one."""
    if workload.operator == "dense":
        reduction, n = (int(v) for v in shape)
        return (ceil(n / tile.columns),), reduction
    outputs, inner, kh, kw = (int(v) for v in shape)
    groups = int(workload.attributes["groups"])
    return (groups * ceil(outputs // groups / tile.columns), kh, kw), inner


def _pack(workload: Workload, tile: RegisterTile, weight: Any, step: int) -> Any:
    if workload.operator == "dense":
        return packed.pack_matrix(weight, tile.columns, step)
    return packed.pack_kernel(weight, tile.columns, int(workload.attributes["groups"]), step)


def _matrix(workload: Workload) -> tuple[tuple[int, int], int, int]:
    """Extents of the rows, the columns, and elements from one row's data to the next's."""

    def known(extent: int | str, otherwise: int) -> int:
        return extent if isinstance(extent, int) else otherwise

    if workload.operator == "conv2d":
        _, height, width, channels = workload.output
        stride = int(workload.attributes["strides"][1])
        return (known(height, 0), known(width, 0)), known(channels, 1), (
            known(workload.data[3], 1) * stride
        )  # fmt: skip
    rows = known(workload.output[-2], 0)
    return (1, rows), known(workload.output[-1], 48), known(workload.data[-1], 1)


def needs_padding(workload: Workload) -> bool:
    """Whether a convolution reads beyond the edges of its image, or a window of it."""
    return any(workload.attributes["padding"]) or prod(int(v) for v in workload.weight[2:]) > 1


def weights_are_larger(workload: Workload) -> bool:
    """Whether the weights outweigh the activations: then they are what to read only once."""

    def size(extents: tuple[int | str, ...]) -> int:
        return prod(v if isinstance(v, int) else 1 for v in extents)

    return size(workload.weight) >= size(workload.data)


def _steps(workload: Workload) -> int:
    """Iterations of the innermost loop of the reduction; 0 where it is symbolic."""
    reduction = workload.data[-1] if workload.operator != "conv2d" else workload.weight[1]
    encoding = encoding_of(workload)
    step = _group(workload) * (encoding.packing.per_byte if encoding.packing else 1)
    reduction = encoding.group or reduction
    return ceil(reduction / step) if isinstance(reduction, int) else 0
