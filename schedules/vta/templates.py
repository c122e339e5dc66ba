"""VTA's layers as workloads, their tilings as spaces: what searches and records work with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schedules.selection import Selection, Selector
from schedules.space import Choice, Decision, Space
from schedules.vta.defaults import columns, default_tiling, has_borders, splits
from schedules.vta.estimate import estimated_cycles as _estimate
from schedules.vta.estimate import least_cycles as _least
from schedules.vta.estimate import rough_cycles
from schedules.vta.fits import refused_config
from schedules.vta.layers import Layer, MaxPool2d, Region, Sum, Tensor
from schedules.vta.packing import blocks
from schedules.vta.tiling import ALGORITHM, BORDERS, ORDERS, Layout, Tiling
from schedules.vta.work import (
    Copy,
    Imm,
    Operation,
    Pool,
    Product,
    Refused,
    Vector,
    Work,
    is_diagonal,
    normalize,
)
from schedules.workload import Workload
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig, vta_config
from targets.vta.isa import AluOp

LAYOUT = "NCHWnc"
#: Parts of a candidate at most: thousands of tiny ones are never fast, and slow to simulate.
MOST_PARTS = 4096


def workload_of(layer: Layer, region: Region, config: VtaConfig) -> Workload:
    """What a layer computes, without its constants: the identity of records.

    Raises:
        Refused: The layer cannot be lowered.
    """
    work = normalize(layer, region, config)
    output = region.tensor(layer.output)
    made = (1, output.height, output.width, output.channels)
    epilogue = tuple(_token(o) for o in work.operations)
    vectors = {"vectors": len(work.vectors)} if len(work.vectors) else {}
    if isinstance(layer, Sum):
        return Workload("sum", made, (), made, ("int8", "int8", "int32"), LAYOUT, vectors, epilogue)
    data, product = region.tensor(layer.data), work.product
    shape = (1, data.height, data.width, data.channels)
    if isinstance(layer, MaxPool2d):
        window = {
            "kernel": list(layer.kernel), "strides": list(layer.strides),
            "padding": list(layer.padding),
        }  # fmt: skip
        return Workload("pool2d", shape, (), made, ("int8", "int8", "int32"), LAYOUT, window,
                        epilogue)  # fmt: skip
    operator = "conv2d"
    if layer.groups > 1:
        operator = "depthwise_conv2d" if layer.groups == data.channels else "grouped_conv2d"
    return Workload(
        operator,
        shape,
        tuple(layer.weight.shape),
        made,
        ("int8", "int8", "int32"),
        LAYOUT,
        {
            "strides": list(layer.strides), "padding": list(layer.padding),
            "dilation": list(layer.dilation), "groups": layer.groups,
            "bias_products": 0 if product is None else product.bias_products, **vectors,
        },
        epilogue,
    )  # fmt: skip


def spaces(workload: Workload, spec: TargetSpec) -> tuple[Space, ...]:
    """The tilings of a layer; none if it cannot be lowered to this target."""
    config = vta_config(spec)
    if refused_config(config) or not workload.is_static:
        return ()
    try:
        work = skeleton(workload, config)
        default = default_tiling(work, config).choice()
    except (Refused, ValueError):
        return ()
    product = work.product
    inner = 1 if product is None or product.diagonal else product.source[0]
    options = {
        "rows": splits(work.output.height),
        "cols": columns(work.output.width),
        "out": splits(work.blocks),
        "inner": splits(inner),
        "order": ORDERS if work.blocks > 1 else ORDERS[:1],
        "borders": BORDERS if has_borders(work) else BORDERS[:1],
        "halves": (2, 1),
    }
    decisions = tuple(Decision(name, tuple(values)) for name, values in options.items())
    return (Space(ALGORITHM, decisions, default),)


def estimated_cycles(workload: Workload, choice: Choice, spec: TargetSpec) -> float:
    """Cycles by the analytic model; infinite for a tiling over a limit of the hardware.

    So candidates that do not fit the on-chip memories or the micro-ops are never simulated.
    """
    return _estimated(workload, Tiling.of(choice), vta_config(spec))


@lru_cache(maxsize=1 << 14)
def _estimated(workload: Workload, tiling: Tiling, config: VtaConfig) -> float:
    layout = Layout(skeleton(workload, config), tiling, config)
    if layout.refusal():
        return math.inf
    work, product = layout.work, layout.work.product
    tiles = math.prod((
        -(-work.output.height // tiling.rows), -(-work.output.width // tiling.cols),
        -(-work.blocks // tiling.out),
    ))  # fmt: skip
    dense = product is not None and not product.diagonal
    parts = tiles * (-(-product.source[0] // tiling.inner) if product and dense else 1)
    if parts > MOST_PARTS:
        return math.inf
    rough = rough_cycles(layout)
    return rough if parts > MOST_PARTS // 8 else max(rough, _estimate(layout))


def least_cycles(workload: Workload, config: VtaConfig) -> float:
    """Cycles of the compute queue that no tiling can do without."""
    return _least(skeleton(workload, config))


def choose(
    region: Region, spec: TargetSpec, selector: Selector
) -> tuple[dict[str, Choice], dict[str, Selection]]:
    """Tilings of a region's layers by records.

    Args:
        region: The layers.
        spec: The target.
        selector: Asked for each layer; see `schedules.records.record_selector` with `spaces`.

    Returns:
        Choices for `program.build_program`, by name of layer, and every answer of the selector.
    """
    config = vta_config(spec)
    choices, selections = {}, {}
    for layer in region.layers:
        try:
            selection = selector(workload_of(layer, region, config), spec)
        except Refused:
            continue
        selections[layer.name] = selection
        if selection.choice is not None:
            choices[layer.name] = selection.choice
    return choices, selections


@lru_cache(maxsize=1024)
def skeleton(workload: Workload, config: VtaConfig) -> Work:
    """A layer's work with everything that tilings depend on; its weights are zeros.

    Raises:
        ValueError: The workload is none of a layer.
        Refused: There is no room for what it needs.
    """
    if workload.layout != LAYOUT or not workload.is_static:
        raise ValueError(f"{workload} is no layer of a VTA")
    _, height, width, channels = (int(v) for v in workload.output)
    output = Tensor("output", channels, height, width)
    count = blocks(channels, config)
    operations = tuple(_operations(workload, config, count))
    vectors = np.zeros(
        (int(workload.attributes.get("vectors", 0)), count, config.block), dtype=np.int32
    )  # fmt: skip
    return Work("layer", output, count, operations, vectors)


def _operations(workload: Workload, config: VtaConfig, count: int) -> Iterator[Operation]:
    for token in workload.epilogue:
        kind, _, rest = token.partition(" ")
        if kind == "product":
            yield _product(workload, config, count)
        elif kind == "pool":
            yield _pool(workload, config, replaces=rest == "replaces")
        elif kind == "copy":
            yield Copy("other", 0, int(rest or 1))
        elif kind == "vector":
            yield Vector(AluOp[rest.upper()], 0)
        else:
            yield Imm(AluOp[kind.upper()], 0)


def _product(workload: Workload, config: VtaConfig, count: int) -> Product:
    attributes = workload.attributes
    outputs, inner, kh, kw = (int(v) for v in workload.weight)
    _, height, width, channels = (int(v) for v in workload.data)
    diagonal = is_diagonal(outputs, inner, int(attributes["groups"]), config.block)
    shape = (
        count,
        1 if diagonal else blocks(channels, config),
        kh * kw,
        config.block,
        config.block,
    )
    products = int(attributes.get("bias_products", 0))
    bias = _zeros((count, products, config.block, config.block)) if products else None
    top, left = (int(v) for v in attributes["padding"][:2])
    return Product(
        "data", (blocks(channels, config), height, width), _zeros(shape), (kh, kw),
        _pair(attributes["strides"]), (top, left), _pair(attributes["dilation"]), diagonal, bias,
    )  # fmt: skip


def _pool(workload: Workload, config: VtaConfig, *, replaces: bool) -> Pool:
    attributes = workload.attributes
    _, height, width, channels = (int(v) for v in workload.data)
    top, left = (int(v) for v in attributes["padding"][:2])
    return Pool("data", (blocks(channels, config), height, width), _pair(attributes["kernel"]),
                _pair(attributes["strides"]), (top, left), replaces)  # fmt: skip


def _pair(values: list[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _zeros(shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype=np.int8), shape)


def _token(operation: Operation) -> str:
    """What an operation costs, as a word."""
    if isinstance(operation, Product):
        return "product"
    if isinstance(operation, Pool):
        return "pool replaces" if operation.replaces else "pool"
    if isinstance(operation, Copy):
        return "copy" if operation.repeats == 1 else f"copy {operation.repeats}"
    name = operation.op.name.lower()
    return f"vector {name}" if isinstance(operation, Vector) else name


__all__ = [
    "LAYOUT", "choose", "estimated_cycles", "least_cycles", "skeleton", "spaces", "workload_of",
]  # fmt: skip
