"""Operators of quantization in exported programs: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler.errors import ModelError
from compiler.frontend import import_model
from compiler.frontend.quantized import read_quantized, register_operators
from compiler.stages import Imported, StageLog

register_operators()
Q = torch.ops.quantized_decomposed
Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Layer(nn.Module):
    """A linear layer with stored weights, in the form that a test gives."""

    def __init__(self, forward: Forward, dtype: torch.dtype = torch.int8) -> None:
        super().__init__()
        self.body = forward
        g = torch.Generator().manual_seed(0)
        self.register_buffer("stored", torch.randint(0, 100, (4, 8), generator=g).to(dtype) - 50)
        self.register_buffer("scales", torch.rand(4, generator=g) + 0.1)
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


def pair(x: torch.Tensor, *parameters: Any) -> torch.Tensor:
    stored = Q.quantize_per_tensor(x, *parameters)
    return Q.dequantize_per_tensor(stored, *parameters)


def weight(layer: Any) -> torch.Tensor:
    return Q.dequantize_per_channel(
        layer.stored, layer.scales, layer.zeros, 0, -128, 127, torch.int8
    )


def program(forward: Forward, x: torch.Tensor | None = None) -> torch.export.ExportedProgram:
    x = torch.ones(2, 8) if x is None else x
    return torch.export.export(Layer(forward).eval(), (x,))


def imported(forward: Forward) -> Imported:
    return import_model(program(forward), None, log=StageLog())


def linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    y = pair(x, 0.1, 3, 0, 255, torch.uint8)
    return nn.functional.linear(y, weight(layer))


def test_a_pair_is_a_marker_and_a_weight_a_parameter() -> None:
    found = imported(linear)
    assert found.quantized is not None
    assert found.quantized.source == "PT2E"
    assert "imported_range" in str(found.quantized.module)
    assert "imported_range" not in str(found.module)
    ((name, stored),) = found.quantized.weights.items()
    assert (stored.granularity, stored.symmetric, stored.dtype) == ("channel", True, "int8")
    layer: Any = Layer(linear)
    want = layer.stored.float() * layer.scales[:, None]
    assert np.allclose(found.parameters[name], want.numpy(), atol=0)


def test_a_program_without_quantization_is_left_alone() -> None:
    exported = torch.export.export(nn.Linear(8, 4).eval(), (torch.ones(1, 8),))
    assert read_quantized(exported) is None


def test_the_program_itself_is_not_changed() -> None:
    exported = program(linear)
    before, names = str(exported.graph), list(exported.state_dict)
    read_quantized(exported)
    assert str(exported.graph) == before
    assert list(exported.state_dict) == names


def test_several_readers_of_a_tensor_share_its_marker() -> None:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        stored = Q.quantize_per_tensor(x, 0.1, 3, 0, 255, torch.uint8)
        a, b = (Q.dequantize_per_tensor(stored, 0.1, 3, 0, 255, torch.uint8) for _ in range(2))
        return nn.functional.linear(a, weight(layer)) + b[:, :4]

    found = imported(forward).quantized
    assert found is not None
    assert str(found.module).count("R.tilewright.imported_range(") == 1


def test_scales_may_be_tensors() -> None:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        scale, zero = layer.scales[0], layer.zeros[0]
        return nn.functional.linear(pair(x, scale, zero, 0, 255, torch.uint8), weight(layer))

    found = imported(forward).quantized
    assert found is not None
    assert "dynamic=0" in str(found.module)


def test_an_asymmetric_weight_is_told() -> None:
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        w = Q.dequantize_per_tensor(layer.stored, 0.1, 7, -128, 127, torch.int8)
        return nn.functional.linear(x, w)

    found = imported(forward).quantized
    assert found is not None
    assert [w.symmetric for w in found.weights.values()] == [False]


def wide(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(pair(x, 0.1, 0, -32768, 32767, torch.int16), weight(layer))


def no_scale(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(pair(x, 0.0, 3, 0, 255, torch.uint8), weight(layer))


def other_scale(layer: Any, x: torch.Tensor) -> torch.Tensor:
    stored = Q.quantize_per_tensor(x, 0.1, 3, 0, 255, torch.uint8)
    y = Q.dequantize_per_tensor(stored, 0.2, 3, 0, 255, torch.uint8)
    return nn.functional.linear(y, weight(layer))


def on_integers(layer: Any, x: torch.Tensor) -> torch.Tensor:
    stored = Q.quantize_per_tensor(x, 0.1, 3, 0, 255, torch.uint8)
    y = Q.dequantize_per_tensor(stored * 2, 0.1, 3, 0, 255, torch.uint8)
    return nn.functional.linear(y, weight(layer))


def never_read(layer: Any, x: torch.Tensor) -> torch.Tensor:
    stored = Q.quantize_per_tensor(x, 0.1, 3, 0, 255, torch.uint8)
    return nn.functional.linear(x, weight(layer)) + stored.float().sum()


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (wide, "torch.int16 have no kernels"),
        (no_scale, "no positive number"),
        (other_scale, "does not undo"),
        (on_integers, "computes on stored integers"),
        (never_read, "has no counterpart"),
    ],
)
def test_other_forms_are_refused_by_place(forward: Forward, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        imported(forward)
    assert "quantize='int8'" in str(caught.value)
