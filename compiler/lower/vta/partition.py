"""Cuts regions out of an integer graph: what runs on VTA, in how many programs, and why not.

Layers that VTA can compute are placed where the estimated times of the whole graph are least:
what a layer takes on either side, and what it takes to bring a tensor from one to the other
(`compiler.lower.vta.cut`). Regions are as large as they can be without one that waits for the
host in its middle: each operator gets a level, the number of times that data has changed
sides up to it, and the layers of one level are one program.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from compiler.compress.sites import PlainGraph
from compiler.lower.vta.cut import place
from compiler.lower.vta.estimate import Costs
from compiler.lower.vta.read import Form, GraphReader, Unit, safe_names
from schedules.vta.fits import refusal
from schedules.vta.layers import Layer, MaxPool2d, Region, Step, Sum
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig


@dataclass(frozen=True, slots=True)
class Border:
    """A tensor between host and VTA.

    Attributes:
        name: Of the graph's tensor.
        title: Of the region's tensor and the program's buffer.
        form: How it lies.
    """

    name: str
    title: str
    form: Form


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One region.

    Attributes:
        region: Its layers.
        units: They, with the operators that they stand for.
        inputs: What it reads from the host.
        outputs: What the host reads of it.
        level: When it runs among the parts of the graph.
    """

    region: Region
    units: tuple[Unit, ...]
    inputs: tuple[Border, ...]
    outputs: tuple[Border, ...]
    level: int


@dataclass(frozen=True, slots=True)
class HostOperator:
    """An operator that computes something and stays on the host.

    Attributes:
        name: Its name.
        kind: The operator.
        why: Why.
    """

    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A graph in parts.

    Attributes:
        cuts: The regions, in the order in which they run.
        host: What computes something and stays on the host, with reasons, in order.
        levels: Of every operator that no region holds.
        batch: Images of one inference; a program computes one.
    """

    cuts: tuple[Cut, ...]
    host: tuple[HostOperator, ...]
    levels: Mapping[str, int]
    batch: int


def partition(graph: PlainGraph, config: VtaConfig, host: TargetSpec) -> Partition:
    """Cut an integer graph.

    Args:
        graph: After `compiler.compress.apply`.
        config: The VTA.
        host: The processor beside it.
    """
    reader = GraphReader(graph)
    units = reader.units()
    reasons = dict(reader.reasons)
    units = _that_fit(units, reader, config, reasons)
    units = _worth_it(units, reader, Costs(config, host, reader.batch), reasons)
    levels, chosen = _levels(graph, units, reader)
    cuts = []
    for number, (level, members) in enumerate(sorted(chosen.items())):
        read = _read_by_host(reader, units)
        for other in (unit for at, others in chosen.items() if at != level for unit in others):
            read.update(other.inputs)
        cuts.append(_cut(level, members, reader, read, f"region{number}"))
    held = {site.name for unit in units for site in unit.sites}
    remarks = tuple(
        HostOperator(site.name, site.kind, reasons[site.name])
        for site in graph.sites
        if site.name in reasons and site.name not in held
    )
    return Partition(tuple(cuts), remarks, levels, reader.batch)


def _that_fit(
    units: Sequence[Unit], reader: GraphReader, config: VtaConfig, reasons: dict[str, str]
) -> list[Unit]:
    """The layers that there is a program for on this VTA."""
    found = []
    for unit in units:
        alone = _region([unit], reader, "alone", (unit.output,))[0]
        why = refusal(alone.layers[0], alone, config)
        if why:
            reasons[unit.name] = why
        else:
            found.append(unit)
    return found


def _worth_it(
    units: Sequence[Unit], reader: GraphReader, costs: Costs, reasons: dict[str, str]
) -> list[Unit]:
    """The layers that are on VTA where the whole is fastest, by estimate."""
    nodes: dict[Hashable, tuple[float, float]] = {}
    ties: list[tuple[Hashable, Sequence[Hashable], float]] = []
    makers = {unit.output: unit for unit in units}
    readers: dict[str, list[Hashable]] = {}
    for unit in units:
        data = reader.form(unit.inputs[0])
        output = reader.form(unit.output)
        nodes[unit.name] = (
            costs.vta_s(unit.layer, data, output),
            costs.host_s(unit.layer, data, output),
        )
        for name in dict.fromkeys(unit.inputs):
            readers.setdefault(name, []).append(unit.name)
    elsewhere = _read_by_host(reader, units)
    host: Hashable = ("host", "")
    nodes[host] = (inf, 0.0)
    for name in {*readers, *makers}:
        ends = [*readers.get(name, []), *([host] if name in elsewhere else [])]
        maker: Hashable = makers[name].name if name in makers else host
        if ends:
            # What the host makes is a node of its own each, so that each is paid for.
            start: Hashable = maker if name in makers else ("host", name)
            nodes.setdefault(start, (inf, 0.0))
            ties.append((start, ends, costs.crossing_s(reader.form(name))))
    chosen = place(nodes, ties)
    for unit in units:
        if unit.name not in chosen:
            there, here = nodes[unit.name]
            reasons[unit.name] = (
                f"the host is faster: {here * 1e3:.2f} ms instead of {there * 1e3:.2f} ms on VTA "
                "and the copies (estimated)"
            )
    return [unit for unit in units if unit.name in chosen]


def _read_by_host(reader: GraphReader, units: Sequence[Unit]) -> set[str]:
    """The tensors that the host reads if these layers run on VTA.

    Operators that nobody needs any more, such as the padding in front of a layer, read nothing.
    """
    graph = reader.graph
    held = {site.name for unit in units for site in unit.sites}
    wanted = {*graph.outputs, *(name for unit in units for name in unit.inputs)}
    read = set(graph.outputs)
    for site in reversed(graph.sites):
        if site.name in held or site.name not in wanted:
            continue
        wanted.update(site.data)
        read.update(site.data)
    return read


def _levels(
    graph: PlainGraph, units: Sequence[Unit], reader: GraphReader
) -> tuple[dict[str, int], dict[int, list[Unit]]]:
    """Levels of the host's operators, and the layers of each level of VTA's."""
    held = {site.name for unit in units for site in unit.sites}
    last = {unit.sites[-1].name: unit for unit in units}
    levels: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    on_vta: set[str] = set()
    chosen: dict[int, list[Unit]] = {}
    for site in graph.sites:
        unit = last.get(site.name)
        if unit is not None:
            names = {reader.origin(name) for name in unit.inputs}
            level = max(levels[name] + (name not in on_vta) for name in names)
            levels[unit.output] = level
            on_vta.add(unit.output)
            chosen.setdefault(level, []).append(unit)
        elif site.name not in held:
            # A value inside of a layer is read by that layer only.
            known = [levels[n] + (n in on_vta) for n in site.data if n in levels]
            levels[site.name] = max(known, default=0)
    return {name: level for name, level in levels.items() if name not in on_vta}, chosen


def _cut(level: int, units: Sequence[Unit], reader: GraphReader, read: set[str], title: str) -> Cut:
    """The region of one level.

    Args:
        level: The level.
        units: Its layers.
        reader: Of the graph.
        read: Tensors that the host or the layers of other levels read.
        title: Name of the region.
    """
    outputs = tuple(unit.output for unit in units if unit.output in read)
    region, titles = _region(units, reader, title, outputs)
    borders = {t: Border(name, t, reader.form(name)) for name, t in titles.items()}
    return Cut(
        region, tuple(units), tuple(borders[t] for t in region.inputs),
        tuple(borders[t] for t in region.outputs), level,
    )  # fmt: skip


def _region(
    units: Sequence[Unit], reader: GraphReader, title: str, outputs: Sequence[str]
) -> tuple[Region, dict[str, str]]:
    """The region of these layers, and the names that it gives to the graph's tensors."""
    made = {unit.output for unit in units}
    names = dict.fromkeys(name for unit in units for name in (*unit.inputs, unit.output))
    titles = safe_names(iter(names))
    layers = safe_names(iter([unit.name for unit in units]))
    tensors = []
    for name in names:
        tensor = reader.tensor(name, titles[name])
        if name not in made:
            low, high = reader.limits(name)
            tensor = replace(tensor, low=low, high=high)
        tensors.append(tensor)
    region = Region(
        title,
        tuple(tensors),
        tuple(_renamed(unit.layer, titles, layers[unit.name]) for unit in units),
        tuple(titles[name] for name in names if name not in made),
        tuple(titles[name] for name in outputs),
    )
    return region, titles


def _renamed(layer: Layer, titles: Mapping[str, str], name: str) -> Layer:
    """A layer with the region's names."""
    output = titles[layer.output]
    if isinstance(layer, MaxPool2d):
        return replace(layer, name=name, data=titles[layer.data], output=output)
    steps = tuple(_renamed_step(step, titles) for step in layer.steps)
    if isinstance(layer, Sum):
        return replace(layer, name=name, output=output, steps=steps)
    return replace(layer, name=name, data=titles[layer.data], output=output, steps=steps)


def _renamed_step(step: Step, titles: Mapping[str, str]) -> Step:
    adds = tuple(replace(addend, tensor=titles[addend.tensor]) for addend in step.adds)
    return replace(step, adds=adds)


__all__ = ["Border", "Cut", "HostOperator", "Partition", "partition"]
