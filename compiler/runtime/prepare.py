"""The parameters that compiled code takes, some of them packed here by functions of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compiler.errors import BundleError
from compiler.runtime import tensors
from compiler.stages import Prepared

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_HINT = "copy the bundle again from where it came from, or compile the model again"


def load_parameters(
    code: Any,
    parameters: Mapping[str, npt.NDArray[np.generic]],
    prepared: Sequence[Prepared],
    name: str,
) -> tuple[Any, ...]:
    """TVM tensors in the order of `parameters`.

    Args:
        code: The loaded shared object.
        parameters: The tensors as they are kept.
        prepared: Which of them are compact.
        name: The model's name, for messages.

    Raises:
        BundleError: The code has no such function, or it refuses the tensors.
    """
    packed = {item.parameter: item for item in prepared}
    if unknown := sorted(packed.keys() - parameters.keys()):
        raise BundleError(
            f"a parameter is to be packed that is not there: {unknown[0]}", where=name, hint=_HINT
        )
    return tuple(
        _pack(code, array, packed[key], name) if key in packed else tensors.numpy_to_tvm(array)[0]
        for key, array in parameters.items()
    )


def _pack(code: Any, compact: npt.NDArray[np.generic], item: Prepared, name: str) -> Any:
    """A packed tensor on memory of its own."""
    try:
        function = code.get_function(item.function, query_imports=True)
    except (AttributeError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"the shared object has no function {item.function}, which packs {item.parameter}",
            where=name,
            hint=_HINT,
        ) from error
    # Pages of numpy's large arrays are large where the system has such.
    result = tensors.numpy_to_tvm(tensors.aligned_empty(item.shape, item.dtype))[0]
    try:
        function(tensors.numpy_to_tvm(compact)[0], result)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BundleError(
            f"{item.function} cannot make {item.dtype}{list(item.shape)} of {compact.dtype.name}"
            f"{list(compact.shape)}, {item.parameter}: {(lines or ['no reason'])[-1]}",
            where=name,
            hint=_HINT,
        ) from error
    return result


__all__ = ["load_parameters"]
