"""The Relax that the frontend makes of layers that the lowering matches by their form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as f
from torch import nn

from compiler.frontend import import_model
from compiler.stages import StageLog


def operators(module: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Names of the Relax operators of ``main``, in order."""
    from schedules.tvm_adapter import relax

    main = import_model(module.eval(), inputs, log=StageLog()).module["main"]
    found = []
    for block in main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call):
                found.append(value.op.name.removeprefix("relax."))
    return found


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def test_a_linear_layer_keeps_its_axes() -> None:
    assert operators(nn.Linear(4, 3), torch.zeros(2, 5, 4)) == ["permute_dims", "matmul", "add"]


def test_attention() -> None:
    q, mask = torch.zeros(1, 2, 6, 4), torch.zeros(1, 1, 6, 6)
    attend = Lambda(lambda q, m: f.scaled_dot_product_attention(q, q, q, attn_mask=m))
    assert operators(attend, q, mask) == [
        "multiply",
        "permute_dims",
        "matmul",
        "add",
        "nn.softmax",
        "matmul",
    ]


def test_convolution_and_batch_norm_stay_whole() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1))
    found = operators(net, torch.zeros(1, 3, 8, 8))
    assert found == ["nn.conv2d", "reshape", "add", "nn.batch_norm", "clip", "mean"]


def test_what_changes_nothing_leaves_no_operator() -> None:
    def idle(x: torch.Tensor) -> torch.Tensor:
        x = f.dropout(x.contiguous().clone(), 0.5, training=False).detach()
        return x.to(torch.float32).expand(2, 3)[:, 0:].relu()

    assert operators(Lambda(idle), torch.zeros(2, 3)) == ["nn.relu"]


def test_interpolation_and_normalisation_stay_whole() -> None:
    def net(x: torch.Tensor) -> torch.Tensor:
        x = f.group_norm(f.interpolate(x, scale_factor=2), 2)
        return f.gelu(f.layer_norm(x, [8]))

    assert operators(Lambda(net), torch.zeros(1, 4, 4, 4)) == [
        "image.resize2d",
        "nn.group_norm",
        "nn.layer_norm",
        "nn.gelu",
    ]
