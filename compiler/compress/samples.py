"""Calibration samples: what users give, as checked arrays in the shapes of the model's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from compiler.compress.pictures import SUFFIXES, Images
from compiler.errors import CalibrationError
from compiler.stages import TensorSpec

Array = npt.NDArray[Any]
_WHERE = "calibration"


def read_samples(
    calibration: Iterable[Any], inputs: Sequence[TensorSpec], limit: int
) -> Iterator[tuple[Array, ...]]:
    """Samples in the model's shapes, one after another.

    A sample is an array or tensor (of a model with one input), a sequence of them, or a
    mapping by the inputs' names. One whose first axis is a multiple of the model's batch is
    taken apart.

    Args:
        calibration: What the user gave.
        inputs: What the model takes.
        limit: Most samples to give.

    Raises:
        CalibrationError: A sample does not fit, or holds NaN or infinities.
    """
    check_static(inputs)
    if isinstance(calibration, Images):
        calibration = calibration.samples(inputs)
    if isinstance(calibration, (str, bytes, Mapping)) or not isinstance(calibration, Iterable):
        raise CalibrationError(
            f"calibration is a {type(calibration).__name__}, not a sequence of samples",
            where=_WHERE,
            hint="give a list, a DataLoader or a generator of inputs",
        )
    given = 0
    for number, sample in enumerate(calibration):
        for part in _split(_arrays(sample, inputs, number), inputs, number):
            yield part
            given += 1
            if given >= limit:
                return


def check_static(inputs: Sequence[TensorSpec]) -> None:
    """Refuse a model with sizes that vary.

    Raises:
        CalibrationError: Names the input.
    """
    for spec in inputs:
        if any(isinstance(size, str) for size in spec.shape):
            raise CalibrationError(
                f"input {spec} has sizes that vary, which static quantization does not support",
                where="quantize",
                hint="compile for fixed sizes: leave out dynamic_shapes and dynamic_batch",
            )


def _arrays(sample: Any, inputs: Sequence[TensorSpec], number: int) -> list[Array]:
    where = f"{_WHERE}: sample {number}"
    names = [spec.name for spec in inputs]
    if isinstance(sample, Mapping):
        if set(sample) != set(names):
            raise CalibrationError(
                f"it has {', '.join(map(str, sample)) or 'nothing'}, and the model takes "
                f"{', '.join(names)}",
                where=where,
                hint="give one array for each input, by its name",
            )
        values = [sample[name] for name in names]
    elif isinstance(sample, (list, tuple)):
        values = list(sample)
    else:
        values = [sample]
    if len(values) != len(inputs):
        raise CalibrationError(
            f"it has {len(values)} values, and the model takes {len(inputs)}: {', '.join(names)}",
            where=where,
            hint="leave labels out: calibration=(images for images, labels in loader)",
        )
    return [_array(v, spec, where) for v, spec in zip(values, inputs, strict=True)]


def _array(value: Any, spec: TensorSpec, where: str) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f"input {spec.name!r} is a {type(value).__name__}, not an array: {error}",
            where=where,
            hint="give NumPy arrays or PyTorch tensors",
        ) from error
    if array.dtype.name != spec.dtype:
        raise CalibrationError(
            f"input {spec.name!r} is {array.dtype}, and the model takes {spec.dtype}",
            where=where,
            hint="preprocess calibration samples as the model's inputs",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(
            f"input {spec.name!r} holds NaN or infinities",
            where=where,
            hint="leave damaged samples out",
        )
    return array


def _split(
    arrays: list[Array], inputs: Sequence[TensorSpec], number: int
) -> Iterator[tuple[Array, ...]]:
    wanted = [tuple(int(s) for s in spec.shape) for spec in inputs]
    shapes = [array.shape for array in arrays]
    if shapes == wanted:
        yield tuple(arrays)
        return
    counts = {
        shape[0] // w[0] if w and shape[1:] == w[1:] and w[0] and shape[0] % w[0] == 0 else 0
        for shape, w in zip(shapes, wanted, strict=True)
    }
    if len(counts) != 1 or 0 in counts:
        spec, shape = next(
            (s, found) for s, found, w in zip(inputs, shapes, wanted, strict=True) if found != w
        )
        raise CalibrationError(
            f"input {spec.name!r} is {list(shape)}, and the model was given {list(spec.shape)} "
            "as its example",
            where=f"{_WHERE}: sample {number}",
            hint="give samples of the example's shape, or batches of a multiple of its batch",
        )
    for i in range(counts.pop()):
        yield tuple(a[i * w[0] : (i + 1) * w[0]] for a, w in zip(arrays, wanted, strict=True))


def open_calibration(path: Path, **images: Any) -> Any:
    """Samples out of files, for the command line.

    Args:
        path: An ``.npy`` or ``.npz`` file whose arrays hold all samples along their first
            axis (of an ``.npz``, named as the model's inputs), a folder of such files, or a
            folder of photographs.
        images: How photographs become inputs; see `Images`.

    Raises:
        CalibrationError: There is nothing there that can be read.
        InputError: The options for images mean nothing, or there are no images.
    """
    if not path.exists():
        raise CalibrationError("it does not exist", where=str(path), hint=_FILES)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    arrays = [p for p in files if p.suffix in (".npy", ".npz")]
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    if path.is_dir() and pictures and not arrays:
        return Images(path, **images)
    if arrays and pictures:
        raise CalibrationError(
            f"it holds {len(arrays)} files of arrays and {len(pictures)} images",
            where=str(path),
            hint="put them into folders of their own",
        )
    if images:
        raise CalibrationError(
            "options for images were given, but it is no folder of images",
            where=str(path),
            hint="leave --image-mean, --image-std and --image-resize out",
        )
    if not arrays:
        raise CalibrationError(
            "it holds no .npy or .npz files and no images", where=str(path), hint=_FILES
        )
    return (_load(file) for file in arrays)


_FILES = (
    "give a folder of photographs, or an .npy or .npz file or a folder of them, with inputs "
    "preprocessed as the model takes them: numpy.savez('calibration.npz', x=images)"
)


def _load(file: Path) -> Any:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CalibrationError(
            f"it cannot be read: {error}", where=str(file), hint=_FILES
        ) from error


__all__ = ["check_static", "open_calibration", "read_samples"]
