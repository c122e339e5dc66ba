"""What users give as `quantize` and `calibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.compress.recipe import Quantize
from compiler.compress.samples import open_calibration, read_samples
from compiler.errors import CalibrationError, InputError
from compiler.stages import TensorSpec

X = (TensorSpec("x", (2, 3), "float32"),)
XY = (*X, TensorSpec("y", (2,), "int64"))


def test_words_options_and_paths() -> None:
    assert Quantize.parse(None) is None
    assert Quantize.parse("int8") == Quantize()
    assert Quantize.parse("plans/net.json") == Path("plans/net.json")
    assert Quantize.parse(Quantize(calibrate="kl")) == Quantize(calibrate="kl")
    assert Quantize(keep="head").keep == ("head",)


@pytest.mark.parametrize("option", ["int7", "", 8, True, object()])
def test_nonsense_is_refused(option: Any) -> None:
    with pytest.raises(InputError, match="cannot quantize by"):
        Quantize.parse(option)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int4"},
        {"activations": "int8/channel"},
        {"calibrate": "guess"},
        {"percentile": 10},
        {"percentile": float("nan")},
        {"keep": [3]},
        {"power_of_two": "yes"},
        {"samples": 1},
        {"samples": True},
    ],
)
def test_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Quantize(**options)


def arrays(calibration: Any, inputs: Any = X, limit: int = 100) -> list[Any]:
    return list(read_samples(calibration, inputs, limit))


def test_samples_of_all_kinds() -> None:
    x, y = np.ones((2, 3), np.float32), np.zeros(2, np.int64)
    assert len(arrays([x, torch.from_numpy(x), [x], (x,), {"x": x}])) == 5
    (pair,) = arrays([{"y": y, "x": x}], XY)
    assert pair[0] is x
    assert pair[1] is y


def test_batches_are_taken_apart_and_limited() -> None:
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    parts = arrays([x, x])
    assert len(parts) == 8
    assert (parts[1][0] == x[2:4]).all()
    assert len(arrays((x for _ in range(10**9)), limit=5)) == 5


def bad(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        ("images/", "is a str"),
        (7, "is a int"),
        ([bad(float("nan"))], "NaN or infinities"),
        ([bad(1), bad(float("inf"))], "sample 1"),
        ([np.ones((2, 4), np.float32)], r"is \[2, 4\]"),
        ([np.ones((3, 3), np.float32)], r"is \[3, 3\]"),
        ([np.ones((0, 3), np.float32)], r"is \[0, 3\]"),
        ([np.ones((2, 3))], "float64"),
        ([(bad(1), np.zeros(2))], "2 values"),
        ([{"z": bad(1)}], "it has z"),
        ([object()], "not an array|object"),
    ],
)
def test_samples_that_do_not_fit(calibration: Any, says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        arrays(calibration)


def test_sizes_that_vary() -> None:
    with pytest.raises(CalibrationError, match="vary"):
        arrays([], (TensorSpec("x", ("batch", 3), "float32"),))


def test_files(tmp_path: Path) -> None:
    x = np.ones((4, 3), np.float32)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x)
    assert len(arrays(open_calibration(tmp_path / "a.npy"))) == 2
    assert len(arrays(open_calibration(tmp_path / "b.npz"))) == 2
    assert len(arrays(open_calibration(tmp_path))) == 4


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="does not exist"):
        list(open_calibration(tmp_path / "none"))
    with pytest.raises(CalibrationError, match="holds no"):
        list(open_calibration(tmp_path))
    for name in ("bad.npy", "bad.npz"):
        (tmp_path / name).write_bytes(b"no array")
        with pytest.raises(CalibrationError, match="cannot be read"):
            list(open_calibration(tmp_path / name))
        (tmp_path / name).unlink()
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04cut")
    with pytest.raises(CalibrationError, match="cannot be read"):
        list(open_calibration(tmp_path / "cut.npz"))
