"""Facts about kernels: where they came from, what they move."""

from __future__ import annotations

import pytest
import torch

from compiler.frontend import import_model
from compiler.lower import lower
from compiler.lower.describe_kernels import owner_of, tensor_bytes
from compiler.stages import StageLog
from schedules.tvm_adapter import relax
from targets import get_target


@pytest.mark.parametrize(
    ("parameter", "owner"),
    [
        ("layer1.0.conv1.weight.packed", "layer1.0.conv1"),
        ("features.0.0.weight#2.packed", "features.0.0"),
        ("features.0.0.weight.bias#3", "features.0.0"),
        ("cls_token", "cls_token"),
        ("bn.weight.scale", "bn"),
        (None, None),
    ],
)
def test_owner_of_a_parameter(parameter, owner):
    assert owner_of(parameter) == owner


def test_bytes_of_tensors_and_tuples():
    tensor = relax.TensorType((2, 3), "float32")
    assert tensor_bytes(tensor) == 24
    assert tensor_bytes(relax.TupleType([tensor, relax.TensorType((4,), "int8")])) == 28
    assert tensor_bytes(relax.TensorType((2,), "bfloat16")) == 4


def test_of_a_table_what_is_taken_is_read():
    table = torch.nn.Embedding(1000, 16).eval()
    imported = import_model(table, (torch.arange(4),), log=StageLog())
    lowered = lower(imported, get_target("x86/generic-avx2"), StageLog())
    (kernel,) = [k for k in lowered.kernels if k.kind == "gather"]
    assert kernel.bytes_written == 4 * 16 * 4
    assert kernel.bytes_read == kernel.bytes_written + 4 * 8  # rows, and their numbers
