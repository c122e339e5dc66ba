"""Products of matrices, attention, recurrent layers and half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as f
from torch import nn

pytestmark = pytest.mark.compile


def test_products(check: Any, rng: torch.Generator) -> None:
    def model(a: torch.Tensor, b: torch.Tensor) -> Any:
        return {
            "matmul": a @ b,
            "broadcast": a @ b[0],
            "vector": a @ b[0, :, 0],
            "dot": torch.dot(a[0, 0], a[0, 1]),
            "outer": torch.outer(a[0, 0], b[0, :, 0]),
            "bmm": torch.bmm(a, b),
            "baddbmm": torch.baddbmm(torch.ones(1, 1, 5), a, b, beta=0.5, alpha=2),
            "addmm": torch.addmm(b[0, 0], a[0], b[0], alpha=0.5),
            "integer": a.long() @ b.long(),
            "linear": f.linear(a, b[0].t(), torch.ones(5)),
            "linear3": f.linear(a[None], b[0].t()),
        }

    check(model, torch.randn(2, 3, 4, generator=rng), torch.randn(2, 4, 5, generator=rng))


def test_attention_is_plain_operators_without_transposes_of_q_and_v(
    check: Any, rng: torch.Generator
) -> None:
    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        attend = f.scaled_dot_product_attention
        add = torch.linspace(-3, 0, 7)[None, None, None, :]
        few = k[:, :1], v[:, :1]
        return {
            "plain": attend(q, k, v),
            "scaled": attend(q, k, v, scale=0.7),
            "causal": attend(q, k, v, is_causal=True),
            "bool_mask": attend(q, k, v, attn_mask=add[0, 0] > -2),
            "float_mask": attend(q, k, v, attn_mask=add),
            "three_axes": attend(q[0], k[0], v[0]),
            "grouped": attend(q, *few, enable_gqa=True),
        }

    q = torch.randn(1, 2, 5, 8, generator=rng)
    k, v = (torch.randn(1, 2, 7, 8, generator=rng) for _ in range(2))
    imported = check(model, q, k, v)
    text = imported.module.script()
    assert "nn.attention" not in text
    assert text.count("permute_dims") == 7  # one of K in each of the seven


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(check: Any, kind: type[nn.Module], rng: torch.Generator) -> None:
    torch.manual_seed(1)
    layer = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            output, state = self.layer(x)
            return output, state

    check(Sequence(), torch.randn(2, 3, 6, generator=rng), tolerance=5e-6)


def test_multi_head_attention_and_encoder_layer(check: Any, rng: torch.Generator) -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    check(layer, torch.randn(2, 6, 16, generator=rng), tolerance=5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(check: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 8), nn.Softmax(-1)
    ).to(dtype)
    unit = 2**-10 if dtype == torch.float16 else 2**-7
    imported = check(net, torch.randn(1, 3, 8, 8).to(dtype), tolerance=2 * unit)
    assert imported.parameters["3.weight"].dtype.name == str(dtype).removeprefix("torch.")
