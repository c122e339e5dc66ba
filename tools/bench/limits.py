"""The figures that the project has to reach, taken from a benchmark's ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tools.bench.contenders import BF16, INT8, INT8_UNTUNED, OURS, TUNED
from tools.bench.stats import Spread, geomean

#: Peers that compute in float32; the fastest of them on a network is the one to beat.
F32_PEERS = ("openvino-f32", "ort", "compile")
OPENVINO = "openvino"
OPENVINO_INT8 = "openvino-int8"


class Net(Protocol):
    """What is asked of a network's results."""

    name: str

    def ratio(self, slower: str, faster: str) -> Spread | None:
        """The first contender's time over the second's, None if one was not measured."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One figure with its limit.

    Attributes:
        name: What it is, in words.
        limit: What it has to reach.
        least: Whether it must be at least that, not at most.
        value: What was measured; None if nothing was.
        nets: Over how many networks.
        reached: Whether it is reached; None if nothing was measured.
    """

    name: str
    limit: float
    least: bool
    value: float | None
    nets: int
    reached: bool | None


def best_f32(net: Net) -> tuple[str, float] | None:
    """The fastest float32 peer and its time over our tuned one's; None if there is none."""
    found = [(key, r.median) for key in F32_PEERS if (r := net.ratio(key, TUNED)) is not None]
    return min(found, key=lambda item: item[1]) if found else None


def bf16(net: Net) -> float | None:
    """OpenVINO's time, in the precision that it chooses itself, over ours in bf16."""
    found = net.ratio(OPENVINO, BF16)
    return None if found is None else found.median


def default_over_tuned(net: Net) -> float | None:
    """Our time without records over that with them."""
    found = net.ratio(OURS, TUNED)
    return None if found is None else found.median


def int8(net: Net) -> tuple[float | None, ...]:
    """Times over ours in int8: OpenVINO's in int8, ours in float32, ours in int8 by default."""
    pairs = (OPENVINO_INT8, TUNED, INT8_UNTUNED)
    ratios = [net.ratio(key, INT8) for key in pairs]
    return tuple(None if ratio is None else ratio.median for ratio in ratios)


def int8_limits(nets: Sequence[Net]) -> tuple[Limit, ...]:
    """The limits of quantized networks; empty where none was measured."""
    found = [int8(net) for net in nets]
    peer, f32, default = ([v for row in found if (v := row[i]) is not None] for i in range(3))
    if not (peer or f32 or default):
        return ()
    name = "NNCF int8 in OpenVINO over ours in int8: geometric mean"
    return (
        _limit(name, 1.0, peer, geomean, least=True),
        _limit(f"{name}, aim", 1.2, peer, geomean, least=True),
        _limit("ours in float32 over ours in int8: geometric mean", 2.0, f32, geomean, least=True),
        _limit("ours in int8 by default over tuned: geometric mean", 1.3, default, geomean,
               least=False),
    )  # fmt: skip


def limits(nets: Sequence[Net]) -> tuple[Limit, ...]:
    """All limits, with the figures of these networks; those of int8 where that was measured."""
    quantized = int8_limits(nets)
    if quantized:
        return quantized
    f32 = [found[1] for net in nets if (found := best_f32(net)) is not None]
    low = [value for net in nets if (value := bf16(net)) is not None]
    default = [value for net in nets if (value := default_over_tuned(net)) is not None]
    f32_name = "fastest of OpenVINO f32, ONNX Runtime and torch.compile over ours, tuned"
    low_name = "OpenVINO as it comes over ours in bf16"
    default_name = "ours by default over ours tuned"
    return (
        _limit(f"{f32_name}: geometric mean", 1.2, f32, geomean, least=True),
        _limit(f"{f32_name}: worst", 0.9, f32, min, least=True),
        _limit(f"{low_name}: geometric mean", 1.0, low, geomean, least=True),
        _limit(f"{low_name}: geometric mean, aim", 1.2, low, geomean, least=True),
        _limit(f"{default_name}: geometric mean", 1.3, default, geomean, least=False),
    )


class _Summary(Protocol):
    def __call__(self, values: list[float], /) -> float: ...


def _limit(name: str, limit: float, values: list[float], of: _Summary, *, least: bool) -> Limit:
    value = of(values) if values else None
    reached = None if value is None else (value >= limit) if least else (value <= limit)
    return Limit(name, limit, least, value, len(values), reached)
