"""How weights are packed for micro-kernels, and which kernels a target is offered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schedules.cpu import templates
from schedules.cpu.microkernels.base import Groups, pack
from schedules.cpu.templates.lanes import LEAST, bounded
from schedules.workload import Workload
from targets import get_target

BYTES = ("uint8", "int8", "int32")


def dense(k: int, n: int, dtypes: tuple[str, str, str] = BYTES) -> Workload:
    return Workload("dense", (8, k), (k, n), (8, n), dtypes, "row-major")


@pytest.mark.parametrize("size", [4, 5, 6, 15, 16, 17, 23, 24, 35, 48, 50])
@pytest.mark.parametrize(("group", "chunk"), [(4, 4), (2, 8), (1, 4), (8, 2)])
def test_every_product_is_added_once_from_loads_within_the_row(size, group, chunk):
    if size < group:
        pytest.skip("kernels get at least one group")
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
