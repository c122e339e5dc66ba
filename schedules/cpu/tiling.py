"""Which block of an output stays in vector registers while a reduction runs over it.

The model is the usual one for GEMM micro-kernels (Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication", 2008, section 4): a block of `rows` x `vectors`
accumulators, for each step of the reduction `vectors` loads of packed weights and `rows`
broadcast loads of activations. The block is chosen so that arithmetic, not loads or the
latency of the multiply-add, limits it, and so that little of it hangs over the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from targets.spec import TargetSpec

#: Cycles from a multiply-add to the use of its result, on every x86 and ARM core of interest.
FMA_LATENCY_CYCLES = 4
#: Vector or broadcast loads that a core starts in a cycle.
LOADS_PER_CYCLE = 2
MAX_VECTORS = 7
MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """A block of accumulators: `row_outer` x `row_inner` rows of `vectors` x `lanes` columns."""

    row_outer: int
    row_inner: int
    vectors: int
    lanes: int

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return self.row_outer * self.row_inner

    @property
    def columns(self) -> int:
        """Columns of the block; weights are packed in panels of this width."""
        return self.vectors * self.lanes

    def as_list(self) -> list[int]:
        """The tile as the list that a block's annotation holds."""
        return [self.row_outer, self.row_inner, self.vectors, self.lanes]


@dataclass(frozen=True, slots=True)
class RankedTile:
    """A block of accumulators and the multiply-adds that it does in a cycle, by the model."""

    tile: RegisterTile
    macs_per_cycle: float


@lru_cache(maxsize=4096)
def rank_register_tiles(
    spec: TargetSpec,
    rows: tuple[int, int],
    columns: int,
    dtype: str = "float32",
    row_stride_bytes: int = 0,
    *,
    exact: bool = False,
    group: int = 1,
    reserved: int = 0,
) -> tuple[RankedTile, ...]:
    """Blocks of accumulators for an output of `rows` x `columns`, the best first.

    Args:
        spec: The target; its vector registers, peak rate and first cache are used.
        rows: Extents of the two row dimensions (for a convolution: output height and width;
            for a matrix product: 1 and the number of rows). 0 stands for an unknown extent.
        columns: Output channels, or columns of the product.
        dtype: Dtype of the accumulators.
        row_stride_bytes: Distance in memory of the activations of two neighbouring rows;
            multiples of a cache way's size limit the rows, which would evict each other.
        exact: Only tiles whose columns divide `columns`, as the groups of a convolution need.
        group: Products that one lane adds up in one instruction.
        reserved: Vector registers that something else needs.
    """
    full = spec.vector_lanes(dtype)
    peak = spec.peak_ops_per_cycle.get("float32", 2.0 * full)
    l1 = next((c for c in spec.caches if c.level == 1), None)
    way_bytes = l1.size_bytes // l1.ways if l1 is not None and l1.ways else 4096
    ways = l1.ways if l1 is not None and l1.ways else 8
    conflicts = row_stride_bytes > 0 and row_stride_bytes % way_bytes == 0

    found: list[tuple[float, int, RegisterTile]] = []
    for lanes in _lane_choices(full, 1 if exact else columns):
        fma_per_cycle = min(2.0, max(0.5, peak / (2 * lanes)))
        for vectors in range(1, min(MAX_VECTORS, ceil(columns / lanes)) + 1):
            width = vectors * lanes
            column_use = columns / (ceil(columns / width) * width)
            if exact and column_use < 1:
                continue
            if column_use < 1:
                column_use *= (
                    0.95  # the part of a panel that hangs over is stored element by element
                )
            for inner in range(1, min(MAX_ROWS, rows[1] or 8) + 1):
                for outer in range(1, min(MAX_ROWS // inner, rows[0] or 1) + 1):
                    count = inner * outer
                    if outer > 1 and inner < rows[1]:
                        break  # a second row only when the first is complete
                    if count * vectors + vectors + 1 > spec.vector_registers - reserved:
                        break
                    row_use = _use(rows[0], outer) * _use(rows[1], inner)
                    cycles = max(
                        count * vectors / fma_per_cycle,
                        (count + vectors) / LOADS_PER_CYCLE,
                        FMA_LATENCY_CYCLES,
                        2.0 * vectors * lanes / full,  # weights stream from the second cache
                    )
                    if conflicts and count > ways - 1:
                        cycles *= 1.6
                    # A larger block of equal merit amortizes the overhead of the loop.
                    score = row_use * column_use * count * width / (cycles + 0.35)
                    found.append((score, count, RegisterTile(outer, inner, vectors, lanes)))
    if not found:
        return (RankedTile(RegisterTile(1, 1, 1, full), float(full * group)),)
    # Of tiles of equal merit the largest first, then the first found.
    found.sort(key=lambda f: (-round(f[0], 3), -f[1]))
    return tuple(RankedTile(tile, score * group) for score, _, tile in found)


def _use(extent: int, tile: int) -> float:
    """Share of the rows of the tiles that are real rows."""
    if extent <= 0:
        return 1.0
    return extent / (ceil(extent / tile) * tile)


def _lane_choices(full: int, columns: int) -> list[int]:
    """Widths of a vector worth trying: the widest, a half, and for few columns what holds them."""
    choices = [full]
    if full >= 8:
        choices.append(full // 2)
    while choices[-1] // 2 >= columns and choices[-1] > 1:
        choices.append(choices[-1] // 2)
    return choices
