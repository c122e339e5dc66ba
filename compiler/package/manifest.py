"""The manifest of a bundle: what it holds, for which machine, and how it was made.

On disk it is one JSON document in a fixed spelling (sorted keys, ASCII, no blanks) that
carries the SHA-256 of itself, so that a change of any byte of it shows.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform as _platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compiler.codec import DecodeError, decode, encode
from compiler.errors import BundleError
from compiler.stages import KernelInfo, Prepared, StageRecord, TensorSpec
from targets.spec import TargetSpec

FORMAT = "tilewright-bundle"
#: 2: kernels say where their schedules come from. 3: parameters that are made when the model is
#: loaded.
SCHEMA = 3

MANIFEST = "manifest.json"
LIBRARY = "module.so"
PARAMETERS = "parameters.safetensors"
GOLDEN = "golden.safetensors"
REPORT = "report.json"
REQUIRED_MEMBERS = (LIBRARY, PARAMETERS, GOLDEN)
PLAN = "plan.json"
VTA = "vta.json"
OPTIONAL_MEMBERS = (REPORT, PLAN, VTA)
#: VTA programs, one a member.
VTA_PROGRAM = re.compile(r"region\d{1,4}\.vta")

#: How many times as large as the compact tensor a prepared one may be.
MAX_GROWTH = 100
_FUNCTION = re.compile(r"[A-Za-z_]\w*", re.ASCII)

#: Bytes of one element of every dtype that a tensor in a bundle may have.
DTYPE_BYTES: Mapping[str, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """Size in bytes and SHA-256 (hexadecimal) of one member."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Member:
        """The entry for these bytes."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and machine, as Python's `platform` module names them."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> Platform:
        """This one."""
        return cls(_platform.system(), _platform.machine())

    @classmethod
    def of(cls, target: TargetSpec) -> Platform:
        """The one that code for a target runs on."""
        here = cls.here()
        return here if target.machine == here.machine else cls("Linux", target.machine)

    def __str__(self) -> str:
        return f"{self.system} on {self.machine}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is known of a compiled model, apart from the bytes of its members.

    Attributes:
        name: The model's name.
        created: When it was compiled, UTC, ISO 8601.
        inputs: What the model takes.
        outputs: What it gives.
        parameters: Names, shapes and dtypes of the tensors in ``parameters.safetensors``,
            in the order that the compiled code takes them.
        prepared: Which of them are compact, what makes a packed tensor of each when the model is
            loaded, and the tensor's shape and dtype.
        target: The device compiled for.
        required_features: ISA features without which the code crashes.
        platform: System and machine that the shared object is for.
        threads: Threads it runs on unless the caller says otherwise.
        toolchain: Versions of all that took part in compiling.
        planned_activation_bytes: Peak of the static memory plan; 0 with dynamic shapes.
        golden_source: Whose outputs the golden ones are: ``compiled``, the compiled model's own
            when it was made, or ``reference``, PyTorch's, if the machine that compiled it
            could not run it.
        golden_tolerance: Largest difference from the golden outputs that the self-test
            accepts, relative to the largest magnitude in the output. Integers must be equal.
        kernels: Every generated function.
        stages: What each stage did, with milliseconds.
        precision: Of the heavy operators' inputs: ``float32`` or ``bfloat16``; ``int8`` for a
            quantized model.
        golden_sha256: Hash of the golden outputs of a quantized model, which are the same bits
            on every target; empty for others.
    """

    name: str
    created: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: tuple[TensorSpec, ...]
    target: TargetSpec
    required_features: tuple[str, ...]
    platform: Platform
    threads: int
    toolchain: Mapping[str, str]
    planned_activation_bytes: int
    golden_source: str
    golden_tolerance: float
    kernels: tuple[KernelInfo, ...]
    stages: tuple[StageRecord, ...]
    precision: str = "float32"
    golden_sha256: str = ""
    prepared: tuple[Prepared, ...] = ()

    @property
    def parameter_bytes(self) -> int:
        """Of the parameters as they are kept."""
        return sum(map(spec_bytes, self.parameters))

    @property
    def prepared_bytes(self) -> int:
        """Of the tensors that are made when the model is loaded."""
        return sum(map(spec_bytes, _packed(self.prepared)))

    @property
    def loaded_parameter_bytes(self) -> int:
        """Of the parameters of a loaded model: packed tensors take the place of compact ones."""
        packed = {spec.name: spec for spec in _packed(self.prepared)}
        return sum(spec_bytes(packed.get(spec.name, spec)) for spec in self.parameters)


@dataclass(frozen=True, slots=True)
class _Document:
    """The JSON document as a whole."""

    format: str
    schema: int
    sha256: str
    members: Mapping[str, Member]
    manifest: Manifest


def dump_manifest(manifest: Manifest, members: Mapping[str, Member]) -> bytes:
    """The bytes of ``manifest.json``."""
    document = encode(_Document(FORMAT, SCHEMA, "", members, manifest))
    document["sha256"] = _seal(document)
    return _canonical(document)


def load_manifest(data: bytes, where: str) -> tuple[Manifest, dict[str, Member]]:
    """Read ``manifest.json``.

    Args:
        data: Its bytes.
        where: The bundle's path, for errors.

    Returns:
        The manifest, and the members that it declares.

    Raises:
        BundleError: It is no manifest, newer than this release, damaged or inconsistent.
    """
    at = f"{where}: {MANIFEST}"
    document = _parse(data, at)
    schema = document.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise BundleError(f"the schema version is {schema!r}", where=at, hint=_DAMAGED)
    if schema > SCHEMA:
        raise BundleError(
            f"the bundle has schema version {schema}, this release reads up to {SCHEMA}",
            where=at,
            hint="update Tilewright, or compile the model again with this release",
        )
    if data != _canonical(document) or document.get("sha256") != _seal(document):
        raise BundleError("the manifest was changed after it was written", where=at, hint=_DAMAGED)
    if schema < 2:
        _without_sources(document)
    try:
        whole = decode(_Document, document)
        _check_consistency(whole)
    except DecodeError as error:
        raise BundleError(str(error), where=at, hint=_DAMAGED) from error
    return whole.manifest, dict(whole.members)


_DAMAGED = "copy the bundle again from where it came from, or compile the model again"


def _without_sources(document: dict[str, Any]) -> None:
    """Make kernels of schema 1 say that the source of their schedules is not known."""
    manifest = document.get("manifest")
    kernels = manifest.get("kernels") if isinstance(manifest, dict) else None
    for kernel in kernels if isinstance(kernels, list) else ():
        if isinstance(kernel, dict):
            kernel.setdefault("source", "fallback" if kernel.get("fallback") else "unknown")


def _parse(data: bytes, at: str) -> dict[str, Any]:
    try:
        text = data.decode("utf-8")
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"it is no JSON document: {error}", where=at, hint=_DAMAGED) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(
            "it is no manifest of a Tilewright bundle",
            where=at,
            hint="give a bundle that `tilewright compile` or Bundle.save wrote",
        )
    return document


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed")


def _finite(text: str) -> float:
    """A number that float64 can hold; ``1e999`` would become an infinity, which JSON lacks."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def _seal(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document with its own hash left empty."""
    return hashlib.sha256(_canonical({**document, "sha256": ""})).hexdigest()


def _check_consistency(document: _Document) -> None:
    """What the types cannot say.

    Raises:
        DecodeError: A value makes no sense.
    """
    manifest = document.manifest
    for field, specs in (
        ("inputs", manifest.inputs),
        ("outputs", manifest.outputs),
        ("parameters", manifest.parameters),
    ):
        path = f"$.manifest.{field}"
        names = [spec.name for spec in specs]
        if field != "outputs" and len(set(names)) != len(names):
            raise DecodeError(f"{path}: a name stands there twice")
        for i, spec in enumerate(specs):
            _check_spec(spec, f"{path}[{i}]", symbolic=field != "parameters")
    _check_prepared(manifest)
    if manifest.golden_source not in ("compiled", "reference"):
        raise DecodeError(f"$.manifest.golden_source: unknown source {manifest.golden_source!r}")
    if not manifest.outputs:
        raise DecodeError("$.manifest.outputs: the model has no outputs")
    for path, value in (
        ("threads", manifest.threads - 1),
        ("planned_activation_bytes", manifest.planned_activation_bytes),
        ("golden_tolerance", manifest.golden_tolerance),
    ):
        if not math.isfinite(value) or value < 0:
            raise DecodeError(f"$.manifest.{path}: the value is too small")
    for name, member in document.members.items():
        if member.size_bytes < 0:
            raise DecodeError(f"$.members.{name}.size_bytes: the size is negative")
        if len(member.sha256) != 64 or not set(member.sha256) <= set("0123456789abcdef"):
            raise DecodeError(f"$.members.{name}.sha256: this is no SHA-256")


def _check_prepared(manifest: Manifest) -> None:
    parameters = {spec.name: spec for spec in manifest.parameters}
    seen: set[str] = set()
    for i, item in enumerate(manifest.prepared):
        path = f"$.manifest.prepared[{i}]"
        compact = parameters.get(item.parameter)
        if compact is None:
            raise DecodeError(f"{path}.parameter: there is no parameter {item.parameter!r}")
        if item.parameter in seen:
            raise DecodeError(f"{path}.parameter: {item.parameter!r} stands there twice")
        seen.add(item.parameter)
        if not _FUNCTION.fullmatch(item.function):
            raise DecodeError(f"{path}.function: {item.function!r} is no name of a function")
        (packed,) = _packed([item])
        _check_spec(packed, path, symbolic=False)
        if spec_bytes(packed) > MAX_GROWTH * max(1, spec_bytes(compact)):
            raise DecodeError(f"{path}.shape: {packed} is too large for what it is made of")


def _packed(prepared: Iterable[Prepared]) -> list[TensorSpec]:
    return [TensorSpec(item.parameter, item.shape, item.dtype) for item in prepared]


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor of known shape."""
    return math.prod(int(extent) for extent in spec.shape) * DTYPE_BYTES[spec.dtype]


def _check_spec(spec: TensorSpec, path: str, *, symbolic: bool) -> None:
    if not spec.name:
        raise DecodeError(f"{path}.name: the name is empty")
    if spec.dtype not in DTYPE_BYTES:
        raise DecodeError(f"{path}.dtype: unknown dtype {spec.dtype!r}")
    for size in spec.shape:
        if isinstance(size, str) and not (symbolic and size):
            raise DecodeError(f"{path}.shape: {size!r} is no size")
        if isinstance(size, int) and size < 0:
            raise DecodeError(f"{path}.shape: {size} is negative")


__all__ = [
    "DTYPE_BYTES",
    "FORMAT",
    "GOLDEN",
    "LIBRARY",
    "MANIFEST",
    "OPTIONAL_MEMBERS",
    "PARAMETERS",
    "PLAN",
    "REPORT",
    "REQUIRED_MEMBERS",
    "SCHEMA",
    "VTA",
    "VTA_PROGRAM",
    "Manifest",
    "Member",
    "Platform",
    "dump_manifest",
    "load_manifest",
    "spec_bytes",
]
