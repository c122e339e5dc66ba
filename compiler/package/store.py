"""Named tensors as safetensors: no pickle, no code, and checked against their declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compiler.errors import BundleError
from compiler.runtime.tensors import aligned_empty
from compiler.stages import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

_DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}


def dump_tensors(tensors: Mapping[str, Array]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    import numpy as np
    import safetensors.numpy

    # ascontiguousarray would make a 0-d array 1-d, and the writer ignores strides.
    packed = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return bytes(safetensors.numpy.save(packed))


def load_tensors(data: bytes, where: str) -> dict[str, Array]:
    """Read a safetensors file into arrays that compiled code can read where they lie.

    Raises:
        BundleError: The bytes are no safetensors file.
    """
    import numpy as np
    import safetensors

    try:
        entries = safetensors.deserialize(data)
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise BundleError(
            f"it is no safetensors file: {error}", where=where, hint="compile the model again"
        ) from error
    arrays: dict[str, Array] = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise BundleError(
                f"tensor {name!r} has the unknown dtype {entry['dtype']}",
                where=where,
                hint="compile the model again",
            )
        kind = numpy_dtype(_DTYPES[entry["dtype"]])
        array = aligned_empty(tuple(entry["shape"]), kind)
        array[...] = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
        arrays[name] = array
    return arrays


def numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of this name; bfloat16 is the one of ml_dtypes."""
    import numpy as np

    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def match_tensors(
    arrays: Mapping[str, Array], specs: Sequence[TensorSpec], where: str
) -> dict[str, Array]:
    """The arrays in the order of their specs.

    Raises:
        BundleError: A tensor is missing, undeclared, or of another shape or dtype.
    """
    hint = "compile the model again: these members do not belong together"
    declared = {spec.name for spec in specs}
    for name in arrays:
        if name not in declared:
            raise BundleError(f"tensor {name!r} is not in the manifest", where=where, hint=hint)
    ordered: dict[str, Array] = {}
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise BundleError(f"tensor {spec.name!r} is missing", where=where, hint=hint)
        if not fits(spec, array):
            have = TensorSpec(spec.name, array.shape, array.dtype.name)
            raise BundleError(
                f"it holds {have}, but the manifest says {spec}", where=where, hint=hint
            )
        ordered[spec.name] = array
    return ordered


def fits(spec: TensorSpec, array: Array) -> bool:
    """Whether an array has the dtype and shape of a spec, any size for a symbolic one."""
    return (
        array.dtype.name == spec.dtype
        and len(array.shape) == len(spec.shape)
        and all(isinstance(s, str) or s == d for s, d in zip(spec.shape, array.shape, strict=True))
    )


__all__ = ["dump_tensors", "fits", "load_tensors", "match_tensors", "numpy_dtype"]
