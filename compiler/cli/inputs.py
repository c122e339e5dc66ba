"""Inputs named on the command line: files of arrays, or shapes filled with random numbers.

The forms of ``--input``::

    x.npy                    an array
    x.npz                    arrays by the inputs' names
    1x3x224x224              float32, seeded random from a normal distribution
    1x128/int64              integers, 0 or 1
    1x128/int64:30522        integers from 0 to 30521
    tokens=1x128/int64       any of them, for the input of this name
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import FileError, InputError
from compiler.package.atomic import check_destination, file_error, write_file
from compiler.stages import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Seed of the random numbers that stand for inputs given by their shape.
SEED = 0
_SHAPE = re.compile(r"(?P<shape>\d+(?:x\d+)*|scalar)(?:/(?P<dtype>[a-z]+\d*))?(?::(?P<high>\d+))?")
_NAME = re.compile(r"(?P<name>[A-Za-z_][\w.]*)=(?P<rest>.+)")
_RANDOM_DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "bool",
)
_LARGEST = 1 << 34


@dataclass(frozen=True, slots=True)
class GivenInputs:
    """Inputs from the command line.

    Attributes:
        positional: Those without a name, in order.
        named: Those with one.
        random: Whether any of them is random.
    """

    positional: tuple[Array, ...]
    named: Mapping[str, Array]
    random: bool

    def __bool__(self) -> bool:
        return bool(self.positional or self.named)

    def describe(self) -> str:
        """A remark for the user, empty if there is nothing to say."""
        if not self.random:
            return ""
        return f"inputs given by shape are random (seed {SEED}), not real data"


def read_inputs(texts: Sequence[str], specs: Sequence[TensorSpec] = ()) -> GivenInputs:
    """Read what was given with ``--input``.

    Args:
        texts: The options' values.
        specs: What the model takes, if it is known: the dtypes of shapes given without one.

    Raises:
        InputError: A text has no meaning, a file holds something else than arrays.
        FileError: A file cannot be read.
    """
    positional: list[Array] = []
    named: dict[str, Array] = {}
    random = False
    for text in texts:
        match = _NAME.fullmatch(text)
        name, rest = (match["name"], match["rest"]) if match else (None, text)
        shape = _SHAPE.fullmatch(rest)
        if rest.endswith((".npy", ".npz")):
            found = _read_arrays(Path(rest), name)
        elif shape is not None:
            dtype = shape["dtype"] or _dtype_of(name, len(positional), specs)
            found = {name: _random(shape, dtype, rest, len(positional) + len(named))}
            random = True
        else:
            raise InputError(
                f"cannot read {text!r}",
                where="--input",
                hint="give a .npy or .npz file, or a shape such as 1x3x224x224 or 1x128/int64",
            )
        for key, array in found.items():
            if key is None:
                positional.append(array)
            elif key in named:
                raise InputError(
                    f"input {key!r} is given twice", where="--input", hint="give each input once"
                )
            else:
                named[key] = array
    return GivenInputs(tuple(positional), named, random)


def _dtype_of(name: str | None, position: int, specs: Sequence[TensorSpec]) -> str:
    by_name = {spec.name: spec.dtype for spec in specs}
    if name is not None:
        return by_name.get(name, "float32")
    return specs[position].dtype if position < len(specs) else "float32"


def _random(match: re.Match[str], dtype: str, text: str, index: int) -> Array:
    import numpy as np

    if dtype not in _RANDOM_DTYPES:
        raise InputError(
            f"{text!r} has the dtype {dtype!r}, of which no random numbers can be made",
            where="--input",
            hint=f"give a file, or one of {', '.join(_RANDOM_DTYPES)}",
        )
    shape = () if match["shape"] == "scalar" else tuple(map(int, match["shape"].split("x")))
    if math.prod(shape) * np.dtype(dtype).itemsize > _LARGEST:
        raise InputError(
            f"{text!r} is larger than 16 GiB", where="--input", hint="give a smaller shape"
        )
    generator = np.random.default_rng([SEED, index])
    if dtype.startswith("float"):
        if match["high"]:
            raise InputError(
                f"{text!r}: a bound makes sense for integers only",
                where="--input",
                hint="leave the bound out, or give an integer dtype",
            )
        return np.asarray(generator.standard_normal(shape), dtype)
    high = int(match["high"] or 2)
    largest = 2 if dtype == "bool" else int(np.iinfo(dtype).max) + 1
    if not 1 <= high <= largest:
        raise InputError(
            f"{text!r}: the bound must be from 1 to {largest}",
            where="--input",
            hint="give the number of different values",
        )
    return np.asarray(generator.integers(0, high, shape), dtype)


def _read_arrays(path: Path, name: str | None) -> dict[str | None, Array]:
    """The arrays of a file; never unpickles."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded:
            arrays: dict[str | None, Array] = {key: loaded[key] for key in loaded.files}
    except OSError as error:
        raise file_error(error, path, "read the arrays") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"it is no file of arrays: {error}",
            where=str(path),
            hint="write it with numpy.save or numpy.savez; arrays of objects are refused",
        ) from error
    if name is None:
        return arrays
    if len(arrays) != 1:
        raise InputError(
            f"it holds {len(arrays)} arrays, and one is asked for",
            where=str(path),
            hint="leave the name out to give them by their own",
        )
    return {name: next(iter(arrays.values()))}


def check_output(path: Path, count: int) -> None:
    """Whether `count` outputs can be written to `path`, before there are any.

    Raises:
        FileError: They cannot.
    """
    if path.suffix != ".npz" and not (path.suffix == ".npy" and count == 1):
        raise FileError(
            f"{count} output{'s' if count > 1 else ''} cannot be written to a file of this kind",
            where=str(path),
            hint="give a path that ends in .npz, or .npy for a single output",
        )
    check_destination(path)


def write_outputs(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write outputs as ``.npz`` by name, or a single one as ``.npy``, whole or not at all.

    Raises:
        FileError: The path has another ending, or cannot be written.
    """
    import numpy as np

    check_output(path, len(arrays))
    if path.suffix == ".npy":
        array = next(iter(arrays.values()))
        write_file(path, lambda file: np.save(file, array, allow_pickle=False))
    else:
        write_file(path, lambda file: _save_npz(file, arrays))


def _save_npz(file: Any, arrays: Mapping[str, Array]) -> None:
    """What numpy.savez does, which cannot take outputs called "file" or "allow_pickle"."""
    import numpy as np

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


__all__ = ["SEED", "GivenInputs", "read_inputs", "write_outputs"]
