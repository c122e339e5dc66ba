"""What a latency report says, as frozen data with a versioned JSON schema.

Every figure knows its unit and how it was come by: see `LABELS`. Nothing here measures or
draws: `text`, `plots` and `html` show a `ReportData`, and `compiler.report.report` adds the
methods that call them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.codec import DecodeError, decode, encode
from compiler.errors import BundleError, FileError

from .elsewhere_model import Elsewhere
from .figure import LABELS, Figure
from .mixed_model import PrecisionSearch
from .upgrade import upgrade
from .vta_model import VtaReport

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = "tilewright.report"
SCHEMA_VERSION = 3

#: The kernels' times and the end-to-end time should agree this well; a larger gap is pointed out.
GAP_TOLERANCE = 0.05


class ReportError(BundleError):
    """A report's document is damaged, foreign, or newer than this release."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what the figures were taken.

    Attributes:
        cpu: The processor's own name.
        system: Operating system, kernel and machine.
        threads: Threads that the compiled code ran on.
        pinned_core: Core that the process was pinned to, None if it was not.
        load_1min: The system's load average when the measurement began; a high one means
            that other programs disturbed it. None where the system has no such figure.
        date: UTC, ISO 8601.
        versions: Version of each program and package that matters.
    """

    cpu: str
    system: str
    threads: int
    pinned_core: int | None
    load_1min: Figure | None
    date: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one whole inference, after warm-up, in milliseconds.

    Attributes:
        p10: A tenth of the runs is faster; None, like `p90`, for a time that is estimated.
        median: The middle run.
        p90: A tenth of the runs is slower.
        runs: Runs that were timed; 0 for a time that is estimated.
        warmup: Runs before them.
    """

    p10: Figure | None
    median: Figure
    p90: Figure | None
    runs: int
    warmup: int


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel's part of an inference: all its calls together.

    Attributes:
        name: Symbol in the shared object.
        kind: Kind of operator, as in `compiler.stages.KernelInfo`.
        operators: Operators of the model fused into it.
        rule: Schedule rule that served it.
        fallback: Whether only the generic fallback fitted.
        why: Why it met only the fallback, or a remark.
        sources: Module paths of the model it came from.
        dtype: Dtype of its arithmetic.
        calls: Calls in one inference.
        time: Median time of one inference spent in it, ms.
        share: Of the end-to-end median, %.
        flops: Arithmetic operations in one inference (a multiply-add is two); None, like
            `bytes_moved`, for a function that the compiler knows nothing of.
        bytes_moved: Bytes of inputs, weights and outputs in one inference, each once a call.
        gflops: `flops` over `time`; estimated, since the operations were counted from shapes.
        roofline: Least time that the target's peaks allow, over `time`, %. None where the
            target gives no peak for the dtype. Above 100 % means the data came from caches.
        bound: What limits it: by the target's peaks ``compute`` or ``memory``. Where cycles are
            estimated ``memory`` if moving its tensors takes them all or misses of the caches
            half of them, else ``compute`` if arithmetic at the peak rate takes half of them,
            else ``instructions``. "" if unknown.
        source: Where its schedule comes from: ``record`` (a tuning record), ``default`` (the
            analytic choice for a kernel that could be tuned), ``rule`` (nothing to tune),
            ``fallback``, or ``unknown``.
        tier: How well the record fits: ``same CPU`` or ``same features``; empty without one.
        record: ID of the tuning record; empty without one.
        choice: The decisions it was built with, None where there is nothing to decide.
        miss: Why no record serves a kernel that could be tuned; empty otherwise.
        instructions: Executed in one inference; None where nothing was counted.
        cycles: Of one inference, by a model of the processor; None where there is none.
        misses: Of each level of cache in one inference, by ``L1``, ...; empty where they were
            not simulated.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    rule: str
    fallback: bool
    why: str
    sources: tuple[str, ...]
    dtype: str
    calls: Figure
    time: Figure
    share: Figure
    flops: Figure | None
    bytes_moved: Figure | None
    gflops: Figure | None
    roofline: Figure | None
    bound: str
    source: str
    tier: str
    record: str
    choice: Mapping[str, Any] | None
    miss: str
    instructions: Figure | None = None
    cycles: Figure | None = None
    misses: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindRow:
    """Time spent in one kind of operator."""

    kind: str
    calls: Figure
    time: Figure
    share: Figure


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """Kernels whose schedules come from the same place.

    Attributes:
        source: As `KernelRow.source`, or ``overhead`` for the time that no kernel takes.
        tier: As `KernelRow.tier`.
        kernels: How many; 0 for the overhead.
        flops_share: Of the FLOPs of all kernels, %.
        share: Of the end-to-end median, %.
    """

    source: str
    tier: str
    kernels: int
    flops_share: Figure
    share: Figure


@dataclass(frozen=True, slots=True)
class Roof:
    """The target's ceilings, for as many cores as the model ran on.

    Attributes:
        gflops: Peak arithmetic rate for each dtype that the kernels use.
        bandwidth: Peak bandwidth of main memory, GB/s.
        caches: The same of each level of cache, where cycles are estimated by it: ``L1``, ...
    """

    gflops: Mapping[str, Figure]
    bandwidth: Figure
    caches: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """Activation bytes alive while one kernel call runs."""

    kernel: str
    live: Figure


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one inference and of the process.

    Attributes:
        planned_peak: Peak of the compiler's static plan for activations; None if shapes are
            dynamic and nothing was planned.
        allocated: Activation storage that the virtual machine really asked for, in all.
        live_peak: Largest sum of the buffers alive at once, from sizes and last uses.
        process_rss: Resident memory of the measuring process, with Python and TVM in it; None
            where nothing was measured, or on another device.
        schedule: Live bytes over the calls of one inference, in order.
    """

    planned_peak: Figure | None
    allocated: Figure | None
    live_peak: Figure | None
    process_rss: Figure | None
    schedule: tuple[MemoryStep, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far the compiled model's outputs are from a reference's on the same inputs.

    Attributes:
        max_abs: Largest absolute difference over all outputs.
        max_rel: Largest difference of an output over that output's largest magnitude.
        reference: What it was compared with.
    """

    max_abs: Figure
    max_rel: Figure
    reference: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What one operator of the model became by quantization.

    Attributes:
        name: Its name in the plan.
        kind: The operator.
        precision: ``int8`` or ``float32``.
        weight: How its weight is stored, such as ``int8/channel``; empty without one.
        method: How the weight's scales were chosen.
        why: Why it stays in float32; empty if it does not.
        sqnr: Signal to quantization noise of its result, in a simulation; None for float32,
            for results without noise, and where no samples were looked at.
        bytes_before: Its weight in float32.
        bytes_after: Its weight as integers, without scales.
    """

    name: str
    kind: str
    precision: str
    weight: str
    method: str
    why: str
    sqnr: Figure | None
    bytes_before: Figure | None
    bytes_after: Figure | None


@dataclass(frozen=True, slots=True)
class Quantization:
    """What quantization did to the model.

    Attributes:
        recipe: The options, as the plan has them.
        samples: Calibration samples; None if a plan was given.
        layers: All operators, in order.
        bytes_before: All parameters of the model as it came.
        bytes_after: All parameters of the compiled model, scales and packing included.
        metric_before: The user's metric in PyTorch; None without one.
        metric_after: The user's metric on the compiled model.
        golden_sha256: Hash of the golden outputs: the same on every target.
        search: What was tried to find the precisions; None if they were given.
    """

    recipe: Mapping[str, Any]
    samples: int | None
    layers: tuple[LayerRow, ...]
    bytes_before: Figure
    bytes_after: Figure
    metric_before: Figure | None
    metric_after: Figure | None
    golden_sha256: str
    search: PrecisionSearch | None = None


@dataclass(frozen=True, slots=True)
class CompileStep:
    """One stage or pass of the compilation."""

    stage: str
    name: str
    time: Figure
    detail: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that is known of one compiled model on one machine.

    Attributes:
        model: Name of the model.
        target: Name of the target it was compiled for.
        target_title: The target in words.
        precision: Of the heavy operators' inputs: ``float32``, ``bfloat16``, or ``int8`` for
            a quantized model.
        inputs: One line for each input: name, dtype, shape.
        outputs: The same for the outputs.
        environment: Machine, versions and date.
        latency: End-to-end time.
        kernels: Every kernel, most time first.
        interruptions: Median time of all calls in one replay, less the sum of each call's
            median: what other programs on the machine took, near 0 on a quiet one.
        interruptions_share: `interruptions` as a share of the median, %.
        gap: Median end-to-end time outside all kernels: the virtual machine, allocation and
            measurement noise. Kernels, interruptions and gap add up to the median exactly.
            Negative if the kernels took longer one by one than in a whole run.
        gap_share: `gap` as a share of the median, %.
        kinds: Time by kind of operator, most first.
        coverage: What share of the work runs on tuning records, by tier, on defaults, by
            rules and on fallbacks; each column of shares adds up to 100 %.
        fallback_share: Share of the median spent in kernels that met only the fallback, %.
        roof: The target's ceilings.
        memory: Activations and process.
        sizes: Artefacts' sizes in bytes: ``parameters``, ``library``, ``bundle`` …
        accuracy: Against PyTorch, None if it was not compared.
        compile_steps: What the compiler did and how long it took.
        notes: Remarks on the measurement, in sentences.
        quantization: What quantization did; None if nothing is quantized.
        vta: What runs on VTA, and how long; None for other targets. `latency` and `kernels`
            are then the host's part alone, with packing and copying.
        elsewhere: Where the figures come from if they are not this machine's, which
            `environment` then describes unless a device was measured; None if they are.
    """

    model: str
    target: str
    target_title: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    environment: Environment
    latency: Latency
    kernels: tuple[KernelRow, ...]
    interruptions: Figure
    interruptions_share: Figure
    gap: Figure
    gap_share: Figure
    kinds: tuple[KindRow, ...]
    coverage: tuple[CoverageRow, ...]
    fallback_share: Figure
    roof: Roof
    memory: Memory
    sizes: Mapping[str, Figure]
    accuracy: Accuracy | None
    compile_steps: tuple[CompileStep, ...]
    notes: tuple[str, ...] = ()
    quantization: Quantization | None = None
    vta: VtaReport | None = None
    elsewhere: Elsewhere | None = None

    @property
    def label(self) -> str:
        """How the times were come by."""
        return self.latency.median.label

    @property
    def fallbacks(self) -> tuple[KernelRow, ...]:
        """Kernels that met only the generic fallback, most time first."""
        return tuple(k for k in self.kernels if k.fallback)

    @property
    def misses(self) -> tuple[KernelRow, ...]:
        """Kernels that could be tuned and have no record, most time first."""
        return tuple(k for k in self.kernels if k.miss)

    @property
    def tunable(self) -> tuple[KernelRow, ...]:
        """Kernels with a record, and those that could have one, most time first."""
        return tuple(k for k in self.kernels if k.miss or k.source in ("record", "default"))

    @property
    def adds_up(self) -> bool:
        """Whether the kernels' times add up to the end-to-end median within 5 %."""
        if self.label == "estimated":
            return True
        between = self.gap.value + self.interruptions.value
        return abs(between) <= GAP_TOLERANCE * self.latency.median.value

    @property
    def overheads(self) -> tuple[tuple[str, Figure, Figure], ...]:
        """Name, time and share of what is no kernel."""
        if self.label == "estimated":
            # What no row would show.
            if self.gap_share.value < 0.05:
                return ()
            return (("outside kernels", self.gap, self.gap_share),)
        return (
            ("VM and gaps", self.gap, self.gap_share),
            ("interruptions", self.interruptions, self.interruptions_share),
        )

    @property
    def kernel_time(self) -> Figure:
        """Sum of the kernels' times, ms."""
        total = sum(k.time.value for k in self.kernels)
        return Figure(total, "ms", self.latency.median.label)

    @property
    def compile_time(self) -> Figure:
        """Sum of the compile steps, ms."""
        return Figure.measured(sum(s.time.value for s in self.compile_steps), "ms")

    @property
    def total_flops(self) -> Figure:
        """Arithmetic operations of one inference, of the kernels that they are known of."""
        total = sum(k.flops.value for k in self.kernels if k.flops is not None)
        return Figure.estimated(total, "FLOP")

    @property
    def gflops(self) -> Figure | None:
        """Rate over the whole inference; None if nothing was counted."""
        flops, milliseconds = self.total_flops.value, self.latency.median.value
        if not flops or not milliseconds:
            return None
        return Figure.estimated(flops / milliseconds / 1e6, "GFLOPS")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, with the schema's name and version first."""
        return {"schema": SCHEMA, "version": SCHEMA_VERSION, **encode(self, non_finite=True)}

    def to_json(self) -> str:
        """The report as a JSON document; `from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "report") -> Self:
        """Read what `to_json` wrote.

        Args:
            text: The document, UTF-8.
            where: What to call it in an error.

        Raises:
            ReportError: It is no report, is damaged, or has a newer schema.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReportError(
                f"not a JSON document ({error})", where=where, hint="write the report again"
            ) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ReportError(
                f'not a latency report: there is no "schema": "{SCHEMA}"',
                where=where,
                hint="give a file that `Report.to_json` or `tilewright report --json` wrote",
            )
        version = data.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ReportError(
                f"the schema version is {version!r}, not a positive integer",
                where=where,
                hint="the file is damaged; write the report again",
            )
        if version > SCHEMA_VERSION:
            raise ReportError(
                f"schema version {version} is newer than {SCHEMA_VERSION}, the newest that "
                "this release reads",
                where=where,
                hint="update tilewright",
            )
        body = {key: value for key, value in data.items() if key not in ("schema", "version")}
        if version < SCHEMA_VERSION:
            body = upgrade(body, version)
        try:
            return decode(cls, body, non_finite=True)
        except DecodeError as error:
            raise ReportError(
                f"the report is damaged at {error}", where=where, hint="write the report again"
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a report from a JSON file.

        Raises:
            FileError: The file cannot be read.
            ReportError: As `from_json`.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise FileError(
                f"cannot read the report ({error.strerror})",
                where=str(path),
                hint="check that the file exists and may be read",
            ) from error
        return cls.from_json(text, where=str(path))


__all__ = [
    "GAP_TOLERANCE",
    "LABELS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Accuracy",
    "CompileStep",
    "CoverageRow",
    "Elsewhere",
    "Environment",
    "Figure",
    "KernelRow",
    "KindRow",
    "Latency",
    "LayerRow",
    "Memory",
    "MemoryStep",
    "Quantization",
    "ReportData",
    "ReportError",
    "Roof",
]
