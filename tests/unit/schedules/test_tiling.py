"""Register tiles fit the registers and do not waste them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.cpu.tiling import rank_register_tiles
from targets import get_target

TARGETS = ("x86/generic-avx2", "x86/cascadelake", "x86/sapphirerapids", "x86/zen4")


@given(
    target=st.sampled_from(TARGETS),
    rows=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    columns=st.integers(1, 4000),
    stride=st.sampled_from([0, 64, 300, 4096, 8192]),
)
def test_accumulators_weights_and_a_broadcast_fit(target, rows, columns, stride):
    spec = get_target(target)
    tile = rank_register_tiles(spec, rows, columns, row_stride_bytes=stride)[0].tile
    assert tile.rows * tile.vectors + tile.vectors + 1 <= spec.vector_registers
    assert tile.lanes <= spec.vector_lanes("float32")
    assert rows[1] == 0 or tile.row_inner <= rows[1]


@given(target=st.sampled_from(TARGETS), columns=st.integers(1, 400))
def test_exact_tiles_divide_the_columns(target, columns):
    tile = rank_register_tiles(get_target(target), (8, 8), columns, exact=True)[0].tile
    assert columns % tile.columns == 0


@pytest.mark.parametrize("target", TARGETS)
def test_common_channel_counts_waste_nothing(target):
    for columns in (16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 256, 320, 512, 1000, 1280, 2048):
        tile = rank_register_tiles(get_target(target), (14, 14), columns)[0].tile
        panels = -(-columns // tile.columns)
        assert columns / (panels * tile.columns) >= 0.75, columns


def test_arithmetic_not_loads_limits_a_wide_product():
    spec = get_target("x86/sapphirerapids")
    tile = rank_register_tiles(spec, (1, 128), 1536)[0].tile
    assert tile.rows * tile.vectors >= 16
    assert tile.rows * tile.vectors / 2 >= (tile.rows + tile.vectors) / 2


def test_rows_that_evict_each_other_are_limited():
    spec = get_target("x86/zen4")
    way = spec.caches[0].size_bytes // spec.caches[0].ways
    free = rank_register_tiles(spec, (14, 14), 256, row_stride_bytes=way + 64)[0].tile
    conflicting = rank_register_tiles(spec, (14, 14), 256, row_stride_bytes=way)[0].tile
    assert conflicting.rows < spec.caches[0].ways <= free.rows
