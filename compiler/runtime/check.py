"""Compare what the caller gives with what the model takes, before any machine code runs.

Works on numpy and torch arrays alike without importing torch: an array is whatever has a
`shape` and a `dtype`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from compiler.errors import InputError
from compiler.stages import TensorSpec


def is_torch(value: Any) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(value: Any) -> str:
    """The dtype's name as numpy spells it: ``float32``, also for ``torch.float32``.

    A byte order other than the machine's stays visible (``>f4``), since the compiled code
    would read it wrongly.
    """
    dtype = value.dtype
    if is_torch(value):
        return str(dtype).removeprefix("torch.")
    if getattr(dtype, "isnative", True):
        return str(getattr(dtype, "name", dtype))
    return str(dtype.str)


def describe(value: Any) -> str:
    """An array in a few words, such as ``float32[1, 3, 224, 224]``."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{dtype_name(value)}[{', '.join(str(int(d)) for d in value.shape)}]"
    return type(value).__name__


def bind(
    specs: Sequence[TensorSpec], args: Sequence[Any], kwargs: Mapping[str, Any], where: str
) -> tuple[Any, ...]:
    """Put positional and named inputs into the model's order.

    Raises:
        InputError: Too many, too few, an unknown name, or one input given twice.
    """
    names = [spec.name for spec in specs]
    takes = f"the model takes {_count(len(specs))}: {'; '.join(map(str, specs))}"
    if len(args) > len(names):
        raise InputError(f"{_count(len(args))} given, but {takes}", where=where, hint=_HINT)
    bound = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise InputError(f"no input is named {name!r}; {takes}", where=where, hint=_HINT)
        if name in bound:
            raise InputError(
                f"input {name!r} is given twice, by position and by name",
                where=where,
                hint="give each input once",
            )
        bound[name] = value
    missing = [name for name in names if name not in bound]
    if missing:
        listed = ", ".join(map(repr, missing))
        raise InputError(f"missing {listed}; {takes}", where=where, hint=_HINT)
    return tuple(bound[name] for name in names)


_HINT = "give the inputs in this order, or by name"


def _count(number: int) -> str:
    return f"{number} input" if number == 1 else f"{number} inputs"


def check_inputs(
    specs: Sequence[TensorSpec], values: Sequence[Any], *, where: str = "run"
) -> dict[str, int]:
    """Check number, kind, dtype and shape of each input.

    Args:
        specs: What the model takes.
        values: Arrays in the order of `specs`.
        where: Start of the error's place.

    Returns:
        The value of every symbolic dimension.

    Raises:
        InputError: An input does not fit; the message names it and both shapes.
    """
    if len(values) != len(specs):
        bind(specs, values, {}, where)
    sizes: dict[str, int] = {}
    seen_in: dict[str, str] = {}
    for spec, value in zip(specs, values, strict=True):
        at = f"{where}: input {spec.name!r}"
        _check_array(spec, value, at)
        shape = tuple(int(d) for d in value.shape)
        if len(shape) != len(spec.shape):
            raise InputError(
                f"got {describe(value)} with {len(shape)} dimensions, "
                f"but the model takes {spec} with {len(spec.shape)}",
                where=at,
                hint=_reshape_hint(spec, shape),
            )
        for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(want, int):
                if want != have:
                    raise InputError(
                        f"got {describe(value)}, but the model takes {spec}: "
                        f"dimension {axis} is {have} instead of {want}",
                        where=at,
                        hint="give this shape, or compile again with example inputs of your shape",
                    )
            elif have < 1:
                raise InputError(
                    f"got {describe(value)}: dimension {axis} ({want!r}) is {have}",
                    where=at,
                    hint=f"give at least one element along {want!r}",
                )
            elif sizes.setdefault(want, have) != have:
                raise InputError(
                    f"got {describe(value)}: dimension {axis} ({want!r}) is {have}, "
                    f"but it is {sizes[want]} in input {seen_in[want]!r}",
                    where=at,
                    hint=f"give all inputs the same size along {want!r}",
                )
            else:
                seen_in.setdefault(want, spec.name)
    return sizes


def _reshape_hint(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    if len(shape) + 1 == len(spec.shape):
        return "a batch dimension may be missing: x[None] adds one"
    return f"reshape it to [{', '.join(map(str, spec.shape))}]"


def _check_array(spec: TensorSpec, value: Any, at: str) -> None:
    """The kind of thing, its device, layout and dtype."""
    import numpy as np

    if is_torch(value):
        if value.device.type != "cpu":
            raise InputError(
                f"the tensor is on {value.device}, but the compiled code runs on the CPU",
                where=at,
                hint="move it with .cpu()",
            )
        if str(value.layout) != "torch.strided" or value.is_quantized:
            raise InputError(
                f"the tensor is {value.layout}{' and quantized' if value.is_quantized else ''}",
                where=at,
                hint="give a dense tensor: .to_dense() or .dequantize()",
            )
    elif not isinstance(value, np.ndarray | np.generic):
        raise InputError(
            f"got {type(value).__name__}, which is no array; the model takes {spec}",
            where=at,
            hint=f"give a numpy array or a torch tensor: np.asarray(..., dtype='{spec.dtype}')",
        )
    have = dtype_name(value)
    if have != spec.dtype:
        convert = f".to(torch.{spec.dtype})" if is_torch(value) else f".astype('{spec.dtype}')"
        raise InputError(
            f"got {describe(value)}, but the model takes {spec}: dtype {have} "
            f"instead of {spec.dtype}",
            where=at,
            hint=f"convert it with {convert}",
        )


__all__ = ["bind", "check_inputs", "describe", "dtype_name", "is_torch"]
