"""Which activations are stored in 16 bits, which symmetrically, and what their scales depend on.

Sums along the residual path of a transformer and the scores in front of a softmax have a few
values that are far larger than the rest. In 8 bits these would cost all others their digits, so
they are int16: what layer normalization, softmax and the additions in front of them read. A
tensor that products read as well is stored twice, the second time in 8 bits, under its name
with `NARROW` behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from compiler.compress.groups import ROWS, SHARING, Group
from compiler.compress.plan import NARROW


@dataclass(frozen=True, slots=True)
class Widths:
    """What tensors of a plan are stored as.

    Attributes:
        wide: Names of the tensors in 16 bits.
        reads: The plan's names of the tensors that an operator reads, by its name.
        symmetric: The plan's names of tensors that products of two activations read: int8
            with a zero point of 0.
        weights: Names of the results of softmax.
        masks: Masks that are added to scores, by the name of the masked scores: the scores,
            and the mask.
    """

    wide: frozenset[str]
    reads: Mapping[str, tuple[str, ...]]
    symmetric: frozenset[str]
    weights: frozenset[str]
    masks: Mapping[str, tuple[str, str]]

    def names(self) -> set[str]:
        """All tensors of the plan."""
        return {name for names in self.reads.values() for name in names} | set(self.wide)


def find_widths(groups: Sequence[Group]) -> Widths:
    """Widths of all tensors that integer operators read."""
    integers = [g for g in groups if g.integer]
    makers = {g.output: g for g in integers}
    wide = _wide(integers, makers)
    read = {name for g in integers for name in g.inputs}
    # What is only read in float32 keeps its digits.
    wide.update(
        g.output for g in integers if g.site.kind == "nn.layer_norm" and g.output not in read
    )
    reads, symmetric = {}, set()
    for group in integers:
        as_stored = group.site.kind in ROWS | {"add"} or (
            group.site.kind in SHARING and group.output in wide
        )
        names = [n if as_stored or n not in wide else n + NARROW for n in group.inputs]
        reads[group.name] = tuple(names)
        if group.product:
            symmetric.update(names)
    weights = frozenset(g.output for g in integers if g.site.kind == "nn.softmax")
    return Widths(
        frozenset(wide), reads, frozenset(symmetric - weights), weights, _masks(integers, makers)
    )


def _masks(integers: Iterable[Group], makers: Mapping[str, Group]) -> dict[str, tuple[str, str]]:
    """Sums in front of softmax of which one operand comes from float32."""
    found = {}
    for group in integers:
        maker = makers.get(group.inputs[0]) if group.site.kind == "nn.softmax" else None
        if maker is None or maker.site.kind != "add" or len(maker.inputs) != 2:
            continue
        scores = [name for name in maker.inputs if name in makers]
        if len(scores) == 1:
            other = next(name for name in maker.inputs if name not in makers)
            found[maker.output] = (scores[0], other)
    return found


def _wide(integers: Iterable[Group], makers: Mapping[str, Group]) -> set[str]:
    """Inputs of operators on rows, and what they are sums of or moved from."""
    found: set[str] = set()
    rest = [name for g in integers if g.site.kind in ROWS for name in g.inputs]
    while rest:
        name = rest.pop()
        maker = makers.get(name)
        narrow = maker is not None and not (
            maker.weighted or maker.product or maker.site.kind in SHARING | {"add", "nn.layer_norm"}
        )
        if narrow or name in found:
            continue
        found.add(name)
        if maker is not None and maker.site.kind in SHARING | {"add"}:
            rest.extend(maker.inputs)
    return found


__all__ = ["Widths", "find_widths"]
