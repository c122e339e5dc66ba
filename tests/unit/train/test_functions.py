"""Gradients of rounding, against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compiler.train.functions import (
    lsq_factor,
    quantize_steps,
    round_through,
    scale_gradient,
    signs,
)


def lsq(
    x: np.ndarray, scale: np.ndarray, low: int, high: int, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, gradient of x and gradient of each element's scale: LSQ's equations 1 to 3."""
    v = x / scale
    value = np.clip(np.rint(v), low, high) * scale
    inside = (v > low) & (v < high)
    of_scale = np.where(inside, np.rint(v) - v, np.where(v <= low, low, high))
    return value, gradient * inside, gradient * of_scale


@pytest.mark.parametrize("low", [0, -7, -93])
@pytest.mark.parametrize("last", [False, True], ids=["plain", "channels last"])
def test_one_learned_scale(low: int, last: bool) -> None:
    rng = np.random.default_rng(1)
    data = (rng.standard_normal((3, 4, 5, 6)) * 4).astype(np.float32)
    high, number = 7, 0.37
    x = torch.from_numpy(data)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    scale = torch.tensor(number, requires_grad=True)
    gradient = rng.standard_normal(data.shape).astype(np.float32)
    result = quantize_steps(x, scale, low, high, features=120)
    result.backward(torch.from_numpy(gradient))
    value, of_x, of_scale = lsq(data.astype(np.float64), np.float32(number), low, high, gradient)
    np.testing.assert_allclose(result.detach(), value, atol=1e-6)
    np.testing.assert_allclose(x.grad, of_x, atol=1e-6)
    expected = of_scale.sum() / math.sqrt(120 * high)
    assert float(scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_learned_scale_for_each_channel() -> None:
    rng = np.random.default_rng(2)
    data = rng.standard_normal((4, 9)).astype(np.float32)
    scales = np.asarray([[0.05], [0.2], [0.4], [1.1]], np.float32)
    x, scale = torch.from_numpy(data), torch.from_numpy(scales)
    x.requires_grad_(True)
    scale.requires_grad_(True)
    gradient = rng.standard_normal(data.shape).astype(np.float32)
    quantize_steps(x, scale, -3, 3, features=9).backward(torch.from_numpy(gradient))
    _, of_x, of_scale = lsq(data, scales, -3, 3, gradient)
    np.testing.assert_allclose(x.grad, of_x, atol=1e-6)
    wanted = of_scale.sum(axis=1, keepdims=True) / math.sqrt(9 * 3)
    np.testing.assert_allclose(scale.grad, wanted, atol=1e-5)


def test_a_fixed_scale_has_no_gradient() -> None:
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    quantize_steps(x, torch.tensor(0.5), -2, 2, features=9).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_factor_is_that_of_lsq() -> None:
    assert lsq_factor(50, 127) == 1 / math.sqrt(50 * 127)
    assert lsq_factor(0, 0) == 1.0  # nothing to share, but no division by zero


def test_signs_and_their_clipped_gradient() -> None:
    x = torch.tensor([-3.0, -1.0, -0.0, 0.0, 0.5, 2.0, 3.0], requires_grad=True)
    result = signs(x, 2.5)
    assert result.tolist() == [-1, -1, 1, 1, 1, 1, 1]
    result.sum().backward()
    # The slope of clamp(x / width, -1, 1).
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, [0, 0.4, 0.4, 0.4, 0.4, 0.4, 0])


def test_signs_of_weights_let_the_gradient_pass() -> None:
    x = torch.tensor([-300.0, 0.1], requires_grad=True)
    (signs(x) * torch.tensor([2.0, 5.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 5.0]


def test_rounding_and_scaled_gradients() -> None:
    x = torch.tensor([0.5, 1.5, -0.7], requires_grad=True)
    rounded = round_through(scale_gradient(x, 0.25))
    assert rounded.tolist() == [0.0, 2.0, -1.0]
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 0.25, 0.25]
