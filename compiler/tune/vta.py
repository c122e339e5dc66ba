"""Tuning of VTA's layers: the same search as on processors, with simulated cycles for latencies.

A task is one layer as a program of its own. A candidate is a tiling; one that is over a limit of
the on-chip memories, the micro-ops or the tokens is refused by the template before it is simulated.
Every candidate runs with all of the simulator's checks, and its output is compared with the NumPy
reference bit for bit.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.compress.plan import CompressionPlan
from compiler.lower.pipeline import Lowering, graph_passes, run_steps
from compiler.lower.tasks import Task
from compiler.lower.vta.offload import Accelerator
from compiler.stages import Imported, StageLog
from compiler.tune.events import Listener, ignore
from compiler.tune.measure.base import Failed, Measured, Outcome, Rejected
from compiler.tune.session import tune
from schedules.records import Cpu, RecordStore
from schedules.records.selector import record_selector
from schedules.space import Choice, Space
from schedules.tvm_adapter import IRModule, te
from schedules.vta import templates
from schedules.vta.layers import Conv2d, Layer, MaxPool2d, Region
from schedules.vta.program import LoweringError, build_program
from schedules.vta.reference import reference_run
from schedules.vta.work import Refused
from schedules.workload import Workload
from targets.errors import TargetError
from targets.spec import TargetSpec
from targets.vta.config import VtaConfig, vta_config

if TYPE_CHECKING:
    from compiler.tune.options import Tune
    from compiler.tune.result import TuneResult

#: The name of what gives latencies, for records.
RUNNER = "vta-simulator"


@dataclass(frozen=True)
class LayerTask:
    """A layer to tune.

    Attributes:
        task: As the search sees it.
        region: The layer alone.
    """

    task: Task
    region: Region


def extract_layers(regions: Iterable[Region], spec: TargetSpec) -> tuple[LayerTask, ...]:
    """The distinct layers of regions that leave a choice, those with most operations first.

    Raises:
        TargetError: `spec` is no VTA.
    """
    config = vta_config(spec)
    found: dict[str, LayerTask] = {}
    calls: dict[str, int] = {}
    for region in regions:
        for layer in region.layers:
            try:
                workload = templates.workload_of(layer, region, config)
            except Refused:
                continue
            calls[workload.key] = calls.get(workload.key, 0) + 1
            if workload.key not in found:
                found[workload.key] = _layer_task(layer, region, workload)
    tasks = [
        LayerTask(Task(**{**vars(item.task), "calls": calls[key]}), item.region)
        for key, item in found.items()
    ]
    return tuple(sorted(tasks, key=lambda t: -t.task.flops * t.task.calls))


def find_regions(
    imported: Imported,
    host: TargetSpec,
    accelerator: Accelerator,
    plan: CompressionPlan,
    log: StageLog,
) -> tuple[Region, ...]:
    """What of a model runs on VTA.

    Args:
        imported: The model.
        host: What its other part is compiled for.
        accelerator: The VTA.
        plan: Integers, with scales that are powers of two.
        log: Receives one record a pass.

    Raises:
        TilewrightError: The plan does not fit the model or the VTA.
    """
    found: list[Region] = []

    def keep(region: Region) -> dict[str, Choice]:
        found.append(region)
        return {}

    state = Lowering(imported, host, plan=plan, accelerator=replace(accelerator, tilings=keep))
    steps = graph_passes(state)
    last = next(n for n, step in enumerate(steps) if step.name == "OffloadToVta")
    run_steps(steps[: last + 1], imported.module, host, log)
    return tuple(found)


def tilings_of(
    spec: TargetSpec, stores: Sequence[RecordStore]
) -> Callable[[Region], dict[str, Choice]]:
    """What records say of a region's layers: for `Accelerator.tilings`.

    Args:
        spec: The VTA.
        stores: Where to look.
    """
    select = record_selector(stores, spaces=templates.spaces)
    return lambda region: templates.choose(region, spec, select)[0]


def tune_layers(
    layers: Sequence[LayerTask],
    spec: TargetSpec,
    options: Tune,
    store: RecordStore,
    *,
    progress: Listener = ignore,
    others: Sequence[RecordStore] = (),
    cancel: threading.Event | None = None,
) -> TuneResult:
    """Search for tilings that take fewer simulated cycles, and keep the best as records.

    Args:
        layers: Of `extract_layers`.
        spec: The target.
        options: Limits, and which layers to work on.
        store: The record store that is written to.
        progress: Is told what happens.
        others: Further stores, which are only read.
        cancel: Ends the run when set by another thread.

    Raises:
        StoreError: The store cannot be read or written.
    """
    return tune(
        [layer.task for layer in layers], spec, options, store,
        measurer=SimulatorMeasurer(spec, layers), progress=progress, others=others,
        kernels=LayerKernels(vta_config(spec)), cancel=cancel,
    )  # fmt: skip


class LayerKernels:
    """The tilings of `schedules.vta`, for the search; see `compiler.tune.kernels.Kernels`.

    Args:
        config: The VTA.
    """

    def __init__(self, config: VtaConfig) -> None:
        self._config = config

    def spaces(self, workload: Workload, spec: TargetSpec) -> Sequence[Space]:
        """The tilings."""
        return templates.spaces(workload, spec)

    def estimated_cycles(self, workload: Workload, choice: Choice, spec: TargetSpec) -> float:
        """The analytic model's cycles; infinite for a tiling over a limit of the hardware."""
        return templates.estimated_cycles(workload, choice, spec)

    def least_flops(self, workload: Workload, spaces: Sequence[Space]) -> float:
        """Operations that no tiling can leave out; products with zeros around an image are."""
        del spaces
        return 2.0 * self._config.macs_per_cycle * templates.least_cycles(workload, self._config)

    def function(self, task: Task) -> Any:
        """The canonical function; candidates are annotations on it."""
        return task.module


@dataclass
class SimulatorMeasurer:
    """Builds candidates and runs them on the simulator.

    Args:
        spec: The target.
        layers: The layers that are tuned.
    """

    spec: TargetSpec
    layers: Sequence[LayerTask]
    label: str = "simulated"
    runner: str = RUNNER
    _regions: dict[str, Region] = field(init=False)
    _known: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(
        init=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self._config = vta_config(self.spec)
        self._regions = {t.task.workload.key: t.region for t in self.layers}

    @property
    def cpu(self) -> Cpu:
        """The simulator, as records name it."""
        return Cpu("Tilewright's VTA simulator", RUNNER, frozenset(), 0, 1)

    def measure(
        self, task: Task, choices: Sequence[Choice], *, cancel: threading.Event
    ) -> list[Outcome]:
        """One outcome for each choice, in order; the latency is simulated."""
        return [
            Failed("cancelled", "the run was ended") if cancel.is_set() else self._one(task, c)
            for c in choices
        ]

    def close(self) -> None:
        """Nothing to free."""

    def _one(self, task: Task, choice: Choice) -> Outcome:
        began = time.perf_counter()
        region = self._regions[task.workload.key]
        inputs, wanted = self._data(task.workload.key, region)
        try:
            built = build_program(region, self._config, {region.layers[0].name: choice})
        except (LoweringError, ValueError) as error:
            return Failed("build", str(error), time.perf_counter() - began)
        ready = time.perf_counter()
        try:
            outputs, result = built.run(inputs)
            result.check()
        except TargetError as error:
            return Rejected(str(error), ready - began, time.perf_counter() - ready)
        spent = time.perf_counter() - ready
        for name, value in outputs.items():
            wrong = int((value != wanted[name]).sum())
            if wrong:
                return Rejected(f"{wrong} numbers of its output are wrong", ready - began, spent)
        nanoseconds = result.cycles / self._config.clock_hz * 1e9
        return Measured((nanoseconds,), 0.0, 0.0, ready - began, spent)

    def _data(self, key: str, region: Region) -> tuple[dict[str, Any], dict[str, Any]]:
        if key not in self._known:
            numbers = np.random.default_rng(0)
            inputs = {}
            for name in region.inputs:
                item = region.tensor(name)
                values = numbers.integers(item.low, item.high + 1, item.shape)
                inputs[name] = values.astype(np.int8)
            self._known[key] = inputs, reference_run(region, inputs)
        return self._known[key]


def _layer_task(layer: Layer, region: Region, workload: Workload) -> LayerTask:
    tensors = tuple(
        region.tensor(name) if name == layer.output else _limited(name, region)
        for name in dict.fromkeys((*layer.inputs, layer.output))
    )
    inputs = tuple(dict.fromkeys(layer.inputs))
    alone = Region(layer.name, tensors, (layer,), inputs, (layer.output,))
    sizes = [math.prod(t.shape) for t in tensors]
    weights = layer.weight.size + 4 * layer.bias.size if isinstance(layer, Conv2d) else 0
    task = Task(
        name=layer.name,
        workload=workload,
        calls=1,
        flops=workload.flops,
        bytes=float(sum(sizes) + weights),
        structural_hash="",
        module=_canonical(layer, alone),
    )
    return LayerTask(task, alone)


def _limited(name: str, region: Region) -> Any:
    """An input of the layer alone, with the limits that it has in its region."""
    low, high = region.limits(name)
    return replace(region.tensor(name), low=low, high=high)


def _canonical(layer: Layer, region: Region) -> Any:
    """The layer's sum as a function; MetaSchedule annotates it with candidates."""
    output = region.tensor(layer.output)
    if isinstance(layer, MaxPool2d):
        data = te.placeholder(region.tensor(layer.data).shape, "int8", "data")
        least = te.const(-128, "int8")
        padded = _padded(data, layer.padding, least)
        ky, kx = (te.reduce_axis((0, n), name) for n, name in zip(layer.kernel, "yx", strict=True))
        made = te.compute(
            output.shape,
            lambda c, y, x: te.max(
                padded[c, y * layer.strides[0] + ky, x * layer.strides[1] + kx], axis=[ky, kx]
            ),
            name="pooling",
        )
        return IRModule({"main": te.create_prim_func([data, made])})
    if not isinstance(layer, Conv2d):
        operands = [te.placeholder(region.tensor(n).shape, "int8", n) for n in layer.inputs]
        total = te.compute(
            output.shape,
            lambda *i: sum((o(*i).astype("int32") for o in operands[1:]),
                           operands[0](*i).astype("int32")),
            name="sum",
        )  # fmt: skip
        return IRModule({"main": te.create_prim_func([*operands, total])})
    data = te.placeholder(region.tensor(layer.data).shape, "int8", "data")
    weight = te.placeholder(layer.weight.shape, "int8", "weight")
    padded = _padded(data, layer.padding, te.const(0, "int8"))
    outputs, inner, kh, kw = layer.weight.shape
    i, ky, kx = (te.reduce_axis((0, n), name) for n, name in ((inner, "i"), (kh, "ky"), (kw, "kx")))
    share = outputs // layer.groups
    made = te.compute(
        output.shape,
        lambda o, y, x: te.sum(
            padded[
                o // share * inner + i,
                y * layer.strides[0] + ky * layer.dilation[0],
                x * layer.strides[1] + kx * layer.dilation[1],
            ].astype("int32") * weight[o, i, ky, kx].astype("int32"),
            axis=[i, ky, kx],
        ),
        name="convolution",
    )  # fmt: skip
    return IRModule({"main": te.create_prim_func([data, weight, made])})


def _padded(data: Any, padding: tuple[int, int, int, int], value: Any) -> Any:
    top, left, bottom, right = padding
    channels, height, width = data.shape
    return te.compute(
        (channels, height + top + bottom, width + left + right),
        lambda c, y, x: te.if_then_else(
            te.all(y >= top, y < height + top, x >= left, x < width + left),
            data[c, y - top, x - left], value,
        ),
        name="padded",
    )  # fmt: skip


__all__ = [
    "LayerKernels", "LayerTask", "SimulatorMeasurer", "extract_layers", "find_regions",
    "tilings_of", "tune_layers",
]  # fmt: skip
