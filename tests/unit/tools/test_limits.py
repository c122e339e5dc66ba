"""The figures that the project has to reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.tools.results import failed, make_result, measured, two_nets
from tools.bench.contenders import BF16, CONTENDERS, INT8, OURS, OWN, TUNED, base_of
from tools.bench.limits import best_f32, limits
from tools.bench.markdown import render
from tools.bench.results import BenchResult, ContenderResult, NetResult

GOLDEN = Path(__file__).parent / "golden" / "benchmark-limits.md"


def _net(name: str, **milliseconds: float | None) -> NetResult:
    """Contenders by key, with underscores for dashes; None for one that failed."""
    contenders: list[ContenderResult] = []
    ours = milliseconds.get("tilewright_tuned")
    for name_, time in milliseconds.items():
        key = name_.replace("_", "-")
        if time is None:
            contenders.append(failed(key, "it broke"))
            continue
        base = [ours] * 3 if ours is not None and key != TUNED else None
        contenders.append(measured(key, [time] * 3, base))
    return NetResult(name, ["float32 [1]"], 1, contenders)


def _result() -> BenchResult:
    first = _net(
        "resnet18", tilewright=12, tilewright_tuned=10, tilewright_bf16=6, compile=40, ort=15,
        openvino=9, openvino_f32=16,
    )  # fmt: skip
    second = _net(
        "vit_tiny", tilewright=15, tilewright_tuned=10, tilewright_bf16=None, compile=8, ort=None,
        openvino=9, openvino_f32=12,
    )  # fmt: skip
    return make_result(first, second)


def test_the_fastest_peer_of_each_network_counts() -> None:
    first, second = _result().nets
    assert best_f32(first) == ("ort", pytest.approx(1.5))
    assert best_f32(second) == ("compile", pytest.approx(0.8))
    assert best_f32(_net("x", tilewright_tuned=1, torch=2)) is None


def test_limits() -> None:
    mean, worst, low, aim, default = limits(_result().nets)
    assert mean.value == pytest.approx((1.5 * 0.8) ** 0.5)
    assert (mean.nets, mean.reached) == (2, False)
    assert worst.value == pytest.approx(0.8)
    assert worst.reached is False
    assert (low.value, low.nets, low.reached) == (pytest.approx(1.5), 1, True)
    assert aim.reached is True
    assert default.value == pytest.approx((1.2 * 1.5) ** 0.5)
    assert default.reached is False


def test_nothing_measured_is_neither_reached_nor_missed() -> None:
    assert {limit.reached for limit in limits(two_nets().nets)} == {None}
    assert "What has to be reached" not in render(two_nets())


def test_the_page_as_it_was_agreed(golden: Callable[[str, Path], None]) -> None:
    golden(render(_result()), GOLDEN)


def test_json_has_them_and_says_which_of_ours_the_ratios_refer_to() -> None:
    document = json.loads(_result().to_json())
    assert document["ours"] == TUNED
    assert [limit["reached"] for limit in document["limits"]] == [False, False, True, True, False]
    assert set(document["geomean_ratio"]) == set(_result().keys()) - {TUNED}


def test_ratios_can_be_taken_between_any_two() -> None:
    net = _result().nets[0]
    ratio = net.ratio("openvino", BF16)
    assert ratio is not None
    assert ratio.median == pytest.approx(1.5)
    assert net.ratio("torch", BF16) is None
    assert _result().nets[1].ratio("ort", TUNED) is None


def test_the_base_is_int8_or_the_tuned_one_if_it_takes_part() -> None:
    assert base_of(CONTENDERS) == INT8
    assert base_of([OURS, BF16, TUNED]) == TUNED
    assert base_of([BF16, OURS, "torch"]) == OURS
    assert base_of(["torch", BF16]) == BF16
    assert set(OWN) <= set(CONTENDERS)
    with pytest.raises(ValueError, match="none of our contenders"):
        base_of(["torch"])
