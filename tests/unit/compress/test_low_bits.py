"""Ternary and binary weights, and arithmetic on signs, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compiler.compress import low_bits
from compiler.compress.recipe import Quantize
from compiler.errors import InputError

REAL = arrays.arrays(np.float32, (3, 5, 2), elements=st.floats(-4, 4, width=32))


class TestWeights:
    @given(REAL)
    def test_ternary_is_that_of_the_paper(self, weight):
        stored, scales = low_bits.ternary_scales(weight, 0)
        for channel, q, scale in zip(weight.astype(np.float64), stored, scales, strict=True):
            kept = np.abs(channel) > 0.7 * np.abs(channel).mean()
            assert (q == np.where(kept, np.sign(channel), 0)).all()
            if kept.any() and np.float32(np.abs(channel[kept]).mean()) > 0:
                assert scale == np.float32(np.abs(channel[kept]).mean())

    @given(REAL)
    def test_binary_is_sign_and_mean(self, weight):
        stored, scales = low_bits.binary_scales(weight, 0)
        assert (stored == np.where(weight >= 0, 1, -1)).all()
        assert all(s > 0 for s in scales)

    def test_zero_is_positive(self):
        stored, _ = low_bits.binary_scales(np.array([[0.0, -0.0, -1e-30]]), 0)
        assert stored.tolist() == [[1, 1, -1]]

    @pytest.mark.parametrize("rule", [low_bits.ternary_scales, low_bits.binary_scales])
    def test_an_empty_channel_has_a_scale(self, rule):
        _, scales = rule(np.array([[0.0, 0.0], [2.0, -2.0]]), 0)
        assert scales == (2.0 / 1024, 2.0)
        assert rule(np.zeros((2, 2)), 0)[1] == (1.0, 1.0)

    @given(REAL, st.sampled_from([-3.0, -1.0, 0.5, 8.0]))
    def test_a_factor_of_a_channel_goes_into_its_scale(self, weight, factor):
        """Folding a batch normalization first or last gives the same, see the documentation."""
        for rule in (low_bits.ternary_scales, low_bits.binary_scales):
            before, scales = rule(weight, 0)
            after, scaled = rule(weight.astype(np.float64) * factor, 0)
            rows = np.abs(weight).max(axis=(1, 2)) > 1e-20
            nonzero = (weight != 0) | (rule is low_bits.ternary_scales)
            same = np.where(nonzero, after == before * np.sign(factor), True)
            assert same[rows].all()
            ratio = np.asarray(scaled)[rows] / np.asarray(scales)[rows]
            np.testing.assert_allclose(ratio, abs(factor), rtol=1e-6)

    def test_one_scale_in_all(self):
        weight = np.array([[1.0, -3.0], [0.1, 4.0]])
        stored, scales = low_bits.stored_weight(weight, "ternary", (), 1, tensor=True, method="twn")
        assert stored.tolist() == [[0, -1], [0, 1]]
        assert scales == (3.5,)

    def test_scales_of_a_plan(self):
        weight = np.array([[0.6, 0.4, -2.0, 0.5]])

        def stored(scales, method):
            return low_bits.stored_weight(weight, "ternary", scales, 0, tensor=False, method=method)

        assert stored((1.0,), "learned")[0].tolist() == [[1, 0, -1, 0]]  # a tie becomes 0
        # 0.7 times the mean of 0.875 is 0.6125.
        assert stored((1.0,), "twn") == (pytest.approx(np.array([[0, 0, -1, 0]])), (1.0,))
        binary = low_bits.stored_weight(weight, "binary", (3.0,), 0, tensor=False, method="learned")
        assert binary[0].tolist() == [[1, 1, -1, 1]]
        assert binary[1] == (3.0,)

    def test_other_dtypes_are_refused(self):
        with pytest.raises(ValueError, match="int8"):
            low_bits.stored_weight(np.ones((2, 2)), "int8", (), 0, tensor=False, method="")


class TestSigns:
    @given(st.integers(1, 100), st.sampled_from([0, 1, -1]), st.integers(0, 99))
    def test_packing_and_unpacking(self, channels, axis, seed):
        shape = [2, 3]
        shape.insert(axis % 3, channels)
        signs = np.random.default_rng(seed).random(shape) > 0.5
        packed = low_bits.pack_signs(signs, axis)
        assert packed.dtype == np.uint32
        assert packed.shape[axis] == -(-channels // 32)
        assert (low_bits.unpack_signs(packed, channels, axis) == signs * 2 - 1).all()

    def test_bits_beyond_the_last_channel_are_ones(self):
        assert low_bits.pack_signs(np.zeros((1, 3)), 1).tolist() == [[0xFFFFFFF8]]

    def test_signs_of_special_numbers(self):
        x = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, -1e-45]], np.float32)
        packed = low_bits.sign(x, zero_point=0, axis=1)
        assert low_bits.unpack_signs(packed, 6, 1).tolist() == [[1, 1, -1, 1, -1, -1]]

    @given(st.integers(1, 70), st.integers(0, 99))
    def test_sums_are_counts_of_differing_signs(self, channels, seed):
        numpy = np.random.default_rng(seed)
        a, b = (low_bits.pack_signs(numpy.random(s) > 0.5, 1) for s in ((4, channels),) * 2)
        counts = np.bitwise_xor(a[:, None], b[None])
        counts = np.unpackbits(counts.view(np.uint8), axis=-1).sum(axis=-1, dtype=np.int64)
        sums = low_bits.binary_matmul(a, b.T, channels=channels, fraction=3)
        assert (sums == (channels - 2 * counts) * 8).all()

    def test_padding_is_positive(self):
        data = low_bits.pack_signs(np.zeros((1, 2, 1, 1)), 1)
        weight = low_bits.pack_signs(np.ones((1, 2, 3, 3)), 1)
        sums = low_bits.binary_conv2d(data, weight, channels=2, fraction=0, padding=(1, 1, 1, 1))
        assert sums.tolist() == [[[[16 - 2]]]]

    def test_sums_are_exact_in_float32(self):
        for reduction in (1, 576, 2**15, 2**16, 2**22):
            assert reduction << low_bits.fraction_bits(reduction) <= 2**24
        assert low_bits.fraction_bits(4608) == 8


class TestRecipes:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"weights": "ternary/channel", "activations": "binary"}, "one bit need weights of"),
            ({"activations": "binary"}, "one bit need weights of"),
            ({"weights": "ternary/group32"}, "weights is"),
            ({"ends": "float32"}, "4 bits or more"),
            ({"weights": "binary", "ends": "int4"}, "ends is"),
            ({"weights": "ternary/channel", "power_of_two": True}, "no powers of two"),
        ],
    )
    def test_impossible_options(self, options, text):
        with pytest.raises(InputError, match=text):
            Quantize(**options)

    @pytest.mark.parametrize("word", ["ternary", "binary", "w2a8", "w1a8", "w1a1"])
    def test_words(self, word):
        recipe = Quantize.parse(word)
        assert recipe.weight_form.dtype == ("ternary" if word in ("ternary", "w2a8") else "binary")
        assert (recipe.scheme == "binary") == (word in ("binary", "w1a1"))
        assert recipe.ends == "int8"
