"""Random inputs for a kernel, and the comparison of what it made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Largest difference from the reference, as a share of its largest value. Winograd's transforms
#: cost fp32 up to two digits; bfloat16 has a relative step of 2**-8. Integers must be equal.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-2}

_WIDE_INTEGER = 1 << 24


def numpy_dtype(name: str) -> np.dtype[Any]:
    """A dtype by TVM's name, bfloat16 among them."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def random_inputs(arguments: Sequence[Any], seed: int, products: int) -> list[npt.NDArray[Any]]:
    """Inputs for a kernel: the same ones for the same arguments and seed.

    Floating-point activations are normally distributed, and weights so small that sums over
    the whole of a filter keep that spread: a clipping epilogue then neither hides every error
    nor none. Weights of fewer bits are any of their codes. Other inputs (biases, residuals,
    scales) lie in [0.25, 1.25], so that nothing is divided by zero. Integers of 8 and 16 bits
    cover their whole range, wider ones 2**24.

    Args:
        arguments: `ArgumentSpec`s of the inputs: name, shape, dtype and role.
        seed: Any integer.
        products: How many products each sum of the kernel has, see `terms`.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    return [_random(generator, argument, products) for argument in arguments]


def _random(generator: np.random.Generator, argument: Any, products: int) -> npt.NDArray[Any]:
    import numpy as np

    shape, dtype = tuple(argument.shape), numpy_dtype(argument.dtype)
    if argument.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if argument.codes:
        return generator.choice(np.asarray(argument.codes, dtype), shape)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = max(info.min, -_WIDE_INTEGER), min(info.max, _WIDE_INTEGER)
        return generator.integers(low, high, shape, dtype, endpoint=True)
    values = generator.standard_normal(shape, np.float32)
    if argument.role == "weight":
        values /= math.sqrt(products)
    elif argument.role == "extra":
        values = generator.random(shape, np.float32) + np.float32(0.25)
    return values.astype(dtype)


def terms(workload: Any) -> int:
    """How many products each sum of a workload has."""
    if workload.operator.endswith("conv2d"):
        return math.prod(workload.weight[1:])
    return int(workload.data[-1])


def tolerance(dtypes: Sequence[str]) -> float:
    """What a floating-point output may be off that was computed from these dtypes."""
    return max((TOLERANCES[name] for name in dtypes if name in TOLERANCES), default=0.0)


def compare(
    outputs: Sequence[npt.NDArray[Any]], expected: Sequence[npt.NDArray[Any]], allowed: float
) -> tuple[float, str]:
    """How far outputs are from what is expected.

    Args:
        outputs: Of the candidate.
        expected: Of the reference.
        allowed: `tolerance` of floating-point outputs; integers must be equal.

    Returns:
        The largest difference as a share of the largest expected value, and what is wrong;
        empty if nothing is.
    """
    worst = 0.0
    for i, (got, want) in enumerate(zip(outputs, expected, strict=True)):
        name = f"output {i}" if len(expected) > 1 else "the output"
        if want.dtype.kind in "iub":
            error, wrong = _compare_integers(got, want)
        else:
            error, wrong = _compare_floats(_comparable(got), _comparable(want), allowed)
        if wrong:
            return error, f"{name} {wrong}"
        worst = max(worst, error)
    return worst, ""


def _compare_integers(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> tuple[float, str]:
    import numpy as np

    wrong = int(np.count_nonzero(got != want))
    if not wrong:
        return 0.0, ""
    most = int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max())
    return math.inf, f"has {wrong} of {want.size} integers wrong, by up to {most}"


def _compare_floats(
    got: npt.NDArray[Any], want: npt.NDArray[Any], allowed: float
) -> tuple[float, str]:
    import numpy as np

    finite = np.isfinite(want)
    if not np.array_equal(np.isfinite(got), finite) or not np.array_equal(
        got[~finite], want[~finite], equal_nan=True
    ):
        wrong = int(np.count_nonzero(np.isfinite(got) != finite))
        return math.inf, f"has {wrong} of {want.size} values that are infinite or no numbers"
    if not finite.all():
        got, want = got[finite], want[finite]
    if want.size == 0:
        return 0.0, ""
    largest = float(np.abs(got - want).max())
    scale = float(np.abs(want).max())
    error = largest / scale if scale else largest
    if error <= allowed:
        return error, ""
    return error, (
        f"is off by {error:.3g} of its largest value ({largest:.3g} of {scale:.3g}); "
        f"{allowed:.3g} is allowed"
    )


def _comparable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


__all__ = ["TOLERANCES", "compare", "numpy_dtype", "random_inputs", "terms", "tolerance"]
