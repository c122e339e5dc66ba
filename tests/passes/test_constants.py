"""Constants: folded with NumPy, lifted to parameters, names kept."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.lower.fold_constants import MAX_GROWTH_ELEMENTS, fold_constants
from compiler.lower.lift_constants import lift_constants
from compiler.lower.parameters import ParameterTable, value_of
from schedules.tvm_adapter import relax
from tests.passes.helpers import constants_of, module_of, operators


def test_transposes_and_arithmetic_on_constants_fold():
    value = np.arange(6, dtype="float32").reshape(2, 3)

    def build(bb, table, inputs):
        w = bb.emit(relax.op.permute_dims(table.constant(value, "w"), [1, 0]))
        w = bb.emit(relax.op.multiply(w, relax.const(2.0, "float32")))
        return relax.op.matmul(inputs[0], w)

    module, table = module_of(build, (4, 3))
    folded = fold_constants(module, table)
    assert operators(folded) == ["matmul"]
    np.testing.assert_array_equal(constants_of(folded)[0], value.T * 2)


def test_what_is_not_constant_stays():
    def build(bb, table, inputs):
        return relax.op.add(bb.emit(relax.op.permute_dims(inputs[0], [1, 0])), inputs[1])

    module, table = module_of(build, (2, 3), (3, 2))
    assert operators(fold_constants(module, table)) == ["permute_dims", "add"]


def test_a_broadcast_that_would_grow_a_constant_stays():
    def build(bb, table, inputs):
        small = table.constant(np.ones((1, 4), "float32"), "small")
        big = bb.emit(relax.op.broadcast_to(small, (MAX_GROWTH_ELEMENTS, 4)))
        return relax.op.add(inputs[0], big)

    module, table = module_of(build, (MAX_GROWTH_ELEMENTS, 4))
    assert operators(fold_constants(module, table)) == ["broadcast_to", "add"]


def test_lifted_constants_are_parameters_after_the_inputs():
    first, second = np.ones((2, 2), "float32"), np.zeros((2,), "float32")

    def build(bb, table, inputs):
        product = bb.emit(relax.op.matmul(inputs[0], table.constant(first, "layer.weight")))
        return relax.op.add(product, table.constant(second, "layer.bias"))

    module, table = module_of(build, (3, 2))
    lifted, parameters = lift_constants(module, table)
    assert list(parameters) == ["layer.weight", "layer.bias"]
    np.testing.assert_array_equal(parameters["layer.weight"], first)
    assert len(lifted["main"].params) == 3
    assert int(lifted["main"].attrs["num_input"]) == 1
    assert constants_of(lifted) == []


def test_a_constant_used_twice_is_one_parameter():
    def build(bb, table, inputs):
        shared = table.constant(np.ones((2,), "float32"), "shared")
        return relax.op.add(bb.emit(relax.op.add(inputs[0], shared)), shared)

    module, table = module_of(build, (2,))
    _, parameters = lift_constants(module, table)
    assert list(parameters) == ["shared"]


def test_names_are_unique():
    table = ParameterTable()
    constants = [table.constant(np.full((1,), i, "float32"), "w") for i in range(3)]
    assert [table.name_of(c) for c in constants] == ["w", "w#2", "w#3"]
    assert value_of(constants[2])[0] == 2
    assert table.name_of(relax.const(1.0, "float32")) is None


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2)])
def test_reshapes_of_constants_fold(shape):
    def build(bb, table, inputs):
        w = table.constant(np.arange(6, dtype="float32"), "w")
        return relax.op.add(inputs[0], bb.emit(relax.op.reshape(w, shape)))

    module, table = module_of(build, shape)
    folded = fold_constants(module, table)
    assert operators(folded) == ["add"]
    assert constants_of(folded)[0].shape == shape
