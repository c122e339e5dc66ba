"""Reports of devices that are not this machine: estimated, measured there, or neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.report import Figure, Report
from compiler.report.html import html_page, notebook_html
from compiler.report.plots import roofline
from tests.unit.report.fakes import ELSEWHERE, PROFILE, make_estimated, make_report
from tests.unit.report.test_model import every_figure

GOLDEN = Path(__file__).parents[2] / "golden"


def test_text_is_as_it_was(golden: Callable[[str, Path], None]) -> None:
    golden(str(make_estimated()), GOLDEN / "report-estimated.txt")


def test_nothing_but_sizes_and_the_compilation_is_measured() -> None:
    report = make_estimated()
    labels = {"counted", "estimated", "simulated"}
    assert {f.label for f in every_figure(report)} == {"measured", *labels}
    bare = replace(
        report,
        sizes={},
        compile_steps=(),
        environment=replace(report.environment, load_1min=None),
    )
    assert {f.label for f in every_figure(bare)} == labels
    assert report.latency.p10 is None
    assert report.latency.runs == 0


def test_what_bounds_each_kernel() -> None:
    rows = {row.name: row for row in make_estimated().kernels}
    # 64 MFLOP at 32 a cycle are 2 of the 3 M cycles.
    conv = rows["fused_conv2d_add_relu"]
    assert (conv.bound, conv.instructions) == ("compute", Figure.counted(9e6, "instructions"))
    assert conv.roofline is not None
    assert conv.roofline.value == pytest.approx(100 * 2 / 3)
    assert conv.misses["L2"] == Figure(1500.0, "misses", "simulated")
    assert rows["fused_dense"].bound == "memory"
    assert rows["fused_dense"].roofline == Figure.estimated(100, "%")
    assert rows["cumsum"].bound == "instructions"


def test_the_roofline_has_the_caches() -> None:
    figure = roofline(make_estimated())
    assert figure is not None
    names = [trace.name for trace in figure.data]
    assert "L1: 32 GB/s" in names
    assert "L2: 16 GB/s" in names


def test_reads_back_as_it_was() -> None:
    report = make_estimated()
    assert Report.from_json(report.to_json()) == report


def test_reports_of_the_second_schema_are_read() -> None:
    """A file of a release that knew no other devices."""
    report = Report.read(GOLDEN / "report-v2.json")
    assert report == make_report()
    assert json.loads(report.to_json())["version"] == 3


def test_a_device_that_measured() -> None:
    elsewhere = replace(
        ELSEWHERE,
        basis="device",
        device="rpi4 (Raspberry Pi 4)",
        peak_memory=Figure.measured(2**25, "B"),
    )
    report = make_estimated(elsewhere, PROFILE, "measured")
    assert report.latency.median == Figure.measured(4.0, "ms")
    row = report.kernels[0]
    assert (row.time.label, row.cycles and row.cycles.label) == ("measured", "estimated")
    for shown in (str(report), html_page(report), notebook_html(report)):
        assert "measured on rpi4 (Raspberry Pi 4)" in shown
        assert "32.0 MiB" in shown
    assert "latency without the device" in str(report)


def test_without_any_tool_the_times_are_bounds_and_it_says_so() -> None:
    missing = "Instructions were not counted: apt-get install <qemu-user>"
    elsewhere = replace(
        ELSEWHERE, basis="peaks", estimator="", instructions=None, cycles=None, time=None,
        missing=missing,
    )  # fmt: skip
    report = make_estimated(elsewhere)
    text, page = str(report), html_page(report)
    assert missing in text
    assert "latency, at least" in text
    assert "Latency, at least" in page
    assert "apt-get install &lt;qemu-user&gt;" in page


def test_the_page_shows_counts_and_where_they_come_from() -> None:
    page = html_page(make_estimated())
    for part in ("llvm-mca 19, test-core", "10.6", "counted", "instructions", "no device was used"):
        assert part in page
    assert page.count("<td") > 40
    assert "measured on" not in page.split("<footer")[0].split("<tbody>")[0]
