from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.coverage import SOURCES, can_be_tuned, choice_text, group, misses, tuned_share
from compiler.stages import KernelInfo

KERNEL = KernelInfo("k", "conv2d", ("conv2d",), "tiled", False, 100.0, 1.0, 1.0, "float32")
TUNED = replace(KERNEL, source="record", tier="same CPU", record="ab" * 32)
MISSED = replace(KERNEL, source="default", miss="no record for this workload")


def test_share_is_by_flops_of_all_calls_and_leaves_out_what_cannot_be_tuned() -> None:
    softmax = replace(KERNEL, flops=1e9, source="rule")
    assert tuned_share([replace(TUNED, calls=3), MISSED, softmax]) == pytest.approx(0.75)
    assert tuned_share([MISSED, softmax]) == 0
    assert tuned_share([softmax]) is None
    assert tuned_share([]) is None


def test_a_kernel_on_a_fallback_counts_if_it_says_why_no_record_serves_it() -> None:
    fallback = replace(KERNEL, source="fallback", fallback=True)
    assert not can_be_tuned(fallback)
    missed = replace(fallback, miss="no template fits")
    assert can_be_tuned(missed)
    assert tuned_share([TUNED, missed]) == pytest.approx(0.5)


def test_misses_have_most_work_first() -> None:
    small = replace(MISSED, name="small", calls=2)
    large = replace(MISSED, name="large", flops=300.0)
    assert [k.name for k in misses([TUNED, small, large])] == ["large", "small"]


def test_groups_stand_in_the_order_of_the_tables() -> None:
    keys = [("rule", ""), ("record", "same features"), ("default", ""), ("record", "same CPU")]
    found = group([*keys, ("rule", "")])
    assert [str(part) for part in found] == [
        "tuned record, same CPU",
        "tuned record, same features",
        "default, not tuned",
        "rule, nothing to tune",
    ]
    assert found[-1].members == (0, 4)


@given(st.lists(st.tuples(st.sampled_from([*SOURCES, "else"]), st.sampled_from(["", "a", "b"]))))
def test_every_kernel_is_in_one_group(keys: list[tuple[str, str]]) -> None:
    members = [i for part in group(keys) for i in part.members]
    assert sorted(members) == list(range(len(keys)))


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (None, ""),
        ({"algorithm": "direct"}, "direct"),
        (
            {"algorithm": "direct", "tile": [6, 16], "pack": True, "split": None, "unroll": 4},
            "direct: tile 6x16, pack yes, split none, unroll 4",
        ),
        ({"order": "nhw"}, "order nhw"),
        ({}, ""),
    ],
)
def test_choices_in_words(choice: dict[str, object] | None, text: str) -> None:
    assert choice_text(choice) == text
