"""Folders of photographs and of arrays as calibration."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

from compiler import Images
from compiler.compress.samples import open_calibration, read_samples
from compiler.errors import CalibrationError, InputError
from compiler.stages import TensorSpec

PIL = pytest.importorskip("PIL.Image")


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", shape, dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (size, mode) in enumerate([((20, 10), "RGB"), ((8, 8), "L"), ((16, 24), "RGBA")]):
        PIL.new(mode, size, 40 * (i + 1) if mode == "L" else (40 * (i + 1),) * len(mode)).save(
            tmp_path / f"{i}.png"
        )
    PIL.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "3.JPG", "JPEG")
    (tmp_path / "labels.txt").write_text("not an image")
    return tmp_path


def test_images_become_inputs(folder: Path) -> None:
    found = list(read_samples(open_calibration(folder), [spec(1, 3, 6, 6)], 10))
    assert [a.shape for (a,) in found] == [(1, 3, 6, 6)] * 4
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0][0][0, :, 2, 3], (40 / 255 - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(found[1][0][0, :, 0, 0], (80 / 255 - mean) / std, rtol=1e-5)


def test_grey_last_and_bytes(folder: Path) -> None:
    grey = next(iter(read_samples(Images(folder, mean=0.0, std=1.0), [spec(1, 1, 4, 6)], 1)))[0]
    np.testing.assert_allclose(grey, 40 / 255, rtol=1e-5)
    assert grey.shape == (1, 1, 4, 6)
    last = next(iter(read_samples(Images(folder), [spec(1, 4, 6, 3, dtype="uint8")], 1)))[0]
    assert last.dtype == np.uint8
    assert (last == 40).all()
    assert last.shape == (1, 4, 6, 3)


def test_crop_and_stretch(tmp_path: Path) -> None:
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, :16] = 255  # beyond the central square
    PIL.fromarray(pixels).save(tmp_path / "a.png")
    values = {
        how: next(Images(tmp_path, 0.0, 1.0, how).samples([spec(1, 1, 8, 8)]))
        for how in ("crop", "stretch")
    }
    assert values["crop"].max() == 0.0
    assert values["stretch"][..., 0].min() > 0.9


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 4, 8, 8), "float32"), ((1, 3, 8), "float32"), ((1, 3, 8, 8), "int64")]
)
def test_models_that_take_no_images(folder: Path, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(CalibrationError, match="no image"):
        list(read_samples(Images(folder), [spec(*shape, dtype=dtype)], 1))


@pytest.mark.parametrize(
    "options", [{"mean": (0.1, 0.2)}, {"std": 0.0}, {"std": float("nan")}, {"resize": "pad"}]
)
def test_options_without_meaning(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Images("images", **options)  # type: ignore[arg-type]


def test_damaged_images(folder: Path) -> None:
    (folder / "4.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match="cannot be read as an image"):
        list(read_samples(Images(folder), [spec(1, 3, 4, 4)], 10))


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no images"):
        list(read_samples(Images(tmp_path), [spec(1, 3, 4, 4)], 10))
    with pytest.raises(CalibrationError, match="does not exist"):
        list(read_samples(Images(tmp_path / "no"), [spec(1, 3, 4, 4)], 10))
    with pytest.raises(CalibrationError, match="no images"):
        open_calibration(tmp_path)


def test_arrays_beside_images(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(CalibrationError, match="folders of their own"):
        open_calibration(folder)


def test_options_for_images_without_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 4), np.float32))
    assert len(list(open_calibration(tmp_path))) == 1
    with pytest.raises(CalibrationError, match="no folder of images"):
        open_calibration(tmp_path, resize="crop")


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object) -> object:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CalibrationError, match="Pillow"):
        next(Images(folder).samples([spec(1, 3, 4, 4)]))
