"""The results of the pipeline's stages, as types.

``frontend -> lower -> build -> package -> report``: each stage takes the type before it and
returns the next. Nothing here imports TVM or torch at run time, so that the command line
can list targets or read a report without paying for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from targets.spec import TargetSpec
    from targets.vta import Program, VtaConfig

    Array = npt.NDArray[Any]
    Arrays = Mapping[str, npt.NDArray[np.generic]]

STAGES = ("frontend", "compress", "lower", "tune", "build", "package", "report")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of an input or output.

    A dimension is an int, or the name of a symbolic size such as ``"batch"``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage or pass did and how long it took, for the report."""

    stage: str
    name: str
    milliseconds: float
    detail: str = ""


@dataclass(slots=True)
class StageLog:
    """Collects `StageRecord`s while the pipeline runs."""

    records: list[StageRecord] = field(default_factory=list)

    @contextmanager
    def time(self, stage: str, name: str) -> Iterator[list[str]]:
        """Time a block of work; strings appended to the yielded list become its detail."""
        detail: list[str] = []
        start = perf_counter()
        try:
            yield detail
        finally:
            elapsed = (perf_counter() - start) * 1e3
            self.records.append(StageRecord(stage, name, elapsed, "; ".join(detail)))


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One generated function and what is known about it before it runs.

    Attributes:
        name: Symbol of the function in the shared object.
        kind: Kind of operator: ``conv2d``, ``depthwise_conv2d``, ``dense``, ``batch_matmul``,
            ``softmax``, ``layer_norm``, ``reduction``, ``pool``, ``elementwise``, ``layout``,
            ``gather``, ``resize``, ``other``.
        operators: Relax operators fused into it, in order.
        rule: Name of the schedule rule that served it.
        fallback: Whether only the generic fallback fitted it.
        flops: Arithmetic operations of one call (a multiply-add is two); 0 for pure data movement.
        bytes_read: Bytes of all its input tensors, weights included.
        bytes_written: Bytes of its outputs.
        dtype: Dtype that its arithmetic runs in.
        sources: Module paths of the model that it came from, as far as known.
        why: Why it met only the fallback, or a remark on the schedule.
        source: Where its schedule comes from: ``record`` (a tuning record), ``default`` (the
            analytic choice for a kernel that could be tuned), ``rule`` (nothing to tune) or
            ``fallback``.
        tier: How well the record fits: ``same CPU`` or ``same features``; empty without one.
        record: ID of the tuning record; empty without one.
        choice: The decisions it was built with, None where there is nothing to decide.
        miss: Why no record serves a kernel that could be tuned.
        calls: How often one inference calls it.
        slower: That float32 would be faster than these integers, and by what figures; empty if
            it would not.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    rule: str
    fallback: bool
    flops: float
    bytes_read: float
    bytes_written: float
    dtype: str
    sources: tuple[str, ...] = ()
    why: str = ""
    source: str = "rule"
    tier: str = ""
    record: str = ""
    choice: Mapping[str, Any] | None = None
    miss: str = ""
    calls: int = 1
    slower: str = ""


#: Functions that run a VTA program, with the region's number behind it.
VTA_FUNCTION = "tilewright.vta.run."


@dataclass(frozen=True, slots=True)
class VtaTensor:
    """An activation between host and VTA.

    Attributes:
        name: Of the program's buffer.
        channels: Channels.
        height: Rows.
        width: Columns.
        rows: Whether the host's array has channels last, one row after another; else they
            come first.
    """

    name: str
    channels: int
    height: int
    width: int
    rows: bool

    @property
    def size(self) -> int:
        """Bytes of one image."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class VtaLayer:
    """A layer that VTA computes.

    Attributes:
        name: Its name.
        operator: ``conv2d``, ``depthwise_conv2d``, ``grouped_conv2d``, ``sum`` or
            ``max_pool2d``.
        operators: Operators of the integer graph that it stands for.
        choice: Its tiling.
        macs: Multiply-accumulates by its definition, for one image.
        weight_bytes: Of its packed weights.
        added: Tensors that are added to its result.
    """

    name: str
    operator: str
    operators: tuple[str, ...]
    choice: Mapping[str, Any]
    macs: int
    weight_bytes: int
    added: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class VtaRegion:
    """Layers that are one VTA program.

    Attributes:
        name: Its name.
        program: The program; it computes one image.
        batch: Images of one inference.
        inputs: What the host gives it, in order.
        outputs: What it gives the host.
        layers: Its layers.
        owners: The layer that each instruction works for; -1: none.
    """

    name: str
    program: Program
    batch: int
    inputs: tuple[VtaTensor, ...]
    outputs: tuple[VtaTensor, ...]
    layers: tuple[VtaLayer, ...]
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VtaHostOperator:
    """An operator that computes something and stays on the host.

    Attributes:
        name: Its name.
        kind: The operator.
        why: Why.
    """

    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class VtaPart:
    """What of a model runs on VTA.

    Attributes:
        config: The VTA.
        board_host: Name of the processor by which layers were placed.
        regions: The programs, in the order of their numbers.
        host: What stays on the host, and why.
    """

    config: VtaConfig
    board_host: str
    regions: tuple[VtaRegion, ...]
    host: tuple[VtaHostOperator, ...]


@dataclass(frozen=True, slots=True)
class ImportedWeight:
    """How a weight was stored by a model that was quantized elsewhere.

    Attributes:
        dtype: ``int8`` or ``int4``.
        granularity: ``tensor``, ``channel`` or ``group``, as in a plan.
        axis: Axis of channels in PyTorch's layout.
        group: Inputs that share a scale; 0 without groups.
        scales: One, one a channel, or one a group of each channel in turn.
        low: Least value that is stored.
        symmetric: Whether 0 is stored as 0.
    """

    dtype: str
    granularity: str
    axis: int
    group: int
    scales: tuple[float, ...]
    low: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class QuantizedElsewhere:
    """What a model that was quantized elsewhere says of itself.

    Attributes:
        source: What quantized it: ``PT2E`` or ``torchao``.
        module: The model as in `Imported`, with markers behind the activations that it rounds.
        weights: How weights were stored, by parameter.
    """

    source: str
    module: Any  # tvm.IRModule
    weights: Mapping[str, ImportedWeight]


@dataclass(frozen=True, slots=True)
class Imported:
    """A model as a Relax module, with its parameters beside it by name.

    `module["main"]` takes the inputs in the order of `inputs`, then the parameters in the
    order of `parameters` (a dict keeps it). Of a model that was quantized elsewhere `module` is
    the float32 model, and `quantized` what it was quantized to.
    """

    module: Any  # tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Arrays
    name: str
    quantized: QuantizedElsewhere | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parameter that is made of a compact one when the model is loaded.

    Attributes:
        parameter: Its name; the tensor of this name is the compact one.
        function: The function of the module that makes it: takes the compact tensor, and the one
            that it writes.
        shape: Of what it writes, which `main` takes.
        dtype: The same.
    """

    parameter: str
    function: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Lowered:
    """A scheduled module: every function in it has a schedule, constants are parameters again.

    `parameters` are the packed, folded tensors that `main` takes after the inputs, in order; of
    those in `prepared` the tensors that they are made of. `planned_activation_bytes` is the peak of
    the static memory plan (0 if shapes are dynamic).
    """

    module: Any  # tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Arrays
    kernels: tuple[KernelInfo, ...]
    planned_activation_bytes: int
    name: str
    vta: VtaPart | None = None
    prepared: tuple[Prepared, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """Machine code: the path of a shared object, and all that is needed to run it."""

    library: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Arrays
    kernels: tuple[KernelInfo, ...]
    planned_activation_bytes: int
    target: TargetSpec
    name: str
    vta: VtaPart | None = None
    prepared: tuple[Prepared, ...] = ()


@runtime_checkable
class ReportLike(Protocol):
    """What a bundle needs of its report; `compiler.report.Report` is the real one."""

    def to_json(self) -> str:
        """The report as a JSON document."""

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML page."""
