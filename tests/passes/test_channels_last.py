"""Layouts: transposes only where the model needs PyTorch's order, and results unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.lower.channels_last import channels_last
from schedules.tvm_adapter import relax
from tests.passes.helpers import evaluate, module_of, operators

pytestmark = pytest.mark.compile
rng = np.random.default_rng(1)


def conv(bb, table, data, outer, inner, kernel=1):
    value = rng.normal(size=(outer, inner, kernel, kernel)).astype("float32")
    call = relax.op.nn.conv2d(data, table.constant(value, "weight"), padding=kernel // 2)
    return bb.emit(call)


def check(build, expected, *shapes):
    module, table = module_of(build, *shapes)
    rewritten = channels_last(module, table)
    assert operators(rewritten) == expected
    inputs = [rng.normal(size=s).astype("float32") for s in shapes]
    # TVM's default pipeline takes NCHW and NHWC alike.
    np.testing.assert_allclose(
        evaluate(rewritten, *inputs), evaluate(module, *inputs), rtol=1e-4, atol=1e-5
    )


def test_a_chain_is_transposed_at_its_ends_only():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 8, 4, 3)
        x = bb.emit(relax.op.nn.relu(x))
        x = bb.emit(relax.op.nn.max_pool2d(x, (2, 2), (2, 2)))
        return conv(bb, table, x, 6, 8)

    check(
        build,
        ["permute_dims", "nn.conv2d", "nn.relu", "nn.max_pool2d", "nn.conv2d", "permute_dims"],
        (1, 4, 8, 8),
    )


def test_a_residual_and_its_bias_stay_channels_last():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 4, 4)
        bias = table.constant(rng.normal(size=(1, 4, 1, 1)).astype("float32"), "bias")
        y = bb.emit(relax.op.add(conv(bb, table, x, 4, 4, 3), bias))
        return relax.op.add(x, y)

    check(
        build,
        ["permute_dims", "nn.conv2d", "nn.conv2d", "add", "add", "permute_dims"],
        (2, 4, 5, 5),
    )


def test_a_global_mean_needs_no_transpose():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 4, 3)
        return relax.op.mean(x, [2, 3], False)

    check(build, ["permute_dims", "nn.conv2d", "mean"], (1, 3, 5, 5))


def test_the_models_own_transposes_cancel():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 4, 3)
        x = bb.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
        x = bb.emit(relax.op.multiply(x, relax.const(2.0, "float32")))
        x = bb.emit(relax.op.permute_dims(x, [0, 3, 1, 2]))
        return conv(bb, table, x, 2, 4)

    check(
        build,
        ["permute_dims", "nn.conv2d", "multiply", "nn.conv2d", "permute_dims"],
        (1, 3, 5, 5),
    )


def test_patches_become_tokens_without_a_transpose():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 6, 3)
        x = bb.emit(relax.op.reshape(x, (1, 6, 20)))
        return relax.op.permute_dims(x, [0, 2, 1])

    check(build, ["permute_dims", "nn.conv2d", "reshape"], (1, 3, 4, 5))


def test_concatenation_and_split_move_their_axis():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 4, 3)
        y = conv(bb, table, inputs[0], 2, 3)
        joined = bb.emit(relax.op.concat([x, y], 1))
        parts = bb.emit(relax.op.split(joined, 2, 1))
        first = bb.emit(relax.TupleGetItem(parts, 0))
        second = bb.emit(relax.TupleGetItem(parts, 1))
        return relax.op.add(first, second)

    module, table = module_of(build, (1, 3, 4, 4))
    rewritten = channels_last(module, table)
    assert operators(rewritten).count("permute_dims") <= 3
    x = rng.normal(size=(1, 3, 4, 4)).astype("float32")
    np.testing.assert_allclose(evaluate(rewritten, x), evaluate(module, x), rtol=1e-4, atol=1e-5)


def test_one_dimensional_signals_become_images_of_height_one():
    def build(bb, table, inputs):
        value = rng.normal(size=(5, 3, 3)).astype("float32")
        x = bb.emit(relax.op.nn.conv1d(inputs[0], table.constant(value, "w"), padding=1))
        return relax.op.nn.relu(x)

    check(
        build,
        ["permute_dims", "reshape", "nn.conv2d", "reshape", "nn.relu", "permute_dims"],
        (2, 3, 9),
    )


def test_reductions_that_reorder_dimensions_fall_back_to_the_original_layout():
    def build(bb, table, inputs):
        x = conv(bb, table, inputs[0], 4, 3)
        return relax.op.sum(x, [0], False)

    module, table = module_of(build, (2, 3, 4, 5))
    rewritten = channels_last(module, table)
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    np.testing.assert_allclose(evaluate(rewritten, x), evaluate(module, x), rtol=1e-4, atol=1e-5)
    assert operators(rewritten)[-2:] == ["permute_dims", "sum"]


def test_a_function_without_images_is_left_alone():
    def build(bb, table, inputs):
        return relax.op.nn.relu(inputs[0])

    check(build, ["nn.relu"], (2, 3))
