"""What an AMX kernel does with the eight tile registers.

A tile has up to 16 rows of up to 64 bytes. ``C += A B`` multiplies a tile of activations
(rows: positions of the output; 64 bytes of the reduction each) with a tile of weights (rows:
4 bytes of the reduction for each of 16 columns). The rows of a tile may lie any distance
apart in memory, so a convolution's activations are read where they are: neighbouring
positions overlap by the kernel's width, and the reduction over the kernel's width and the
channels is one run of bytes.

Every tile of a kernel has the same shape, so tiles are configured once. What does not divide
evenly is solved without a second shape: the last rows of a line are read again by a tile
that is moved back, columns are filled up with zero weights, and a run that no step divides
gets more channels, zeros, when it is padded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from math import ceil

from schedules.space import Choice
from schedules.workload import Workload
from targets.spec import DTYPE_BYTES, TargetSpec

#: Annotation of a kernel's heart: the plan of a block, JSON of a `TilePlan`.
PLAN_ANNOTATION = "tilewright.amx"

TILES = 8
TILE_ROWS = 16
TILE_ROW_BYTES = 64
#: Columns of a tile of 32-bit accumulators.
TILE_COLUMNS = 16

#: (activations, weights, accumulators) -> instruction and the feature that has it.
INSTRUCTIONS = {
    ("uint8", "int8", "int32"): ("tdpbusd", "amx-int8"),
    ("int8", "int8", "int32"): ("tdpbssd", "amx-int8"),
    ("bfloat16", "bfloat16", "float32"): ("tdpbf16ps", "amx-bf16"),
}


def instruction_for(workload: Workload, spec: TargetSpec) -> str | None:
    """The tile instruction that multiplies a workload's dtypes on a target, None without one."""
    name, feature = INSTRUCTIONS.get(workload.dtypes, ("", ""))
    return name if name and spec.has("amx-tile", feature) else None


@dataclass(frozen=True)
class Run:
    """A reduction over neighbouring bytes, in equal steps of at most a tile's row.

    Attributes:
        steps: Number of steps.
        step_bytes: Bytes of one, a multiple of 4.
        channels: Channels that it holds for each position of the kernel, the filled-up ones
            included.
    """

    steps: int
    step_bytes: int
    channels: int


def choose_run(channels: int, width: int, item_bytes: int) -> Run:
    """Steps over `width` x `channels` elements; more channels if nothing divides them well."""
    runs = []
    for filled in range(channels, channels + TILE_ROW_BYTES // item_bytes + 1):
        size = filled * width * item_bytes
        least = ceil(size / TILE_ROW_BYTES)
        steps = next((s for s in range(least, 2 * least + 1) if size % (4 * s) == 0), None)
        if steps is None:
            continue
        run = Run(steps, size // steps, filled)
        if filled == channels and steps <= 1.25 * least:
            return run  # no copy of the activations is worth a few steps
        runs.append(run)
    return min(runs, key=lambda r: (r.steps, r.channels))  # the full row is always among them


@dataclass(frozen=True)
class TilePlan:
    """One block of an AMX kernel: lines of positions times a panel of columns.

    Attributes:
        instruction: The multiplying instruction's name.
        item_bytes: Bytes of an activation or weight.
        rows: Rows of a tile: positions of the output.
        step_bytes: Bytes of the reduction in one tile.
        row_tiles: Tiles of accumulators along the positions that are in registers together.
        column_tiles: The same along the columns; a panel of weights is so wide.
        lines: Lines of positions in a block; the next line starts `line_bytes` further on.
        positions: Positions in a line, `position_bytes` apart.
        line_bytes: See `lines`.
        position_bytes: See `positions`.
        reductions: Loops of the reduction around the multiplication, each with its number of
            steps and the bytes from one step's activations to the next's.
        passes: Parts that the first loop is cut into; accumulators go to memory in between.
    """

    instruction: str
    item_bytes: int
    rows: int
    step_bytes: int
    row_tiles: int
    column_tiles: int
    lines: int
    positions: int
    line_bytes: int
    position_bytes: int
    reductions: tuple[tuple[int, int], ...]
    passes: int = 1

    @property
    def columns(self) -> int:
        """Columns of a panel."""
        return self.column_tiles * TILE_COLUMNS

    @property
    def tiles_per_line(self) -> int:
        """Tiles that cover the positions of a line; the last one may be moved back."""
        return ceil(self.positions / self.rows)

    @property
    def steps(self) -> int:
        """Tiles of the whole reduction."""
        count = 1
        for extent, _ in self.reductions:
            count *= extent
        return count

    @property
    def weight_tile_bytes(self) -> int:
        """Bytes of a packed tile of weights."""
        return self.step_bytes * TILE_COLUMNS

    @property
    def panel_bytes(self) -> int:
        """Bytes of a packed panel."""
        return self.weight_tile_bytes * self.column_tiles * self.steps

    @property
    def multiplications(self) -> int:
        """Multiplying instructions in a block."""
        return self.lines * self.tiles_per_line * self.column_tiles * self.steps

    def accumulators(self) -> int:
        """Tiles of accumulators in registers."""
        return self.row_tiles * self.column_tiles

    def config(self) -> bytes:
        """The 64 bytes that `ldtilecfg` takes (palette 1)."""
        colsb, rows = [0] * 16, [0] * 16
        count = self.accumulators()
        left, right = registers(self.row_tiles, self.column_tiles)
        for tile in range(count):
            colsb[tile], rows[tile] = TILE_ROW_BYTES, self.rows
        for tile in left:
            colsb[tile], rows[tile] = self.step_bytes, self.rows
        for tile in right:
            colsb[tile], rows[tile] = TILE_ROW_BYTES, self.step_bytes // 4
        words = b"".join(v.to_bytes(2, "little") for v in colsb)
        return bytes([1]) + bytes(15) + words + bytes(rows)

    def to_json(self) -> str:
        """The plan as the text that a block's annotation holds."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TilePlan:
        """The plan in an annotation."""
        document = json.loads(text)
        document["reductions"] = tuple(tuple(v) for v in document["reductions"])
        return cls(**document)


def registers(row_tiles: int, column_tiles: int) -> tuple[list[int], list[int]]:
    """Tile registers of activations and of weights beside the accumulators.

    The shorter side keeps its tiles for a whole step; the longer one takes turns in what is
    left.

    Raises:
        ValueError: The accumulators leave no register for an operand.
    """
    free = list(range(row_tiles * column_tiles, TILES))
    held = min(row_tiles, column_tiles)
    if len(free) <= held:
        raise ValueError(f"{row_tiles}x{column_tiles} accumulators leave too few tiles")
    turning = max(row_tiles, column_tiles)
    first, second = free[:held], free[held : held + turning]
    return (first, second) if row_tiles <= column_tiles else (second, first)


#: Accumulators in registers together: tiles of rows x tiles of columns.
BLOCKINGS = ((2, 2), (1, 4), (4, 1), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1))


@dataclass(frozen=True)
class Geometry:
    """A workload as an AMX kernel sees it, with the choice's way of walking over it.

    Attributes:
        plan: The plan of a block.
        run: The innermost run of the reduction.
        merged: Whether the run spans the kernel's width.
        lines: Lines of the whole output, filled up to blocks (0 for products: see `rows`).
        pitch: Positions of a line, those that are dropped afterwards included.
        rows: Rows of a product, filled up to blocks (0 for convolutions).
        panels: Panels of columns.
        blocks: Blocks of the whole output, all panels included.
        source: Height and width, or rows, of the padded copy of the activations that the tiles
            are loaded from; None if they are loaded from the activations themselves.
    """

    plan: TilePlan
    run: Run
    merged: bool
    lines: int
    pitch: int
    rows: int
    panels: int
    blocks: int
    source: tuple[int, ...] | None


def geometry(workload: Workload, choice: Choice, instruction: str) -> Geometry:
    """The geometry of a choice; see `schedules.cpu.templates.amx` for its decisions."""
    row_tiles, column_tiles = (int(v) for v in choice["blocking"])
    if workload.operator == "dense":
        found = _dense(workload, choice, instruction)
        columns, outer = int(workload.output[-1]), 1
        for extent in workload.output[:-2]:
            outer *= int(extent)
        outer *= found.rows // found.plan.positions
    else:
        found = _convolution(workload, choice, instruction)
        columns = int(workload.output[3])
        per_block = int(choice["lines"])
        outer = int(workload.output[0]) * (found.lines // per_block)
    panels = ceil(columns / (column_tiles * TILE_COLUMNS))
    plan = replace(found.plan, row_tiles=row_tiles, column_tiles=column_tiles)
    return replace(found, plan=plan, panels=panels, blocks=panels * outer)


def packed_weight_shape(shape: Geometry, kernel: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the packed weight of a kernel of `kernel` (1, 1 for products)."""
    plan = shape.plan
    return (
        shape.panels, kernel[0], 1 if shape.merged else kernel[1], shape.run.steps,
        plan.column_tiles, plan.step_bytes // 4, TILE_COLUMNS, 4 // plan.item_bytes,
    )  # fmt: skip


def _tile_rows(positions: int, rows: str) -> int:
    """Rows of a tile: as many as it has, or as few as cover a line with no more tiles."""
    full = min(positions, TILE_ROWS)
    return full if rows == "full" else ceil(positions / ceil(positions / full))


def _dense(workload: Workload, choice: Choice, instruction: str) -> Geometry:
    item = DTYPE_BYTES[workload.dtypes[0]]
    run = choose_run(int(workload.data[-1]), 1, item)
    positions = int(choice["positions"])
    plan = TilePlan(
        instruction, item, _tile_rows(positions, choice["rows"]), run.step_bytes, 1, 1,
        lines=1, positions=positions, line_bytes=0, position_bytes=run.channels * item,
        reductions=((run.steps, run.step_bytes),), passes=int(choice["passes"]),
    )  # fmt: skip
    rows = ceil(int(workload.data[-2]) / positions) * positions
    copied = rows != int(workload.data[-2]) or run.channels != int(workload.data[-1])
    return Geometry(plan, run, False, 0, 0, rows, 0, 0, (rows,) if copied else None)


def _convolution(workload: Workload, choice: Choice, instruction: str) -> Geometry:
    item = DTYPE_BYTES[workload.dtypes[0]]
    a = workload.attributes
    _, height, width, channels = (int(v) for v in workload.data)
    _, out_h, out_w, _ = (int(v) for v in workload.output)
    _, _, kh, kw = (int(v) for v in workload.weight)
    (stride_h, stride_w), (dilation_h, dilation_w) = a["strides"], a["dilation"]
    merged = dilation_w == 1 or kw == 1
    run = choose_run(channels, kw if merged else 1, item)
    flat = choice["walk"] == "flat"
    per_block = int(choice["lines"])
    lines = ceil(out_h / per_block) * per_block
    reach_h = (lines - 1) * stride_h + (kh - 1) * dilation_h + 1
    reach_w = (out_w - 1) * stride_w + (kw - 1) * dilation_w + 1
    over = flat and kw > 1  # positions behind a line's last one reach into the next line
    source = None
    if (
        any(a["padding"][:2])
        or run.channels != channels
        or reach_h > height
        or reach_w > width
        or over
    ):
        source = (reach_h + over, reach_w)
    pixel = run.channels * item
    line = (source[1] if source else width) * pixel
    reductions = [(kh, dilation_h * line)]
    if not merged:
        reductions.append((kw, dilation_w * pixel))
    reductions.append((run.steps, run.step_bytes))
    pitch = line // pixel if flat else out_w
    positions = per_block * pitch if flat else out_w
    plan = TilePlan(
        instruction, item, _tile_rows(positions, choice["rows"]), run.step_bytes, 1, 1,
        lines=1 if flat else per_block, positions=positions, line_bytes=stride_h * line,
        position_bytes=stride_w * pixel,
        reductions=tuple(r for r in reductions if r[0] > 1) or ((1, 0),),
    )  # fmt: skip
    return Geometry(plan, run, merged, lines, pitch, 0, 0, 0, source)
