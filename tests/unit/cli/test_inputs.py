"""Inputs as the command line names them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from compiler.cli.inputs import read_inputs, write_outputs
from compiler.errors import FileError, InputError
from compiler.stages import TensorSpec

SPECS = (TensorSpec("image", (1, 3), "float32"), TensorSpec("ids", (1, 4), "int64"))


def test_shapes_are_random_and_the_same_every_time() -> None:
    first, second = (read_inputs(["2x3", "2x3"]).positional for _ in range(2))
    assert first[0].shape == (2, 3)
    assert first[0].dtype == np.float32
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], first[1])
    assert "seed 0" in read_inputs(["2x3"]).describe()


def test_integers() -> None:
    ids = read_inputs(["4x500/int64:7"]).positional[0]
    assert ids.dtype == np.int64
    assert set(np.unique(ids)) == set(range(7))
    assert set(np.unique(read_inputs(["500/int32"]).positional[0])) == {0, 1}
    assert read_inputs(["50/bool"]).positional[0].dtype == np.bool_
    assert read_inputs(["scalar/float64"]).positional[0].shape == ()


def test_the_models_own_dtypes_are_taken() -> None:
    given = read_inputs(["1x3", "1x4"], SPECS)
    assert [a.dtype.name for a in given.positional] == ["float32", "int64"]
    assert read_inputs(["ids=1x4"], SPECS).named["ids"].dtype == np.int64


def test_files(tmp_path: Path) -> None:
    x, y = np.arange(6.0).reshape(2, 3), np.arange(4)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", image=x, ids=y)
    np.savez(tmp_path / "one.npz", whatever=x)
    given = read_inputs([str(tmp_path / "x.npy")])
    np.testing.assert_array_equal(given.positional[0], x)
    assert given.describe() == ""
    assert set(read_inputs([str(tmp_path / "both.npz")]).named) == {"image", "ids"}
    assert set(read_inputs([f"image={tmp_path / 'one.npz'}"]).named) == {"image"}
    assert set(read_inputs([f"image={tmp_path / 'x.npy'}"]).named) == {"image"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "give a .npy or .npz file, or a shape"),
        ("1x3/complex64", "no random numbers"),
        ("1x3/float32:7", "integers only"),
        ("1x3/int8:300", "from 1 to 128"),
        ("1x3/int64:0", "from 1 to"),
        ("999999x999999", "larger than 16 GiB"),
        ("1x-3", "cannot read"),
    ],
)
def test_nonsense(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_inputs([text])
    assert says in str(caught.value)


def test_a_name_given_twice() -> None:
    with pytest.raises(InputError, match="given twice"):
        read_inputs(["x=1x3", "x=1x4"])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_inputs([str(tmp_path / "none.npy")])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not much of it")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({"a": 1}))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("text.npy", "cut.npz", "pickle.npy", "objects.npy"):
        with pytest.raises(InputError, match="no file of arrays"):
            read_inputs([str(tmp_path / name)])
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(InputError, match="holds 2 arrays"):
        read_inputs([f"x={tmp_path / 'two.npz'}"])


def test_outputs(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "y": np.eye(2, dtype=np.float32)}
    write_outputs(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz") as back:
        assert set(back.files) == {"file", "y"}
        np.testing.assert_array_equal(back["file"], arrays["file"])
    write_outputs(tmp_path / "y.npy", {"y": arrays["y"]})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), arrays["y"])
    for name in ("y.txt", "both.npy", "y"):
        with pytest.raises(FileError, match="file of this kind"):
            write_outputs(tmp_path / name, arrays)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["y.npy", "y.npz"]
