"""One tuning record: a choice for a workload, how fast it was, and where that was measured.

A record is data. It names options of a template (`schedules.space`); it holds no code, no
schedule and no trace, and what it names is looked up in what this release offers before it is
used. Its ID is the SHA-256 of its file's bytes, which have one form only.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast, get_args

from schedules.records.errors import RecordError
from schedules.records.strict import Fields, canonical, frozen, parse, plain
from schedules.space import Choice
from schedules.workload import Json, Workload
from targets.cpuinfo import CpuFacts, cpu_id, read_cpu
from targets.errors import TargetError
from targets.host import describe_host
from targets.parse import parse_target
from targets.spec import TargetSpec

#: The only schema that this release writes and reads.
SCHEMA = 1

#: ``measured`` on the CPU that the record names, ``simulated`` by the simulator that it names, or
#: ``estimated`` by a model. Estimates serve where nothing was measured, if the kernel's output was
#: checked in emulation.
Label: TypeAlias = Literal["measured", "simulated", "estimated"]

_DATE = "%Y-%m-%dT%H:%M:%SZ"
_ID = re.compile(r"[0-9a-f]{64}")
_OPERATOR = re.compile(r"[a-z][a-z0-9_]{0,39}")
_DECISION = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_VERSIONS = ("tilewright", "tvm", "tvm_ffi", "llvm")
_MAX_SAMPLES = 4096
_MAX_EXTENT = 2**31
#: Prose of a target's description, and what depends on this release: no facts of the device.
_NO_FACTS = ("sources", "status", "available")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecordError(message)


@dataclass(frozen=True)
class Measurement:
    """How long one call took, in nanoseconds.

    Attributes:
        label: Where the figures come from.
        samples: Every sample, in the order of measuring; empty if estimated.
        median: Of the samples, or the estimate.
    """

    label: Label
    samples: tuple[float, ...]
    median: float

    def __post_init__(self) -> None:
        _require(self.label in get_args(Label), f"the label is {self.label!r}")
        _require(len(self.samples) <= _MAX_SAMPLES, f"it has more than {_MAX_SAMPLES} samples")
        for value in (*self.samples, self.median):
            _require(0 < value < 1e15, f"a latency of {value!r} ns is impossible")
        if self.label != "estimated":
            _require(bool(self.samples), f"it is {self.label}, but has no samples")
            _require(median(self.samples) == self.median, "its median is not that of its samples")
        else:
            _require(not self.samples, "it is estimated, but has samples")

    @classmethod
    def of(cls, samples_ns: Sequence[float], label: Label = "measured") -> Measurement:
        """A measurement; samples are kept to a tenth of a nanosecond. An estimate has none."""
        samples = tuple(round(float(value), 1) for value in samples_ns)
        _require(bool(samples), f"it is {label}, but has no samples")
        if label == "estimated":
            return cls(label, (), median(samples))
        return cls(label, samples, median(samples))


@dataclass(frozen=True)
class Baseline:
    """What the choice without a search took in the same session, on the same machine.

    Attributes:
        choice: The default of the release that measured.
        median: Of its samples, in nanoseconds (measured).
    """

    choice: Mapping[str, Json]
    median: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", frozen(self.choice))
        _check_choice(self.choice, "baseline.choice")
        _require(0 < self.median < 1e15, f"a baseline of {self.median!r} ns is impossible")


@dataclass(frozen=True)
class Check:
    """How the kernel's output compared with the reference kernel's.

    Attributes:
        max_relative_error: Largest difference, as a share of the reference's largest value.
        tolerance: The largest one accepted.
    """

    max_relative_error: float
    tolerance: float

    def __post_init__(self) -> None:
        _require(0 <= self.tolerance <= 1, f"a tolerance of {self.tolerance!r} is impossible")
        _require(
            0 <= self.max_relative_error <= self.tolerance,
            f"its output was off by {self.max_relative_error!r}, and {self.tolerance!r} is allowed",
        )


@dataclass(frozen=True)
class Cpu:
    """The processor that the kernel ran on.

    Attributes:
        name: The maker's text, as the system gives it.
        id: ``vendor-family-model`` in decimal (``GenuineIntel-6-143``): tells processors apart
            whose text a virtual machine hides.
        features: ISA features that it has, LLVM's names.
        vector_bits: Width of its vector registers.
        cores: Physical cores of the machine.
    """

    name: str
    id: str
    features: frozenset[str]
    vector_bits: int
    cores: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", frozenset(self.features))
        _require(bool(self.name) and bool(self.id), "its CPU has no name or ID")
        _require(0 <= self.vector_bits <= 16_384, f"vectors of {self.vector_bits} bits")
        _require(1 <= self.cores <= 10_000, f"a machine of {self.cores} cores is impossible")

    @classmethod
    def here(cls, facts: CpuFacts | None = None) -> Cpu:
        """This machine's, or the one of these facts (x86)."""
        facts = read_cpu() if facts is None else facts
        spec = describe_host(facts)
        name = facts.model_name or "unknown x86-64 processor"
        return cls(name, cpu_id(facts) or "unknown", spec.features, spec.vector_bits, spec.cores)


@dataclass(frozen=True)
class Provenance:
    """Where, when and with what a record was made.

    Attributes:
        target: What was compiled for, as `target_facts` gives it.
        cpu: What it ran on, which may have more features than the target.
        threads: Threads that the kernel ran on.
        system: Operating system, kernel's release, machine.
        versions: Of ``tilewright``, ``tvm``, ``tvm_ffi``, ``llvm`` and whatever else matters.
        runner: ``local`` or ``rpc:device``.
        session: ID of the tuning run: records of one session are directly comparable.
        date: UTC, ``2026-11-22T07:00:00Z``.
        parent: ID of the record of the same workload that this one beat when both were measured
            in its session, or None.
        spec: `target` as a typed object.
    """

    target: Mapping[str, Json]
    cpu: Cpu
    threads: int
    system: str
    versions: Mapping[str, str]
    runner: str
    session: str
    date: str
    parent: str | None = None
    spec: TargetSpec = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        target, spec = _parse_target(canonical(dict(self.target)))
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "versions", frozen(self.versions))
        _require(1 <= self.threads <= 10_000, f"a run on {self.threads} threads is impossible")
        missing = [name for name in _VERSIONS if not self.versions.get(name)]
        _require(not missing, f"the version of {', '.join(missing)} is missing")
        for name in ("system", "runner", "session"):
            _require(bool(getattr(self, name)), f"{name} is empty")
        try:
            parsed = datetime.strptime(self.date, _DATE)
        except ValueError:
            raise RecordError(
                f"its date is no UTC time like 2026-11-22T07:00:00Z: {self.date!r}"
            ) from None
        _require(parsed.strftime(_DATE) == self.date, f"its date is no full one: {self.date!r}")
        _require(
            self.parent is None or _ID.fullmatch(self.parent) is not None,
            f"its parent is no record's ID: {self.parent!r}",
        )

    @classmethod
    def here(
        cls,
        spec: TargetSpec,
        *,
        versions: Mapping[str, str],
        session: str,
        threads: int = 1,
        runner: str = "local",
        parent: str | None = None,
    ) -> Provenance:
        """For a kernel that ran on this machine, now.

        Args:
            spec: What it was compiled for.
            versions: At least of ``tilewright``, ``tvm``, ``tvm_ffi`` and ``llvm``.
            session: ID of the tuning run.
            threads: Threads that the kernel ran on.
            runner: What ran it.
            parent: The record that this one beat in the same session.
        """
        return cls(
            target=target_facts(spec),
            cpu=Cpu.here(),
            threads=threads,
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            versions=versions,
            runner=runner,
            session=session,
            date=datetime.now(timezone.utc).strftime(_DATE),
            parent=parent,
        )


@dataclass(frozen=True, eq=False)
class Record:
    """A choice for a workload and what is known about it; equal if the IDs are.

    Attributes:
        workload: What the kernel computes: the record's identity for lookups.
        choice: The decisions taken.
        structural_hash: TVM's hash of the canonical function: a hint only, it changes between
            TVM's releases; may be empty.
        flops: Arithmetic operations of one call (a multiply-add is two).
        measurement: How long a call took.
        provenance: Where that was.
        baseline: The default choice in the same session; None if it was not measured.
        check: The comparison with the reference kernel; every measured record has one.
    """

    workload: Workload
    choice: Mapping[str, Json]
    structural_hash: str
    flops: float
    measurement: Measurement
    provenance: Provenance
    baseline: Baseline | None = None
    check: Check | None = field(default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", frozen(self.choice))
        _check_workload(self.workload)
        _check_choice(self.choice, "choice")
        _require(len(self.structural_hash) <= 100, "its structural hash is too long")
        _require(0 <= self.flops < 1e18, f"{self.flops!r} operations are impossible")
        if self.measurement.label != "estimated":
            why = f"it is {self.measurement.label}, but its output was not checked"
            _require(self.check is not None, why)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return Record.from_bytes, (self.to_bytes(),)

    @cached_property
    def id(self) -> str:
        """SHA-256 of `to_bytes`, in hexadecimal: also what ``sha256sum`` says of the file."""
        return hashlib.sha256(self._content).hexdigest()

    @cached_property
    def _content(self) -> bytes:
        return canonical(self.to_json())

    @property
    def median_ns(self) -> float:
        """Median latency in nanoseconds."""
        return self.measurement.median

    @property
    def gflops(self) -> float:
        """Rate at the median latency, in 1e9 operations a second."""
        return self.flops / self.measurement.median

    @property
    def relative(self) -> float | None:
        """Median latency as a share of the baseline's; None without a baseline."""
        return None if self.baseline is None else self.measurement.median / self.baseline.median

    def to_json(self) -> dict[str, Json]:
        """The record as a JSON object."""
        by, cpu = self.provenance, self.provenance.cpu
        return {
            "schema": SCHEMA,
            "workload": self.workload.to_json(),
            "choice": dict(self.choice),
            "structural_hash": self.structural_hash,
            "flops": float(self.flops),
            "measurement": {
                "label": self.measurement.label,
                "unit": "ns",
                "samples": [float(v) for v in self.measurement.samples],
                "median": float(self.measurement.median),
            },
            "baseline": None
            if self.baseline is None
            else {"choice": dict(self.baseline.choice), "median": float(self.baseline.median)},
            "check": None
            if self.check is None
            else {
                "max_relative_error": float(self.check.max_relative_error),
                "tolerance": float(self.check.tolerance),
            },
            "provenance": {
                "target": dict(by.target),
                "cpu": {
                    "name": cpu.name,
                    "id": cpu.id,
                    "features": sorted(cpu.features),
                    "vector_bits": cpu.vector_bits,
                    "cores": cpu.cores,
                },
                "threads": by.threads,
                "system": by.system,
                "versions": dict(by.versions),
                "runner": by.runner,
                "session": by.session,
                "date": by.date,
                "parent": by.parent,
            },
        }

    def to_bytes(self) -> bytes:
        """The file's content: canonical JSON and a newline."""
        return self._content

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """The record in a file's content.

        Raises:
            RecordError: It is none that this release could have written, byte for byte.
        """
        document = parse(data)
        _check_schema(document)
        record = _from_document(document)
        if record.to_bytes() != data:
            raise RecordError("it is not in canonical form: keys twice, spaces, or other numbers")
        return record


def target_facts(spec: TargetSpec) -> dict[str, Json]:
    """Everything about a target that can matter to a kernel, as JSON."""
    return {name: value for name, value in spec.to_dict().items() if name not in _NO_FACTS}


def is_id(text: str) -> bool:
    """Whether a text has the form of a record's ID."""
    return _ID.fullmatch(text) is not None


def _check_schema(document: Mapping[str, Json]) -> None:
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise RecordError("it names no schema: it is no record of Tilewright")
    if schema > SCHEMA:
        raise RecordError(
            f"its schema is {schema}, and this release knows {SCHEMA}",
            hint="install a newer release; `tilewright records verify` then brings it back",
        )
    _require(schema == SCHEMA, f"there is no schema {schema}")


def _from_document(document: dict[str, Json]) -> Record:
    top = Fields(document, "record")
    top.get("schema")
    measured = top.fields("measurement")
    _require(measured.text("unit") == "ns", "record.measurement.unit must be 'ns'")
    measurement = Measurement(
        cast("Label", measured.text("label")),
        measured.numbers("samples"),
        measured.number("median"),
    )
    measured.done()
    baseline = check = None
    if top.get("baseline") is not None:
        of = top.fields("baseline")
        baseline = Baseline(of.object("choice"), of.number("median"))
        of.done()
    if top.get("check") is not None:
        of = top.fields("check")
        check = Check(of.number("max_relative_error"), of.number("tolerance"))
        of.done()
    record = Record(
        workload=_workload(top.object("workload")),
        choice=top.object("choice"),
        structural_hash=top.text("structural_hash"),
        flops=top.number("flops"),
        measurement=measurement,
        provenance=_provenance(top.fields("provenance")),
        baseline=baseline,
        check=check,
    )
    top.done()
    return record


def _provenance(by: Fields) -> Provenance:
    of = by.fields("cpu")
    cpu = Cpu(
        name=of.text("name"),
        id=of.text("id"),
        features=frozenset(of.texts("features")),
        vector_bits=of.integer("vector_bits"),
        cores=of.integer("cores"),
    )
    of.done()
    versions = by.object("versions")
    _require(all(isinstance(v, str) for v in versions.values()), "a version is no text")
    parent = by.get("parent")
    _require(parent is None or isinstance(parent, str), "record.provenance.parent is no text")
    provenance = Provenance(
        target=by.object("target"),
        cpu=cpu,
        threads=by.integer("threads"),
        system=by.text("system"),
        versions=versions,
        runner=by.text("runner"),
        session=by.text("session"),
        date=by.text("date"),
        parent=parent,
    )
    by.done()
    return provenance


def _workload(document: dict[str, Json]) -> Workload:
    try:
        return Workload.from_json(document)
    except ValueError as error:
        raise RecordError(str(error)) from error


def _check_workload(workload: Workload) -> None:
    _require(
        _OPERATOR.fullmatch(workload.operator) is not None,
        f"{workload.operator!r:.80} is no operator's name",
    )
    for name in ("data", "weight", "output"):
        extents = getattr(workload, name)
        _require(len(extents) <= 12, f"the {name} has {len(extents)} axes")
        _require(
            all(isinstance(v, str) or 0 < v < _MAX_EXTENT for v in extents),
            f"the {name} is of an impossible size: {extents!r:.80}",
        )


def _check_choice(choice: Mapping[str, Json], what: str) -> None:
    _require(isinstance(choice.get("algorithm"), str), f"{what} names no algorithm")
    _require(len(choice) <= 64, f"{what} has {len(choice)} decisions")
    for name in choice:
        _require(_DECISION.fullmatch(name) is not None, f"{name!r:.80} is no decision's name")


@lru_cache(maxsize=256)
def _parse_target(data: bytes) -> tuple[Mapping[str, Json], TargetSpec]:
    """A target's facts, read-only and as a spec; many records share them."""
    facts = parse(data)
    try:
        return MappingProxyType(facts), parse_target(facts, where="target")
    except TargetError as error:
        raise RecordError(f"its target is impossible: {error.message}") from error


def choice_of(record: Record) -> Choice:
    """The record's choice, as a copy that belongs to the caller."""
    return plain(record.choice)


__all__ = [
    "SCHEMA",
    "Baseline",
    "Check",
    "Cpu",
    "Label",
    "Measurement",
    "Provenance",
    "Record",
    "choice_of",
    "is_id",
    "target_facts",
]
