"""The tiling of a layer without a search: the one that the analytic model finds fastest."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import replace

from schedules.vta.estimate import estimated_cycles, rough_cycles
from schedules.vta.tiling import BORDERS, ORDERS, Layout, Tiling, acc_depth
from schedules.vta.work import Copy, Pool, Product, Refused, Work
from targets.vta.config import VtaConfig

#: Tilings that the model looks at closely, of those that the rough one finds fastest.
_LOOKED_AT = 40
#: Of these, tilings with which zeros around the image are loaded, too.
_PADDED = 4
#: Heights of tiles that are candidates for each size of their blocks.
_HEIGHTS = 3
#: Answers that are kept.
_MOST_KNOWN = 512
_KNOWN: dict[Hashable, Tiling] = {}


def default_tiling(work: Work, config: VtaConfig) -> Tiling:
    """The best tiling by the analytic model.

    Raises:
        Refused: None is possible.
    """
    key = (_signature(work), config)
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = _choose(work, config)
    return _KNOWN[key]


def _choose(work: Work, config: VtaConfig) -> Tiling:
    ranked = sorted(
        (rough_cycles(Layout(work, tiling, config)), n, tiling)
        for n, tiling in enumerate(candidates(work, config))
    )  # fmt: skip
    if not ranked:
        smallest = Tiling(1, 1, 1, 1)
        raise Refused("no tiling fits; of one pixel and one block: "
                      + Layout(work, smallest, config).refusal())  # fmt: skip
    best = (math.inf, ranked[0][2])
    for n, (_, _, tiling) in enumerate(ranked[:_LOOKED_AT]):
        for borders in BORDERS if n < _PADDED else BORDERS[:1]:
            layout = Layout(work, replace(tiling, borders=borders), config)
            if (borders != tiling.borders and not has_borders(work)) or layout.refusal():
                continue
            cycles = estimated_cycles(layout, best[0], alone=False)
            if cycles < best[0]:
                best = (cycles, layout.tiling)
    return best[1]


def candidates(work: Work, config: VtaConfig) -> Iterator[Tiling]:
    """Tilings worth a look: for each size of blocks, the tallest tiles that fit, and some less."""
    output, product = work.output, work.product
    inner = 1 if product is None or product.diagonal else product.source[0]
    for out in splits(work.blocks):
        orders = ORDERS if out < work.blocks else ORDERS[:1]
        for part in splits(inner):
            for halves in (2, 1):
                room = acc_depth(config) // halves // out
                for cols in columns(output.width):
                    found = 0
                    for rows in splits(output.height):
                        tiling = Tiling(rows, cols, out, part, halves=halves)
                        if rows * cols > room or Layout(work, tiling, config).refusal():
                            continue
                        yield from (replace(tiling, order=order) for order in orders)
                        found += 1
                        if found == _HEIGHTS:
                            break
                    if found:
                        break


def has_borders(work: Work) -> bool:
    """Whether zeros around an image matter to the layer."""
    product = work.product
    return product is not None and (max(product.kernel) > 1 or max(product.padding) > 0)


def _signature(work: Work) -> Hashable:
    """All that the choice depends on: everything but the constants."""
    operations: list[Hashable] = []
    for o in work.operations:
        if isinstance(o, Product):
            operations.append((
                o.source, o.weights.shape, o.kernel, o.strides, o.padding, o.dilation, o.diagonal,
                o.bias_products,
            ))  # fmt: skip
        elif isinstance(o, Pool):
            operations.append((o.source, o.kernel, o.strides, o.padding))
        else:
            operations.append((type(o).__name__, o.repeats if isinstance(o, Copy) else 0))
    return work.output.shape, len(work.vectors), tuple(operations)


def splits(total: int) -> list[int]:
    """Sizes of equal pieces, the last may be smaller; the largest first."""
    return sorted({-(-total // n) for n in range(1, total + 1)}, reverse=True)


def columns(width: int) -> list[int]:
    """Widths of tiles: all columns, then about half as many each time."""
    sizes = [width]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


__all__ = ["candidates", "columns", "default_tiling", "has_borders", "splits"]
