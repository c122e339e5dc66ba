"""Winograd on whole numbers: exact wherever the proof holds, and offered only there."""

from __future__ import annotations

import numpy as np
import pytest

from schedules.cpu import templates
from schedules.cpu.compute.winograd_tiles import TRANSFORMS, bits_of_sums, pack_kernel
from schedules.cpu.templates.winograd_tiles import proven
from schedules.workload import SUM_BITS, Workload
from targets import get_target

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


def conv(data="uint8", channels=32, outputs=24, size=14, **attributes):
    accumulator = "float32" if data == "float32" else "int32"
    weight = "float32" if data == "float32" else "int8"
    return Workload(
        "conv2d", (1, size, size, channels), (outputs, channels, 3, 3), (1, size, size, outputs),
        (data, weight, accumulator), "NHWC",
        {"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1, **attributes},
    )  # fmt: skip


def algorithms(workload, target="arm/cortex-a72"):
    return {s.algorithm for s in templates.spaces(workload, get_target(target))}


def as_compiled(data, weight, m):
    """A tile by the kernel's arithmetic: int16 factors, the rest modulo 2^32.

    Args:
        data: ``[channels, m + 2, m + 2]``.
        weight: ``[channels, 3, 3]``, int8.
        m: Outputs of a tile along one axis.
    """
    t = TRANSFORMS[m]
    b, a = t.input_matrix().astype(np.int16), t.output_matrix().astype(np.uint32)
    factors = np.einsum("iy,jx,cyx->ijc", b, b, data.astype(np.int16), dtype=np.int16)
    packed = pack_kernel(weight[None], m, 8, 8)
    assert packed.dtype == np.int16
    products = factors.astype(np.int32) * packed[0, ..., 0].astype(np.int32)
    sums = products.astype(np.uint32).sum(-1, dtype=np.uint32)
    scaled = np.einsum("yi,xj,ij->yx", a, a, sums, dtype=np.uint32)
    return (scaled * np.uint32(t.inverse)).view(np.int32) >> t.shift


def directly(data, weight, m):
    wide, kernel = data.astype(np.int64), weight.astype(np.int64)
    return np.array(
        [[(wide[:, y : y + 3, x : x + 3] * kernel).sum() for x in range(m)] for y in range(m)]
    )


@pytest.mark.parametrize("m", TRANSFORMS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_factors_fit_into_16_bits(m, dtype):
    low, high = LIMITS[dtype]
    t = TRANSFORMS[m]
    b, g = t.input_matrix(), np.array(t.kernel)
    rng = np.random.default_rng(0)
    largest = 0
    for i in range(m + 2):  # the data that make a place as large as it can be
        for j in range(m + 2):
            signs = np.outer(b[i], b[j])
            for data in (np.where(signs > 0, high, low), np.where(signs > 0, low, high)):
                largest = max(largest, np.abs(b @ data @ b.T).max())
    assert largest == t.largest_data(low, high) <= 32767
    weights = np.concatenate([rng.choice([-128, 127], (500, 3, 3)), np.full((1, 3, 3), -128)])
    assert np.abs(g @ weights @ g.T).max() == t.largest_weight(128) <= 32767


@pytest.mark.parametrize("m", TRANSFORMS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_sums_are_those_of_the_direct_convolution(m, dtype):
    low, high = LIMITS[dtype]
    rng = np.random.default_rng(m)
    for _ in range(50):
        channels = int(rng.integers(1, 200))
        data = rng.choice([low, high], (channels, m + 2, m + 2))
        if rng.random() < 0.5:
            data = rng.integers(low, high + 1, data.shape)
        weight = rng.integers(-127, 128, (channels, 3, 3)).astype(np.int8)
        assert (as_compiled(data, weight, m) == directly(data, weight, m)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_widest_sums_that_are_proven_are_right_and_wider_ones_wrong(sign):
    t = TRANSFORMS[4]
    limit = 1 << t.sum_bits - 1
    channels = 160
    weight = np.full((channels, 3, 3), sign * 97, np.int8)
    data = np.full((channels, 6, 6), 255)
    weight.reshape(-1)[int(limit / (255 * 97)) :] = 0  # as many as fit
    weight.reshape(-1)[-1] = sign * ((limit // 255) % 97)
    right = directly(data, weight, 4)
    assert limit - 255 <= abs(int(right[0, 0])) < limit
    assert bits_of_sums(weight[None], 0, 255) == t.sum_bits
    assert (as_compiled(data, weight, 4) == right).all()
    assert abs(int(right[0, 0])) * t.scale > 1 << 34  # which wraps several times
    weight.reshape(-1)[-2] = sign * 2
    assert bits_of_sums(weight[None], 0, 255) == t.sum_bits + 1
    assert (as_compiled(data, weight, 4) != directly(data, weight, 4)).all()


@pytest.mark.parametrize("dtype", LIMITS)
def test_bits_hold_the_extremes_and_no_fewer_do(dtype):
    low, high = LIMITS[dtype]
    rng = np.random.default_rng(1)
    for _ in range(30):
        weight = rng.integers(-127, 128, (2, 3, 3, 3)).astype(np.int8)
        flat = weight.reshape(2, -1).astype(int)
        most = np.where(flat > 0, flat * high, flat * low).sum(1).max()
        least = np.where(flat > 0, flat * low, flat * high).sum(1).min()
        bits = bits_of_sums(weight, low, high)
        assert -(1 << bits - 1) <= least
        assert most < 1 << bits - 1
        assert most >= 1 << bits - 2 or least < -(1 << bits - 2)


def test_integers_are_offered_where_the_weights_prove_it():
    spec = get_target("arm/cortex-a72")
    small = np.full((24, 32, 3, 3), 127, np.int8)
    workload = proven(conv(), spec, lambda: small)
    assert workload.attributes[SUM_BITS] == 26
    assert {"integer-winograd-2x2", "integer-winograd-4x4"} < algorithms(workload)
    assert workload.in_float == conv("float32")
    large = np.full((24, 120, 3, 3), 127, np.int8)  # 255 * 127 * 1080 > 2^25
    assert proven(conv(channels=120), spec, lambda: large) == conv(channels=120)
    assert not any("winograd" in name for name in algorithms(conv()))


@pytest.mark.parametrize("target", ["x86/zen4", "arm/neoverse-n1", "arm/armv7"])
def test_nothing_is_recorded_where_nobody_asks(target):
    def weight():
        raise AssertionError("nobody needs it")

    assert proven(conv(), get_target(target), weight) == conv()
    assert proven(conv("float32"), get_target("arm/cortex-a72"), weight) == conv("float32")
    assert not any("integer" in name for name in algorithms(conv(sum_bits=26), target))


def test_float32_on_64_bit_arm_only():
    for target in ("arm/cortex-a53", "arm/neoverse-n1"):
        found = algorithms(conv("float32"), target)
        assert {"tiled-winograd-2x2", "tiled-winograd-4x4"} < found
        assert not any(name.startswith("winograd") for name in found)
    assert not any(name.startswith("tiled") for name in algorithms(conv("float32"), "x86/zen4"))
    assert not any("winograd" in n for n in algorithms(conv("float32", strides=[2, 2])))


@pytest.mark.parametrize("data", ["uint8", "float32"])
def test_every_block_that_is_offered_fits_into_registers(data):
    workload = conv(data, 64, 128, 56, **({"sum_bits": 26} if data == "uint8" else {}))
    spec = get_target("arm/cortex-a53")
    for space in templates.spaces(workload, spec):
        if "winograd" not in space.algorithm:
            continue
        assert np.isfinite(templates.estimated_cycles(workload, space.default, spec))
        for lines, across, vectors, lanes in next(
            d.options for d in space.decisions if d.name == "tile"
        ):
            rows = lines * across
            assert rows * vectors * lanes // 4 + rows + vectors <= 31
