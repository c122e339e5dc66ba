"""Convolutions, pooling, interpolation, padding and movement of data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as f
from torch import nn

pytestmark = pytest.mark.compile


def test_interpolation(check: Any, rng: torch.Generator) -> None:
    points = torch.rand(1, 3, 7, 2, generator=rng) * 2.4 - 1.2

    def model(x: torch.Tensor) -> Any:
        return {
            "nearest_ratio": f.interpolate(x, size=(6, 7)),
            "nearest_double": f.interpolate(x, scale_factor=2),
            "nearest_down": f.interpolate(x, size=(3, 2)),
            "nearest_factor": f.interpolate(x, scale_factor=1.7),
            "exact": f.interpolate(x, size=(6, 7), mode="nearest-exact"),
            "bilinear": f.interpolate(x, size=(6, 7), mode="bilinear"),
            "bilinear_corners": f.interpolate(x, size=(9, 3), mode="bilinear", align_corners=True),
            "bilinear_factor": f.interpolate(x, scale_factor=1.3, mode="bilinear"),
            "bicubic": f.interpolate(x, size=(9, 8), mode="bicubic"),
            "bicubic_corners": f.interpolate(x, size=(3, 9), mode="bicubic", align_corners=True),
            "bicubic_factor": f.interpolate(x, scale_factor=1.7, mode="bicubic"),
            "sampled": f.grid_sample(x, points, align_corners=False),
            "sampled_nearest": f.grid_sample(x, points, "nearest", "border", align_corners=True),
            "smoothed": f.interpolate(x, size=(2, 3), mode="bilinear", antialias=True),
            "smoothed_cubic": f.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True),
            "nearest1d": f.interpolate(x[0], size=7),
            "linear1d": f.interpolate(x[0], size=9, mode="linear"),
        }

    check(model, torch.randn(1, 2, 4, 5, generator=rng), tolerance=5e-6)


def test_pooling(check: Any, rng: torch.Generator) -> None:
    def model(x: torch.Tensor) -> Any:
        return {
            "max": f.max_pool2d(x, 3, 2, 1),
            "max_ceil": f.max_pool2d(x, 2, 2, ceil_mode=True),
            "max_dilated": f.max_pool2d(x, 2, 1, dilation=2),
            "max_unbatched": f.max_pool2d(x[0], 2),
            "max1d": f.max_pool1d(x[0], 3, 2),
            "avg": f.avg_pool2d(x, 3, 2, 1),
            "avg_exclude": f.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            "avg1d": f.avg_pool1d(x[0], 2),
            "adaptive_avg": f.adaptive_avg_pool2d(x, 1),
            "adaptive_avg_uneven": f.adaptive_avg_pool2d(x, (3, 4)),
            "adaptive_max": f.adaptive_max_pool2d(x, 1),
            "adaptive_max_uneven": f.adaptive_max_pool2d(x, (3, 4)),
            "lp": f.lp_pool2d(x.abs(), 2, 2),
        }

    check(model, torch.randn(2, 3, 9, 9, generator=rng), tolerance=5e-6)


def test_movement(check: Any, rng: torch.Generator) -> None:
    def model(x: torch.Tensor) -> Any:
        return {
            "shuffle": f.pixel_shuffle(x, 2),
            "unshuffle": f.pixel_unshuffle(x, 2),
            "channels": f.channel_shuffle(x, 2),
            "reflect": f.pad(x, (1, 2, 3, 1), mode="reflect"),
            "replicate": f.pad(x, (1, 2, 3, 1), mode="replicate"),
            "circular": f.pad(x, (1, 2, 1, 1), mode="circular"),
            "reflect1d": f.pad(x[0], (2, 1), mode="reflect"),
            "constant": f.pad(x, (1, 0, 0, 2), value=1.5),
            "crop": f.pad(x, (-1, 2)),
            "unfold": f.unfold(x, 3, padding=1, stride=2),
            "windows": x.unfold(3, 3, 1),
            "tiles": x.unfold(2, 2, 2).unfold(3, 2, 2),
            "roll": torch.roll(x, (1, -2), (2, 3)),
            "flip": x.flip(-1),
            "repeat": x[:, :1].repeat(1, 2, 1, 1),
            "interleave": x[0, 0, 0].repeat_interleave(2),
            "chunk": x.chunk(2, 1),
            "split": x.split([1, 3], 1),
            "unbind": x[:, :2, 0, 0].unbind(1),
            "stack": torch.stack([x[..., 0], x[..., 1]], 1),
            "tril": x.tril(-1),
            "einsum": torch.einsum("bchw,bdhw->bcd", x, x),
            "strided": x[:, :, ::2, 1:-1],
            "diagonal": x[0, 0].diagonal(),
            "meshgrid": torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij"),
            "cat_mixed": torch.cat([x, (x > 0).long()], 1),
        }

    check(model, torch.randn(2, 4, 6, 6, generator=rng))


def test_indexing(check: Any, rng: torch.Generator) -> None:
    def model(x: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> Any:
        y = x.clone()
        y[:, 1] = 0
        z = x.clone()
        z[:, i[:2, None], j[None]] = x[0, 0, 0]
        return {
            "rows": x[i],
            "negative": x[i - 2],
            "pairs": x[i, j],
            "broadcast": x[i[:, None], j[None, :]],
            "gap": x[i, :, j],
            "middle": x[:, i, j],
            "last": x[..., j],
            "constant": x[:, [0, -1]],
            "select": x.index_select(1, i),
            "gather": x.gather(0, (x > 0).long()),
            "take_along": torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
            "assigned": y,
            "embedding": f.embedding(i, x[:, :, 0]),
            "one_hot": f.one_hot(i, 4),
            "scatter": x.scatter(1, (x[:, :1] > 0).long(), x * 2),
            "scatter_value": x.scatter(2, (x > 0).long(), 7.0),
            "scatter_add": x.scatter_add(0, (x > 0).long(), x),
            "scatter_max": x.scatter_reduce(0, (x > 0).long(), x, "amax"),
            "put": torch.index_put(x, (i, j), torch.ones(3)),
            "put_middle": z,
            "put_add": torch.index_put(x, (i - 2,), x, accumulate=True),
            "masked": x.where(x > 0, torch.zeros(())),
        }

    i, j = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    check(model, torch.randn(3, 3, 3, generator=rng), i, j)


def test_convolutions(check: Any) -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Conv2d(4, 6, 3, padding="same")
            self.grouped = nn.Conv2d(4, 8, 3, 2, 1, groups=2, bias=False)
            self.dilated = nn.Conv2d(4, 4, 3, dilation=2, groups=4)
            self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
            self.up = nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1)
            self.up_grouped = nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2)
            self.one = nn.Conv1d(4, 6, 5, 2, 2)
            self.up_one = nn.ConvTranspose1d(4, 2, 4, 2, 1)
            self.three = nn.Conv3d(2, 3, 3, padding=1)
            self.bilinear = nn.Bilinear(8, 8, 3)

        def forward(self, x: torch.Tensor) -> Any:
            line = x[:, :, 0]
            return (
                self.same(x),
                self.grouped(x),
                self.dilated(x),
                self.reflect(x),
                self.up(x),
                self.up_grouped(x),
                self.one(line),
                self.up_one(line),
                self.three(x.reshape(1, 2, 2, 8, 8)),
                self.bilinear(line, line.flip(1)),
            )

    torch.manual_seed(0)
    imported = check(Convolutions(), torch.randn(1, 4, 8, 8), tolerance=5e-6)
    assert "up_grouped.weight" in imported.parameters


def test_norms(check: Any) -> None:
    from tools.zoo.nets.weights import randomize

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.batch = nn.BatchNorm2d(4)
            self.batch_plain = nn.BatchNorm2d(4, affine=False)
            self.batch1d = nn.BatchNorm1d(4)
            self.group = nn.GroupNorm(2, 4)
            self.group_plain = nn.GroupNorm(4, 4, affine=False)
            self.layer = nn.LayerNorm([4, 6, 6])
            self.layer_plain = nn.LayerNorm(6, elementwise_affine=False)
            self.instance = nn.InstanceNorm2d(4, affine=True)
            self.instance_plain = nn.InstanceNorm2d(4)
            self.rms = nn.RMSNorm(6)
            self.local = nn.LocalResponseNorm(2)

        def forward(self, x: torch.Tensor) -> Any:
            return (
                self.batch(x),
                self.batch_plain(x),
                self.batch1d(x[:, :, 0]),
                self.group(x),
                self.group_plain(x),
                self.layer(x),
                self.layer_plain(x),
                self.instance(x),
                self.instance_plain(x),
                self.rms(x),
                self.local(x),
                f.normalize(x, dim=1),
            )

    imported = check(randomize(Norms()), torch.randn(2, 4, 6, 6), tolerance=5e-6)
    assert "batch.running_var" in imported.parameters
    assert "batch.num_batches_tracked" not in imported.parameters
    assert "nn.batch_norm" in imported.module.script()
