"""Workloads: identity, strict reading, operation counts."""

from __future__ import annotations

import pickle

import pytest

from schedules.workload import Workload

DENSE = Workload(
    "dense", ("batch", 128, 64), (64, 32), ("batch", 128, 32), ("float32",) * 3, "row-major",
    epilogue=("add", "gelu"),
)  # fmt: skip
CONV = Workload(
    "conv2d", (1, 8, 8, 16), (32, 16, 3, 3), (1, 4, 4, 32), ("float32",) * 3, "NHWC",
    {"strides": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1},
)  # fmt: skip


@pytest.mark.parametrize("workload", [DENSE, CONV], ids=str)
def test_json_pickle_and_key_say_the_same(workload):
    again = Workload.from_json(workload.to_json())
    assert again == workload
    assert again.key == workload.key
    assert pickle.loads(pickle.dumps(workload)) == workload  # noqa: S301 - our own bytes
    assert workload.with_epilogue(("tanh",)).key != workload.key


def test_tuples_and_lists_in_attributes_are_one_workload():
    other = Workload.from_json({**CONV.to_json(), "attributes": {"groups": 1, "strides": [2, 2],
                               "dilation": [1, 1], "padding": [1, 1, 1, 1]}})  # fmt: skip
    assert other == CONV
    assert hash(other) == hash(CONV)


def test_operations_are_those_of_the_operator():
    assert CONV.flops == 2 * 4 * 4 * 32 * 16 * 9
    assert DENSE.flops == 2 * 128 * 32 * 64  # a symbolic extent counts as one
    assert CONV.is_static
    assert not DENSE.is_static


def test_people_can_read_it():
    assert str(CONV) == "conv2d 1x8x8x16 float32 by 32x16x3x3 stride 2x2"
    assert str(DENSE) == "dense batchx128x64 float32 by 64x32 + add + gelu"


@pytest.mark.parametrize(
    "change",
    [
        {"data": [0, 3]}, {"data": [True]}, {"data": "8x8"}, {"dtypes": ["float32"]},
        {"epilogue": [1]}, {"operator": 3}, {"attributes": []}, {"more": 1}, {"weight": [1.5]},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_descriptions_are_refused(change):
    with pytest.raises(ValueError, match="workload"):
        Workload.from_json({**CONV.to_json(), **change})
