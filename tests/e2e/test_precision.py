"""bfloat16 inference of a float32 model: saved, loaded, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compiler import Bundle, compile, load

pytestmark = pytest.mark.compile


def remark(bundle: Bundle) -> str:
    """What the stage log says about precision."""
    (stage,) = [s for s in bundle.manifest.stages if s.name == "ReducePrecision"]
    return stage.detail


@pytest.mark.parametrize(
    "target", [pytest.param("x86", marks=pytest.mark.slow), "x86/generic-avx2"]
)
def test_a_bundle_on_bfloat16(
    model: nn.Module, image: torch.Tensor, bundle: Bundle, target: str, tmp_path: Path
) -> None:
    reduced = compile(model, target=target, example_inputs=(image,), precision="bf16")
    again = load(reduced.save(tmp_path / "net.tw"))
    want, got = bundle(image), again(image)
    assert got.dtype == torch.float32
    assert torch.equal(got, reduced(image))
    error = float((got - want).abs().max() / want.abs().max())
    assert 0 < error < 0.02  # zero would mean that it is the float32 model
    assert "2 operators in bfloat16 (1 matmul, 1 conv2d)" in remark(reduced)
    if target == "x86/generic-avx2":
        assert "does not get faster" in remark(reduced)


def test_a_model_with_nothing_to_reduce_says_so() -> None:
    x = torch.linspace(-3, 3, 64).reshape(4, 16)
    net = nn.Sequential(nn.LayerNorm(16), nn.ReLU()).eval()
    reduced = compile(net, target="x86", example_inputs=(x,), precision="bfloat16")
    assert "nothing computes in bfloat16" in remark(reduced)
    torch.testing.assert_close(reduced(x), net(x).detach(), rtol=1e-5, atol=1e-5)
