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


def random_inputs(arguments: Sequence[Any], seed: int) -> list[npt.NDArray[Any]]:
    """Inputs for a kernel: the same ones for the same arguments and seed.

    Floating-point activations are normally distributed, and weights so small that sums over
    the whole of a filter keep that spread: a clipping epilogue then neither hides every error
    nor none. Other inputs (biases, residuals, scales) lie in [0.25, 1.25], so that nothing is
    divided by zero. Integers of 8 and 16 bits cover their whole range, wider ones 2**24.

    Args:
        arguments: `ArgumentSpec`s of the inputs: name, shape, dtype and role.
        seed: Any integer.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    return [_random(generator, argument) for argument in arguments]


def _random(generator: np.random.Generator, argument: Any) -> npt.NDArray[Any]:
    import numpy as np

    shape, dtype = tuple(argument.shape), numpy_dtype(argument.dtype)
    if argument.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = max(info.min, -_WIDE_INTEGER), min(info.max, _WIDE_INTEGER)
        return generator.integers(low, high, shape, dtype, endpoint=True)
    values = generator.standard_normal(shape, np.float32)
    if argument.role == "weight":
        values /= math.sqrt(_terms(shape))
    elif argument.role == "extra":
        values = generator.random(shape, np.float32) + np.float32(0.25)
    return values.astype(dtype)


def _terms(shape: tuple[int, ...]) -> int:
    """How many products a sum over a weight has: OIHW of a convolution, [k, n] of a product."""
    return max(1, math.prod(shape[1:]) if len(shape) == 4 else shape[-2] if len(shape) > 1 else 1)


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
    import numpy as np

    worst = 0.0
    for i, (got, want) in enumerate(zip(outputs, expected, strict=True)):
        name = f"output {i}" if len(expected) > 1 else "the output"
        if want.dtype.kind in "iub":
            wrong = int(np.count_nonzero(got != want))
            if wrong:
                most = int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max())
                return math.inf, (
                    f"{wrong} of {want.size} integers of {name} differ, by up to {most}"
                )
            continue
        got, want = _comparable(got), _comparable(want)
        finite = np.isfinite(want)
        same_kind = np.isfinite(got) == finite
        if not same_kind.all() or not _equal(got[~finite], want[~finite]):
            wrong = int(np.count_nonzero(~same_kind)) or int(np.count_nonzero(~finite))
            return math.inf, f"{wrong} of {want.size} values of {name} are infinite or no numbers"
        if not finite.all():
            got, want = got[finite], want[finite]
        if want.size == 0:
            continue
        largest = float(np.abs(got - want).max())
        scale = float(np.abs(want).max())
        error = largest / scale if scale else largest
        worst = max(worst, error)
        if error > allowed:
            return error, (
                f"{name} is off by {error:.3g} of its largest value "
                f"({largest:.3g} of {scale:.3g}); {allowed:.3g} is allowed"
            )
    return worst, ""


def _comparable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _equal(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> bool:
    import numpy as np

    return bool(np.array_equal(got, want, equal_nan=True))


__all__ = ["TOLERANCES", "compare", "numpy_dtype", "random_inputs", "tolerance"]
