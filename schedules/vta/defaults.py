"""The tiling of a layer without a search: the one that the analytic model finds fastest."""

from __future__ import annotations

from collections.abc import Iterator

from schedules.vta.estimate import estimated_cycles
from schedules.vta.tiling import BORDERS, ORDERS, Layout, Tiling, acc_depth
from schedules.vta.work import Refused, Work
from targets.vta.config import VtaConfig


def default_tiling(work: Work, config: VtaConfig) -> Tiling:
    """The best tiling by the analytic model.

    Raises:
        Refused: None is possible.
    """
    best: tuple[float, Tiling] | None = None
    for tiling in candidates(work, config):
        layout = Layout(work, tiling, config)
        if layout.refusal():
            continue
        cycles = estimated_cycles(layout)
        if best is None or cycles < best[0]:
            best = (cycles, tiling)
    if best is None:
        smallest = Tiling(1, 1, 1, 1)
        raise Refused("no tiling fits; of one pixel and one block: "
                      + Layout(work, smallest, config).refusal())  # fmt: skip
    return best[1]


def candidates(work: Work, config: VtaConfig) -> Iterator[Tiling]:
    """Tilings worth a look: for each size of blocks, the tallest tiles that fit, and some less."""
    output, product = work.output, work.product
    inner = 1 if product is None or product.diagonal else product.source[0]
    orders = ORDERS if work.blocks > 1 else ORDERS[:1]
    padded = product is not None and max(product.kernel) > 1
    for out in _splits(work.blocks):
        for part in _splits(inner):
            for halves in (2, 1):
                room = acc_depth(config) // halves // out
                for cols in _columns(output.width):
                    fitting = [
                        rows for rows in _splits(output.height)
                        if rows * cols <= room
                        and not Layout(work, Tiling(rows, cols, out, part, halves=halves), config)
                        .refusal()
                    ]  # fmt: skip
                    for rows in fitting[:3]:
                        for order in orders:
                            for borders in BORDERS if padded else BORDERS[:1]:
                                yield Tiling(rows, cols, out, part, order, borders, halves)
                    if fitting:
                        break


def _splits(total: int) -> list[int]:
    """Sizes of equal pieces, the last may be smaller; the largest first."""
    return sorted({-(-total // n) for n in range(1, total + 1)}, reverse=True)


def _columns(width: int) -> list[int]:
    sizes = [width]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


__all__ = ["candidates", "default_tiling"]
