"""Batch normalization disappears into weights, or becomes one multiplication and addition."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.lower.fold_batch_norm import fold_batch_norm
from schedules.tvm_adapter import relax
from tests.passes.helpers import constants_of, evaluate, module_of, operators

pytestmark = pytest.mark.compile
rng = np.random.default_rng(0)


def norm(bb, table, data, channels, axis=1, **options):
    values = [rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=channels),
              rng.uniform(0.5, 2.0, size=channels)]  # fmt: skip
    names = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    constants = [table.constant(v.astype("float32"), n) for v, n in zip(values, names, strict=True)]
    call = bb.emit(
        relax.op.nn.batch_norm(data, *constants, axis=axis, epsilon=1e-3, training=False, **options)
    )
    return relax.TupleGetItem(call, 0)


def weight(table, *shape):
    return table.constant(rng.normal(size=shape).astype("float32"), "conv.weight")


def check(build, shape, expected):
    module, table = module_of(build, shape)
    folded = fold_batch_norm(module, table)
    assert operators(folded) == expected
    x = rng.normal(size=shape).astype("float32")
    np.testing.assert_allclose(evaluate(folded, x), evaluate(module, x), rtol=2e-4, atol=2e-5)
    return folded, table


def test_after_a_convolution():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 8, 3, 3, 3), padding=1))
        return norm(bb, table, conv, 8)

    check(build, (1, 3, 6, 6), ["nn.conv2d", "add"])


def test_after_a_convolution_with_bias():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 8, 3, 3, 3)))
        bias = table.constant(rng.normal(size=(1, 8, 1, 1)).astype("float32"), "conv.bias")
        return norm(bb, table, bb.emit(relax.op.add(conv, bias)), 8)

    check(build, (2, 3, 6, 6), ["nn.conv2d", "add"])


def test_after_a_grouped_convolution():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 8, 2, 3, 3), groups=2))
        return norm(bb, table, conv, 8)

    check(build, (1, 4, 6, 6), ["nn.conv2d", "add"])


def test_after_a_transposed_convolution():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d_transpose(inputs[0], weight(table, 4, 6, 2, 2), 2))
        return norm(bb, table, conv, 6)

    check(build, (1, 4, 5, 5), ["nn.conv2d_transpose", "add"])


def test_after_a_linear_layer():
    def build(bb, table, inputs):
        product = bb.emit(relax.op.matmul(inputs[0], weight(table, 5, 7)))
        return norm(bb, table, product, 7)

    check(build, (3, 5), ["matmul", "add"])


def test_without_a_producer():
    def build(bb, table, inputs):
        return norm(bb, table, inputs[0], 4)

    check(build, (2, 4, 3, 3), ["multiply", "add"])


def test_a_convolution_used_twice_keeps_its_weights():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 4, 4, 1, 1)))
        normalized = bb.emit(norm(bb, table, conv, 4))
        return relax.op.add(normalized, conv)

    check(build, (1, 4, 3, 3), ["nn.conv2d", "multiply", "add", "add"])


def test_without_scale_and_center():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 4, 3, 1, 1)))
        return norm(bb, table, conv, 4, center=False, scale=False)

    module, table = module_of(build, (1, 3, 4, 4))
    before = constants_of(module)
    folded = fold_batch_norm(module, table)
    kernel = constants_of(folded)[0]
    expected = before[0] / np.sqrt(before[4] + 1e-3).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_folded_weights_keep_their_name():
    def build(bb, table, inputs):
        conv = bb.emit(relax.op.nn.conv2d(inputs[0], weight(table, 8, 3, 3, 3)))
        return norm(bb, table, conv, 8)

    module, table = module_of(build, (1, 3, 6, 6))
    folded = fold_batch_norm(module, table)
    names = []

    def visit(expr):
        from schedules.tvm_adapter import GenericConst

        if isinstance(expr, GenericConst):
            names.append(table.name_of(expr))

    relax.analysis.post_order_visit(folded["main"], visit)
    assert names == ["conv.weight#2", "conv.weight.bias"]
