"""Compressed weights of float arithmetic: what codes mean, and how they are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.compress import dynamic
from compiler.compress.plan import WeightPlan
from compiler.compress.weight_codes import best_scales, decode, encode, k_means, nearest
from schedules.cpu.compute.encoded import pack_codes
from schedules.encodings import PACKINGS, Encoding
from tests.support.codes import unpack_codes
from tests.support.examples import some_of

RNG = np.random.default_rng(0)
PLAN = WeightPlan("w", "int8", "channel", 1, (), "mse")


def weight(*shape: int) -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(shape) * 0.1).astype(np.float32)


def plain_decode(codes, scales):
    """One number after the other."""
    result = np.zeros(codes.shape, np.float32)
    for place in np.ndindex(*codes.shape):
        at = tuple(
            i // (extent // have)
            for i, extent, have in zip(place, codes.shape, scales.shape, strict=True)
        )
        result[place] = np.float32(codes[place]) * np.float32(scales[at])
    return result


@pytest.mark.parametrize(
    ("plan", "shape", "inputs", "largest"),
    [
        (PLAN, (12, 6), 0, 0.01),
        (replace(PLAN, granularity="tensor"), (12, 6), 0, 0.01),
        (replace(PLAN, dtype="int4", granularity="group", group=4), (12, 6), 0, 0.16),
        (replace(PLAN, dtype="int4"), (12, 6), 0, 0.16),
        (replace(PLAN, dtype="int8", granularity="group", group=4, axis=0), (6, 8, 3, 3), 1, 0.01),
        (replace(PLAN, dtype="float16", granularity="tensor"), (12, 6), 0, 0.001),
    ],
)
def test_codes_are_near_the_weights(plan, shape, inputs, largest):
    real = weight(*shape)
    found = encode(real, plan, inputs)
    back = found.decoded()
    assert back.dtype == np.float32
    assert np.abs(back - real).max() <= largest * np.abs(real).max()
    if found.factors is not None:
        np.testing.assert_array_equal(back, plain_decode(found.codes, found.factors))
        assert np.abs(found.codes).max() <= (7 if plan.dtype == "int4" else 127)
    assert found.codes.tobytes() == encode(real, plan, inputs).codes.tobytes()


def test_scales_of_groups_are_float16_and_clip_less_error_than_the_whole_range():
    real = weight(64, 4)
    plan = replace(PLAN, dtype="int4", granularity="group", group=32)
    errors = []
    for method in ("mse", "minmax"):
        found = encode(real, replace(plan, method=method), 0)
        assert found.factors.dtype == np.float16
        assert found.factors.shape == (2, 4)
        errors.append(((found.decoded() - real) ** 2).sum())
    assert errors[0] <= errors[1]


def test_given_scales_are_taken():
    found = encode(weight(4, 3), replace(PLAN, scales=(0.5, 0.25, 1.0)), 0)
    np.testing.assert_array_equal(found.factors, [[0.5, 0.25, 1.0]])


@pytest.mark.parametrize("value", [0.0, 1e-38, 3e38])
def test_weights_of_one_value_get_a_scale(value):
    real = np.full((4, 2), value, np.float32)
    found = encode(real, PLAN, 0)
    assert np.isfinite(found.decoded()).all()
    assert (found.factors > 0).all()


def test_codebooks_hold_what_is_often_there():
    values = np.repeat(np.array([-1.0, 0.0, 0.5, 2.0], np.float32), 8)
    book = k_means(values, 16)
    np.testing.assert_array_equal(book[nearest(values, book)], values)
    real = weight(32, 8)
    plan = WeightPlan("w", "codebook", "group", 1, (), "k-means", group=4, bits=4)
    found = encode(real, plan, 0)
    assert found.factors.shape == (2, 16)
    assert found.codes.dtype == np.uint8
    back = found.decoded()
    for column in range(8):
        np.testing.assert_array_equal(
            back[:, column],
            found.factors[column // 4][found.codes[:, column]] * found.scales[column],
        )
    whole = encode(real, replace(plan, granularity="tensor", group=0), 0).decoded()
    assert ((back - real) ** 2).sum() <= 1.2 * ((whole - real) ** 2).sum()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.integers(1, 16))
@settings(max_examples=some_of(40, 15), deadline=None)
def test_the_nearest_entry_is_the_nearest(numbers, count):
    values = np.asarray(numbers, np.float32)
    book = k_means(values, count)
    assert 1 <= len(book) <= count
    assert (np.diff(book) > 0).all()
    chosen = np.abs(values - book[nearest(values, book)])
    assert (chosen <= np.abs(values[:, None] - book[None]).min(axis=1) + 1e-5).all()


@pytest.mark.parametrize(
    ("real", "plan", "match"),
    [
        (np.full((2, 2), 1e6, np.float32), replace(PLAN, dtype="float16"), "float16 cannot hold"),
        (weight(10, 2), replace(PLAN, granularity="group", group=4), "groups of 4 do not divide"),
        (
            weight(4, 10),
            WeightPlan("w", "codebook", "group", 1, (), "k-means", group=4, bits=4),
            "blocks of 4 do not divide",
        ),
        (
            weight(4, 4),
            WeightPlan("w", "codebook", "tensor", 1, (), "k-means", bits=8),
            "a codebook has 16 entries",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused(real, plan, match):
    with pytest.raises(ValueError, match=match):
        encode(real, plan, 0)


@given(st.data())
@settings(max_examples=some_of(30, 15), deadline=None)
def test_packed_codes_come_back(data):
    name = data.draw(st.sampled_from([n for n, p in PACKINGS.items() if p is not None]))
    packing = PACKINGS[name]
    low, _ = packing.limits
    shape = (3, packing.per_byte * data.draw(st.integers(1, 3)), 2)
    fields = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, packing.mask + 1, shape
    )
    codes = (fields * packing.step + low).astype(np.int8)
    packed = pack_codes(codes, packing, 1)
    assert packed.dtype == np.uint8
    assert packed.shape[1] * packing.per_byte == shape[1]
    np.testing.assert_array_equal(unpack_codes(packed, packing, 1), codes)


def test_codes_without_a_place_are_refused():
    with pytest.raises(ValueError, match="no place"):
        pack_codes(np.full((1, 2, 1), 9, np.int8), PACKINGS["int4"], 1)


@pytest.mark.parametrize("text", ["int5", "int4/", "int4/0", "int4/x", "codebook/2", "/4"])
def test_unknown_encodings_are_refused(text):
    with pytest.raises(ValueError, match="no encoding"):
        Encoding.parse(text)


def test_best_scales_of_large_weights_are_those_of_their_parts():
    rows = weight(40, 8)
    whole = best_scales(rows, 7, "mse", half=True)
    parts = np.concatenate([best_scales(rows[i : i + 1], 7, "mse", half=True) for i in range(40)])
    np.testing.assert_array_equal(whole, parts)


# Rows quantized at run time


def test_rows_reach_the_ends_of_their_range():
    x = weight(5, 16) * np.array([[1], [1e-3], [1e6], [1e-20], [1]], np.float32)
    scales = dynamic.row_scales(x)
    stored = dynamic.quantize_rows(x, scales).astype(int) - dynamic.ZERO_POINT
    assert (np.abs(stored).max(axis=1) == 127).all()
    assert (np.abs(stored * scales - x) <= 0.5001 * scales).all()


def test_rows_of_zeros_and_nan():
    x = np.array([[0, 0], [1e-38, 0], [np.nan, 1]], np.float32)
    scales = np.array([[0], [1e-38 / 127], [1 / 127]], np.float32)
    stored = dynamic.quantize_rows(x, scales).astype(int) - dynamic.ZERO_POINT
    np.testing.assert_array_equal(stored, [[0, 0], [0, 0], [-127, 127]])


def test_decode_of_numbers():
    np.testing.assert_array_equal(decode(np.array([0.5], np.float16), axis=0), [0.5])
