"""ReducePrecision: heavy operators on bfloat16, everything converted at most once."""

# ruff: noqa: N805 - the functions of a TVMScript module take no self

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm.script import ir as I  # noqa: N812 - TVMScript's own convention
from tvm.script import relax as R  # noqa: N812

from compiler.errors import ModelError
from compiler.lower.parameters import ParameterTable, value_of
from compiler.lower.reduce_precision import reduce_precision
from schedules.tvm_adapter import ir, relax
from tests.passes.helpers import constants_of, module_of, operators


def check(before: Any, after: Any) -> None:
    result, _ = reduce_precision(before, ParameterTable())
    after = relax.transform.CanonicalizeBindings()(after)
    ir.assert_structural_equal(result["main"], after["main"])


def test_a_tensor_that_both_kinds_read_is_converted_once():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), v: R.Tensor((8, 8), "float32")) -> R.Tensor(
            (4, 8), "float32"
        ):
            with R.dataflow():
                h = R.matmul(x, v, out_dtype="float32")
                a = R.nn.relu(h)
                p = R.matmul(a, v, out_dtype="float32")
                y = R.add(p, a)
                R.output(y)
            return y

    @I.ir_module
    class After:
        @R.function
        def main(x: R.Tensor((4, 8), "float32"), v: R.Tensor((8, 8), "float32")) -> R.Tensor(
            (4, 8), "float32"
        ):
            with R.dataflow():
                x16 = R.astype(x, "bfloat16")
                v16 = R.astype(v, "bfloat16")
                h = R.matmul(x16, v16, out_dtype="float32")
                a = R.nn.relu(h)
                a16 = R.astype(a, "bfloat16")
                p = R.matmul(a16, v16, out_dtype="float32")
                wide = R.astype(a16, "float32")
                y = R.add(p, wide)
                R.output(y)
            return y

    check(Before, After)


def test_moves_and_rows_between_heavy_operators():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 4, 8), "float32"), v: R.Tensor((8, 8), "float32")) -> R.Tensor(
            (2, 4, 8), "float32"
        ):
            with R.dataflow():
                h = R.matmul(x, v, out_dtype="float32")
                t = R.permute_dims(h, axes=[0, 2, 1])
                scores = R.matmul(h, t, out_dtype="float32")
                rows = R.nn.softmax(scores, axis=-1)
                y = R.matmul(rows, h, out_dtype="float32")
                R.output(y)
            return y

    @I.ir_module
    class After:
        @R.function
        def main(x: R.Tensor((2, 4, 8), "float32"), v: R.Tensor((8, 8), "float32")) -> R.Tensor(
            (2, 4, 8), "float32"
        ):
            with R.dataflow():
                x16 = R.astype(x, "bfloat16")
                v16 = R.astype(v, "bfloat16")
                h = R.matmul(x16, v16, out_dtype="float32")
                h16 = R.astype(h, "bfloat16")
                t16 = R.permute_dims(h16, axes=[0, 2, 1])
                scores = R.matmul(h16, t16, out_dtype="float32")
                scores16 = R.astype(scores, "bfloat16")
                wide = R.astype(scores16, "float32")
                rows = R.nn.softmax(wide, axis=-1)
                rows16 = R.astype(rows, "bfloat16")
                y = R.matmul(rows16, h16, out_dtype="float32")
                R.output(y)
            return y

    check(Before, After)


def test_what_does_not_come_from_a_heavy_operator_keeps_its_digits():
    """Positions and lengths above 256 are no bfloat16."""

    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((4, 8), "float32"),
            v: R.Tensor((8, 8), "float32"),
            position: R.Tensor((4, 8), "float32"),
        ) -> R.Tensor((4, 1), "float32"):
            with R.dataflow():
                flat = R.reshape(position, R.shape([8, 4]))
                total = R.sum(flat, axis=[0], keepdims=True)
                column = R.reshape(total, R.shape([4, 1]))
                h = R.matmul(x, v, out_dtype="float32")
                mean = R.mean(h, axis=[1], keepdims=True)
                y = R.divide(mean, column)
                R.output(y)
            return y

    result, summary = reduce_precision(Before, ParameterTable())
    names = {
        str(b.var.name): str(b.var.ty.dtype)
        for block in result["main"].body.blocks
        for b in block.bindings
    }
    assert {names[n] for n in ("flat", "total", "column")} == {"float32"}
    assert "bfloat16" in names.values()
    assert summary.kept["sum"] == 1


def test_outputs_stay_float32_also_through_tuples_and_reshapes():
    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.ones((8, 8), np.float32), "w")
        h = bb.emit(relax.op.matmul(inputs[0], weight))
        flat = bb.emit(relax.op.reshape(h, [32]))
        again = bb.emit(relax.op.matmul(h, weight))
        return bb.emit(relax.Tuple([h, flat, again]))

    module, table = module_of(build, (4, 8))
    result, _ = reduce_precision(module, table)
    fields = result["main"].ret_ty.fields
    assert [str(f.dtype) for f in fields] == ["float32"] * 3
    relax.analysis.well_formed(result)  # raises if it is not


def test_weights_are_rounded_once_to_the_nearest_even():
    values = np.array([[1 + 2**-8, 1 + 3 * 2**-8], [np.nan, -(1 + 2**-7 + 2**-9)]], np.float32)

    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(values, "w")
        first = bb.emit(relax.op.matmul(inputs[0], weight))
        return bb.emit(relax.op.matmul(first, weight))

    module, table = module_of(build, (4, 2))
    result, summary = reduce_precision(module, table)
    (constant,) = {c.tobytes() for c in constants_of(result)}
    got = np.frombuffer(constant, ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(got, [1, 1 + 2**-6, np.nan, -(1 + 2**-7)])
    assert summary.reduced == {"matmul": 2}


def test_a_split_stays_bfloat16():
    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.ones((8, 8), np.float32), "w")
        h = bb.emit(relax.op.matmul(inputs[0], weight))
        parts = bb.emit(relax.op.split(h, 2, 1))
        left = bb.emit(relax.TupleGetItem(parts, 0))
        right = bb.emit(relax.TupleGetItem(parts, 1))
        return bb.emit(relax.op.matmul(left, bb.emit(relax.op.permute_dims(right, [1, 0]))))

    module, table = module_of(build, (4, 8))
    result, _ = reduce_precision(module, table)
    assert operators(result).count("astype") == 2  # the input, and the first product


def test_parts_of_a_split_are_widened_for_arithmetic():
    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.ones((8, 8), np.float32), "w")
        h = bb.emit(relax.op.matmul(inputs[0], weight))
        parts = bb.emit(relax.op.split(h, 2, 0))
        left = bb.emit(relax.TupleGetItem(parts, 0))
        right = bb.emit(relax.TupleGetItem(parts, 1))
        return bb.emit(relax.op.matmul(bb.emit(relax.op.add(left, right)), weight))

    module, table = module_of(build, (4, 8))
    result, _ = reduce_precision(module, table)
    relax.analysis.well_formed(result)  # raises if it is not
    names = operators(result)
    assert names[names.index("split") :] == ["split", "astype", "astype", "add", "astype", "matmul"]


def test_a_convolution_keeps_its_attributes():
    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.ones((8, 2, 3, 3), np.float32), "w")
        return bb.emit(
            relax.op.nn.conv2d(
                inputs[0], weight, strides=(2, 1), padding=(1, 2, 3, 0), dilation=(1, 2), groups=4,
                data_layout="NHWC", kernel_layout="OIHW",
            )
        )  # fmt: skip

    module, table = module_of(build, (1, 9, 9, 8))
    result, _ = reduce_precision(module, table)

    def conv(m: Any) -> Any:
        values = [b.value for block in m["main"].body.blocks for b in block.bindings]
        return next(v for v in values if getattr(v.op, "name", "") == "relax.nn.conv2d")

    old, new = conv(module), conv(result)
    assert str(new.ty.dtype) == "float32"
    assert [int(v) for v in new.ty.shape.values] == [int(v) for v in old.ty.shape.values]
    for name in ("strides", "padding", "dilation", "groups", "data_layout", "kernel_layout"):
        assert str(getattr(old.attrs, name)) == str(getattr(new.attrs, name))
    assert str(value_of(new.args[1]).dtype) == "bfloat16"


def test_a_model_without_heavy_operators_says_so():
    module, table = module_of(lambda bb, _, x: bb.emit(relax.op.nn.relu(x[0])), (4, 8))
    result, summary = reduce_precision(module, table)
    assert result.same_as(module)
    assert "nothing computes in bfloat16" in summary.describe(native=True)


@pytest.mark.parametrize("native", [True, False])
def test_the_log_says_what_ran_in_what(native):
    def build(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.ones((8, 8), np.float32), "w")
        h = bb.emit(relax.op.matmul(inputs[0], weight))
        return bb.emit(relax.op.nn.gelu(h))

    module, table = module_of(build, (4, 8))
    _, summary = reduce_precision(module, table)
    text = summary.describe(native)
    assert text.startswith("1 operators in bfloat16 (1 matmul), 1 in float32")
    assert ("does not get faster" in text) is not native


def test_float16_keeps_masked_scores_and_refuses_what_it_cannot_hold():
    """The least float32, which masks are made of, would become minus infinity."""

    def attention(bb: Any, table: Any, inputs: Any) -> Any:
        scores = bb.emit(relax.op.matmul(inputs[0], inputs[0]))
        masked = bb.emit(relax.op.add(scores, inputs[1]))
        weights = bb.emit(relax.op.nn.softmax(masked))
        return bb.emit(relax.op.matmul(weights, inputs[0]))

    module, table = module_of(attention, (8, 8), (8, 8))
    result, summary = reduce_precision(module, table, low="float16")
    values = [b.value for block in result["main"].body.blocks for b in block.bindings]
    softmax = next(v for v in values if getattr(v, "op", None) == ir.Op.get("relax.nn.softmax"))
    assert str(softmax.args[0].ty.dtype) == "float32"
    assert "2 operators in float16 (2 matmul)" in summary.describe(native=True)

    def large(bb: Any, table: Any, inputs: Any) -> Any:
        weight = table.constant(np.full((8, 8), 7e4, np.float32), "w")
        return bb.emit(relax.op.matmul(inputs[0], weight))

    module, table = module_of(large, (8, 8))
    with pytest.raises(ModelError, match="larger than float16 holds"):
        reduce_precision(module, table, low="float16")
