from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.report.assemble import percentile
from compiler.report.profile import Profile
from compiler.stages import KernelInfo
from tests.unit.report.fakes import KERNELS, PROFILE, TARGET, make_report

TIMES = st.lists(st.floats(min_value=0, max_value=1e4), min_size=1, max_size=30)


def test_kernels_and_gap_add_up_to_the_median() -> None:
    report = make_report()
    total = report.kernel_time.value + report.interruptions.value + report.gap.value
    assert total == pytest.approx(report.latency.median.value)
    # 4.00 ms a run, 3.92 ms a replay, 3.90 ms its calls.
    assert report.gap.value == pytest.approx(0.08)
    assert report.gap_share.value == pytest.approx(2.0)
    assert report.interruptions.value == pytest.approx(0.02)
    assert report.interruptions_share.value == pytest.approx(0.5)
    assert report.adds_up


@given(
    runs=TIMES.filter(lambda times: sorted(times)[len(times) // 2] > 1e-3),
    calls=TIMES,
    replay=st.floats(0, 1e5),
)
def test_everything_always_adds_up(runs: list[float], calls: list[float], replay: float) -> None:
    names = tuple(f"k{i % 3}" for i in range(len(calls)))
    profile = Profile(tuple(runs), 1, names, tuple(calls), (replay,), 0.0, 0, (0,) * len(calls))
    report = make_report(profile=profile, kernels=())
    shares = sum(row.share.value for row in report.kernels)
    shares += sum(share.value for _, _, share in report.overheads)
    assert report.interruptions.value >= 0
    assert shares == pytest.approx(100, rel=1e-6, abs=1e-6)
    assert sum(r.time.value for r in report.kinds) == pytest.approx(sum(calls))
    assert sum(r.calls.value for r in report.kernels) == len(calls)


@pytest.mark.parametrize(("run", "adds_up"), [(3.9, True), (4.0, True), (4.2, False), (3.6, False)])
def test_a_gap_above_five_percent_is_told(run: float, adds_up: bool) -> None:
    report = make_report(profile=replace(PROFILE, run_ms=(run,)))
    assert report.adds_up is adds_up
    assert ("do not add up" in str(report)) is not adds_up
    assert "VM and gaps" in str(report)


def test_interruptions_are_told_from_the_virtual_machine() -> None:
    busy = replace(PROFILE, run_ms=(8.1, 8.0, 7.9), replay_ms=(7.8, 7.9, 8.0))
    report = make_report(profile=busy)
    assert report.interruptions.value == pytest.approx(4.0)
    assert report.gap.value == pytest.approx(0.1)
    assert not report.adds_up
    assert "interruptions by other programs" in str(report)


def test_calls_of_one_kernel_become_one_row() -> None:
    conv = make_report().kernels[0]
    assert conv.name == "fused_conv2d_add_relu"
    assert conv.calls.value == 2
    assert conv.time.value == pytest.approx(2.9)
    assert conv.flops is not None
    assert conv.flops.value == pytest.approx(6.4e7)
    assert conv.gflops is not None
    assert conv.gflops.value == pytest.approx(6.4e7 / 2.9e-3 / 1e9)


def test_roofline_takes_the_nearer_ceiling() -> None:
    conv, dense, cumsum = make_report().kernels
    # 64 GFLOPS and 20 GB/s: the convolution's 64 MFLOP take 1 ms, its 6 MB 0.3 ms.
    assert conv.bound == "compute"
    assert conv.roofline is not None
    assert conv.roofline.value == pytest.approx(100 * 1.0 / 2.9)
    assert dense.bound == "memory"
    assert dense.roofline is not None
    assert dense.roofline.value == pytest.approx(100 * (8.004e6 / 20e9) / 0.75e-3)
    # No arithmetic: the bandwidth alone.
    assert cumsum.bound == "memory"
    assert cumsum.gflops is None
    assert {conv.roofline.label, dense.roofline.label} == {"estimated"}


def test_no_roofline_without_a_peak_for_the_dtype() -> None:
    kernels = (replace(KERNELS[0], dtype="int8"), *KERNELS[1:])
    conv = make_report(kernels=kernels).kernels[0]
    assert conv.roofline is None
    assert conv.bound == ""
    assert "int8" not in make_report(kernels=kernels).roof.gflops


def test_a_kernel_that_nobody_described_has_no_made_up_figures() -> None:
    conv = make_report(kernels=KERNELS[1:]).kernels[0]
    assert conv.rule == "unknown"
    assert (conv.flops, conv.bytes_moved, conv.gflops, conv.roofline) == (None, None, None, None)
    assert not conv.fallback


def test_threads_raise_the_ceiling_up_to_the_targets_cores() -> None:
    peak = make_report().roof.gflops["float32"]
    assert peak.value == pytest.approx(64)
    assert peak.label == "estimated"
    assert TARGET.cores == 4


def test_fallbacks_and_their_share() -> None:
    report = make_report()
    assert [row.name for row in report.fallbacks] == ["cumsum"]
    assert report.fallback_share.value == pytest.approx(6.25)


def test_coverage_by_source() -> None:
    rows = {(row.source, row.tier): row for row in make_report().coverage}
    record = rows["record", "same CPU"]
    assert (record.kernels, record.share.value) == (1, pytest.approx(72.5))
    assert record.flops_share.value == pytest.approx(100 * 64 / 68)
    assert rows["default", ""].share.value == pytest.approx(18.75)
    assert rows["fallback", ""].share.value == pytest.approx(6.25)
    assert rows["overhead", ""].share.value == pytest.approx(2.5)
    assert {row.share.label for row in rows.values()} == {"measured"}
    assert {row.flops_share.label for row in rows.values()} == {"estimated"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["record", "default", "rule", "fallback", None]),
            st.sampled_from(["same CPU", "same features"]),
            st.floats(0, 1e9),
            st.floats(0, 1e3),
        ),
        max_size=8,
    ),
    st.floats(1e-3, 1e4),
)
def test_coverage_always_adds_up(
    given_kernels: list[tuple[str | None, str, float, float]], run_ms: float
) -> None:
    """Each column of shares is 100 %, also with functions that nobody described."""
    kernels, names, times = [], [], []
    for i, (source, tier, flops, time) in enumerate(given_kernels):
        names.append(f"k{i}")
        times.append(time)
        if source is not None:
            info = replace(KERNELS[0], name=f"k{i}", source=source, flops=flops, tier="")
            kernels.append(replace(info, tier=tier) if source == "record" else info)
    replay = (sum(times),)
    profile = Profile((run_ms,), 1, tuple(names), tuple(times), replay, 0.0, 0, (0,) * len(names))
    report = make_report(profile=profile, kernels=tuple(kernels))
    assert sum(row.share.value for row in report.coverage) == pytest.approx(100, abs=1e-6)
    flops_total = sum(row.flops_share.value for row in report.coverage)
    assert flops_total == pytest.approx(100 if report.total_flops.value else 0)
    assert sum(row.kernels for row in report.coverage) == len(given_kernels)


def test_misses_and_what_can_be_tuned() -> None:
    report = make_report()
    assert [row.name for row in report.tunable] == ["fused_conv2d_add_relu", "fused_dense"]
    assert [row.miss for row in report.misses] == ["no record for this workload"]


def test_a_fallback_is_a_fallback_whatever_the_source_says() -> None:
    kernels = (replace(KERNELS[2], source="rule"), *KERNELS[:2])
    assert make_report(kernels=kernels).kernels[2].source == "fallback"


def test_kinds_most_time_first() -> None:
    assert [row.kind for row in make_report().kinds] == ["conv2d", "dense", "other"]


def test_memory() -> None:
    memory = make_report().memory
    assert memory.planned_peak is not None
    assert memory.live_peak is not None
    assert memory.planned_peak.label == "estimated"
    assert memory.live_peak.value == 3_145_728
    assert [step.kernel for step in memory.schedule] == list(PROFILE.call_names)


def test_memory_that_was_neither_planned_nor_followed_is_left_out() -> None:
    memory = make_report(profile=replace(PROFILE, live_bytes=(0,) * 4), planned=0).memory
    assert memory.planned_peak is None
    assert memory.live_peak is None
    assert memory.schedule == ()


def test_model_without_kernels() -> None:
    profile = Profile((0.01, 0.02), 1, (), (), (0.0, 0.0), 0.0, 0, ())
    report = make_report(profile=profile, kernels=(), stages=())
    assert report.gap.value == pytest.approx(report.latency.median.value)
    assert report.gflops is None
    assert "VM and gaps" in str(report)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(min_value=0, max_value=100)
)
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(
        float(np.percentile(values, percent)), rel=1e-9, abs=1e-6
    )


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_infos_of_kernels_that_did_not_run_are_no_rows() -> None:
    extra = KernelInfo("never", "dense", (), "matmul", False, 1.0, 1.0, 1.0, "float32")
    names = [row.name for row in make_report(kernels=(*KERNELS, extra)).kernels]
    assert "never" not in names
