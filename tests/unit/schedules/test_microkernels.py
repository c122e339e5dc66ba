"""How weights are packed for micro-kernels, and which kernels a target is offered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from schedules.cpu import templates
from schedules.cpu.microkernels import kernel_named
from schedules.cpu.microkernels.base import Block, Groups, pack, statements
from schedules.cpu.microkernels.neon_half import PRODUCTS, HalfByElement
from schedules.cpu.templates.lanes import bounded
from schedules.tvm_adapter import tirx
from schedules.workload import LEAST, Workload
from targets import get_target

BYTES = ("uint8", "int8", "int32")


def dense(k: int, n: int, dtypes: tuple[str, str, str] = BYTES) -> Workload:
    return Workload("dense", (8, k), (k, n), (8, n), dtypes, "row-major")


@pytest.mark.parametrize(
    ("size", "group", "chunk"),
    [
        (size, group, chunk)
        for size in (4, 5, 6, 15, 16, 17, 23, 24, 35, 48, 50)
        for group, chunk in ((4, 4), (2, 8), (1, 4), (8, 2))
        if size >= group  # kernels get at least one group
    ],
)
def test_every_product_is_added_once_from_loads_within_the_row(size, group, chunk):
    groups = Groups(size, group, chunk)
    rng = np.random.default_rng(size)
    row = rng.integers(-9, 9, size)
    weight = rng.integers(-9, 9, (size, 6))
    (panel, rest) = pack(weight, 4, groups)
    total = np.zeros(8, np.int64)
    whole = group * chunk
    loads = [(i * whole, whole, i * chunk, list(range(chunk))) for i in range(groups.chunks)]
    for first, count, step, places in [*loads, *groups.pieces()]:
        assert first >= 0
        assert first + count <= size
        for index, place in enumerate(places):
            part = row[first + place * group : first + (place + 1) * group]
            for at, weights in ((0, panel), (4, rest)):
                total[at : at + 4] += weights[step + index].reshape(4, group) @ part
            assert groups.first(step + index) == first + place * group
    np.testing.assert_array_equal(total[:6], row @ weight)
    assert not total[6:].any()


def kernels(target: str, workload: Workload) -> list[str]:
    found = templates.spaces(workload, get_target(target))
    return [str(s.default["kernel"]) for s in found if s.algorithm == "lanes"]


def test_each_target_is_offered_what_it_can_run():
    assert kernels("x86/zen4", dense(64, 32)) == []
    assert kernels("arm/cortex-a53", dense(64, 32)) == ["smlal", "smull"]
    assert kernels("arm/neoverse-n1", dense(64, 32)) == ["sdot"]
    assert set(kernels("arm/neoverse-v1", dense(64, 32))) == {"usmmla", "sudot"}
    assert kernels("arm/neoverse-n1", dense(64, 32, ("float32",) * 3)) == ["fmla"]


def test_they_are_the_default_where_there_are_any():
    for target in ("arm/cortex-a72", "arm/neoverse-n1"):
        for dtypes in (BYTES, ("float32",) * 3):
            choice = templates.default_choice(dense(64, 32, dtypes), get_target(target))
            assert choice["algorithm"] == "lanes"


def test_products_of_two_128s_have_no_place_in_16_bits():
    spec = get_target("arm/cortex-a72")
    weight = np.zeros((64, 32), np.int8)
    assert bounded(dense(64, 32), spec, lambda: weight) == dense(64, 32)
    weight[3, 4] = -128
    workload = bounded(dense(64, 32), spec, lambda: weight)
    assert workload.attributes[LEAST] == -128
    assert kernels("arm/cortex-a72", workload) == ["smull"]
    choice = templates.default_choice(dense(64, 32), spec)
    with pytest.raises(ValueError, match="at least -127"):
        templates.pack(dense(64, 32), choice, spec, weight)
    products = replace(
        workload, operator="batch_matmul", data=(1, 8, 64), weight=(1, 64, 32), output=(1, 8, 32),
        attributes={"transpose_rhs": False},
    )  # fmt: skip
    assert kernels("arm/cortex-a72", products) == ["smull"]


def test_blocks_fit_into_the_registers():
    spec = get_target("arm/neoverse-n1")
    for space in templates.spaces(dense(64, 48, ("float32",) * 3), spec):
        if space.algorithm != "lanes":
            continue
        (tiles,) = (d.options for d in space.decisions if d.name == "tile")
        for outer, inner, vectors, _ in tiles:
            assert outer * inner * (vectors + 1) + vectors < spec.vector_registers


@pytest.mark.parametrize("inner", [1, 2, 4, 8])
@pytest.mark.parametrize("target", ["arm/cortex-a72", "arm/neoverse-n1", "arm/neoverse-v1"])
def test_steps_stay_within_their_group_of_channels(target: str, inner: int):
    """Behind the last group of the last pixel there is nothing to read."""
    workload = Workload(
        "conv2d", (1, 4, 4, 4 * inner), (64, inner, 1, 1), (1, 4, 4, 64), BYTES, "NHWC",
        {"strides": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 4},
    )  # fmt: skip
    spec = get_target(target)
    for space in templates.spaces(workload, spec):
        if space.algorithm == "lanes":
            (kernel,) = (d.options[0] for d in space.decisions if d.name == "kernel")
            assert kernel_named(kernel, BYTES, spec).group <= inner


def test_an_unknown_number_of_rows_does_not_change_the_choice():
    for target in ("arm/cortex-a72", "arm/neoverse-n1"):
        known = replace(dense(512, 512), data=(64, 512), output=(64, 512))
        unknown = replace(known, data=("b", 512), output=("b", 512))
        choices = [templates.default_choice(w, get_target(target)) for w in (known, unknown)]
        assert [c["algorithm"] for c in choices] == ["lanes", "lanes"]


class Told(HalfByElement):
    """Statements that say how many products are added, and -1 where sums are folded."""

    def start(self, sums, rows, vectors, first):
        return [tirx.Evaluate(-1)]

    def step(self, sums, rows, vectors, chunk):
        return [tirx.Evaluate(len(chunk.places))]

    def fold(self, sums, rows, vectors):
        return [tirx.Evaluate(-1)]

    def result(self, sums, rows, vectors, row, vector):
        return None


@pytest.mark.parametrize("size", [8, 63, 64, 67, 71, 72, 128, 131, 200, 576])
def test_sums_of_halves_are_folded_in_time(size: int):
    kernel = Told()
    groups = Groups(size, kernel.group, kernel.chunk)
    block = Block(1, 1, (), groups, *[lambda *_: None] * 3, lambda *_: tirx.Evaluate(-1))
    added = [0]

    def run(statement) -> None:
        if isinstance(statement, tirx.For):
            for _ in range(int(statement.extent)):
                run(statement.body)
        elif isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                run(part)
        else:
            number = int(statement.value)
            added.append(added[-1] + number if number > 0 else 0)

    run(statements(kernel, block, kernel.sums(1, 1)))
    assert max(added) <= PRODUCTS
    ends = [n for n, following in itertools.pairwise(added) if n and not following]
    assert sum(ends) == size
    assert added[-1] == 0
