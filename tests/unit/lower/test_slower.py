"""Integer kernels that float32 would beat are named, with where the figures come from."""

from __future__ import annotations

from compiler.lower.choose_kernels import ChosenKernel
from compiler.lower.slower import slower_than_float
from schedules.cpu import templates
from schedules.selection import Selection
from schedules.workload import Workload
from targets import get_target

SPEC = get_target("x86/cascadelake")


def conv(groups: int) -> Workload:
    return Workload(
        operator="conv2d", data=(1, 14, 14, 64), weight=(64, 64 // groups, 3, 3),
        output=(1, 14, 14, 64), dtypes=("uint8", "int8", "int32"), layout="NHWC",
        attributes={"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1),
                    "groups": groups, "pad_value": 3},
        epilogue=("requantize",),
    )  # fmt: skip


def chosen(workload: Workload, selection: Selection | None = None) -> ChosenKernel:
    choice = templates.default_choice(workload, SPEC)
    return ChosenKernel(workload, choice, selection or Selection())


def test_estimates_are_compared_without_records() -> None:
    assert slower_than_float(chosen(conv(1)), SPEC) == ""
    text = slower_than_float(chosen(conv(2)), SPEC)
    assert text.startswith("int8 is slower here: ")
    assert text.endswith("in float32 (estimated)")


def test_records_of_both_count_more() -> None:
    text = slower_than_float(chosen(conv(1), Selection(median_ns=9e3, float_ns=4e3)), SPEC)
    assert text == "int8 is slower here: 9.0 µs, 4.0 µs in float32 (measured, from records)"
    assert slower_than_float(chosen(conv(2), Selection(median_ns=4e3, float_ns=9e3)), SPEC) == ""


def test_float_kernels_are_none_of_it() -> None:
    assert slower_than_float(chosen(conv(1).in_float), SPEC) == ""


def test_records_of_integers_do_not_depend_on_zero_points() -> None:
    assert "pad_value" not in conv(1).tuned_as.attributes
    assert conv(1).tuned_as.key == conv(1).tuned_as.tuned_as.key
    assert conv(1).in_float.dtypes == ("float32",) * 3
