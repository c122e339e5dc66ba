"""What Tilewright knows about a device: frozen data with units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

FAMILIES = ("x86", "arm", "cuda", "vta")

#: Bytes of one element of each dtype that a target may give a peak rate for.
DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint32": 4,
     "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
)  # fmt: skip


def _frozen(value: Any) -> Any:
    """`value` with every mapping read-only and every list a tuple, all the way down."""
    if isinstance(value, Mapping):
        return MappingProxyType({str(k): _frozen(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return value


def _plain(value: Any) -> Any:
    """`value` made of dicts, lists and scalars only, as JSON and TVM take it."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """One level of data cache.

    Attributes:
        level: 1, 2 or 3.
        size_bytes: Capacity of one instance.
        line_bytes: Bytes of a line.
        ways: Associativity; 0 where the maker does not publish it.
        shared_by_cores: How many cores share one instance.
    """

    level: int
    size_bytes: int
    line_bytes: int
    ways: int
    shared_by_cores: int


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A device, as far as compiling for it and judging its speed needs.

    Mappings are made read-only and lists become tuples on construction, so a spec can be
    shared, hashed, pickled and sent to a worker.

    Attributes:
        name: ``family/device``, for example ``x86/sapphirerapids``.
        family: One of `FAMILIES`.
        title: One line for people.
        tvm: The TVM target as the dictionary that `tvm.target.Target` takes; see `tvm_dict`.
        features: ISA features that compiled code may use, LLVM's names (``avx512vnni``).
        cores: Physical cores; streaming multiprocessors on a GPU.
        clock_hz: Sustained clock assumed for estimates, hertz.
        caches: Data caches, nearest first.
        memory_bytes: Main memory, bytes.
        memory_bandwidth_bytes_per_s: Peak bandwidth of main memory, bytes per second. On
            ``x86/host`` what one core reached when it was measured.
        peak_ops_per_cycle: Arithmetic operations per cycle and core for each dtype; a
            multiply-add counts as two.
        vector_bits: Width of a vector register (0: none).
        vector_registers: Architectural vector registers.
        available: Whether this release can compile for it.
        status: One line that says what works, or why it does not yet.
        sources: Where the facts were taken from.
        extra: Family-specific facts (VTA's configuration, CUDA's shared memory).
        vector_datapath_bits: Width of the arithmetic units behind the registers, where it is
            narrower than a register (Zen 4 runs AVX-512 in two halves); 0: as wide.
    """

    name: str
    family: str
    title: str
    tvm: Mapping[str, Any]
    features: frozenset[str]
    cores: int
    clock_hz: float
    caches: tuple[CacheSpec, ...]
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_ops_per_cycle: Mapping[str, float]
    vector_bits: int
    vector_registers: int
    available: bool
    status: str
    sources: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    vector_datapath_bits: int = 0

    def __post_init__(self) -> None:
        for name in ("tvm", "peak_ops_per_cycle", "extra", "sources", "caches"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        object.__setattr__(self, "features", frozenset(self.features))

    def __hash__(self) -> int:
        return hash((self.name, self.features, self.cores, self.clock_hz, self.caches))

    def __reduce__(self) -> tuple[type[TargetSpec], tuple[Any, ...]]:
        # Read-only mappings do not pickle; plain ones do, and the constructor freezes them again.
        return TargetSpec, tuple(_plain(getattr(self, f.name)) for f in fields(self))

    @property
    def machine(self) -> str:
        """The machine of its CPU code, as ``uname -m`` prints it there."""
        return str(self.tvm.get("mtriple", "x86_64")).partition("-")[0]

    def tvm_dict(self) -> dict[str, Any]:
        """A fresh plain dictionary for `tvm.target.Target`."""
        result: dict[str, Any] = _plain(self.tvm)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists and scalars that JSON takes; `parse_target` reads it."""
        result: dict[str, Any] = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        result["features"] = sorted(self.features)
        result["caches"] = [asdict(c) for c in self.caches]
        return result

    def has(self, *features: str) -> bool:
        """Whether compiled code may use all of these ISA features."""
        return self.features.issuperset(features)

    def vector_lanes(self, dtype: str) -> int:
        """Elements of `dtype` in one vector register; 1 on a device without vectors."""
        return max(1, self.vector_bits // (8 * DTYPE_BYTES[dtype]))

    def cache_bytes(self, level: int) -> int:
        """Capacity of one cache of this level in bytes; 0 where there is none."""
        return next((c.size_bytes for c in self.caches if c.level == level), 0)

    def peak_ops_per_s(self, dtype: str, cores: int = 1) -> float:
        """Peak arithmetic rate in operations per second (a multiply-add is two).

        Raises:
            KeyError: The target gives no rate for `dtype`.
        """
        return self.peak_ops_per_cycle[dtype] * self.clock_hz * cores


def has_float16(spec: TargetSpec) -> bool:
    """Whether kernels compute in float16 on the target: vectors of ARM's half precision."""
    return spec.family == "arm" and spec.has("fullfp16")


def has_bfloat16(spec: TargetSpec) -> bool:
    """Whether an ARM processor multiplies vectors of bfloat16."""
    return spec.family == "arm" and spec.has("bf16")
