"""The options of `compile` that users give as plain values, as the typed objects used inside."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from compiler.coverage import flops, misses, tuned_share
from compiler.errors import InputError, NotTunedError
from targets.spec import has_float16

if TYPE_CHECKING:
    from compiler.stages import KernelInfo
    from compiler.tune.options import Tune
    from schedules.records import RecordStore
    from schedules.selection import Selector
    from targets import TargetSpec

#: Names of the precisions that a model can be compiled in, with their short forms.
PRECISIONS: Mapping[str, str] = MappingProxyType(
    {"float32": "float32", "f32": "float32", "fp32": "float32",
     "bfloat16": "bfloat16", "bf16": "bfloat16",
     "float16": "float16", "f16": "float16", "fp16": "float16"}
)  # fmt: skip
#: Largest error against PyTorch in float32 that is accepted by default, relative.
TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-2, "bfloat16": 5e-2, "float16": 2e-2}
)

#: A folder for the user's records, None for the usual one, False to look at no records at all.
RecordsOption: TypeAlias = "str | Path | Literal[False] | None"

#: Kernels without a record that an error names.
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Records:
    """Where tuning records are read from and written to.

    Attributes:
        stores: Where to look, in order; empty to look nowhere.
        writable: The user's own store, which a search adds to; None to look nowhere.
        given: The folder as the user gave it; None for the usual one.
    """

    stores: tuple[RecordStore, ...]
    writable: RecordStore | None
    given: Path | None

    @property
    def folder(self) -> Path | None:
        """The folder that a search writes to."""
        return None if self.writable is None else self.writable.folder

    def selector(self, threads: int) -> Selector:
        """Says which record serves a kernel."""
        from schedules.records import record_selector
        from schedules.selection import defaults_only

        if not self.stores:
            return defaults_only
        return record_selector(self.stores, threads=threads)


def read_precision(precision: str) -> str:
    """The full name of a precision.

    Raises:
        InputError: There is none of that name.
    """
    if isinstance(precision, str) and precision in PRECISIONS:
        return PRECISIONS[precision]
    raise InputError(
        f"unknown precision {precision!r}",
        where="precision",
        hint=f"give one of {', '.join(PRECISIONS)}",
    )


def check_precision(precision: str, target: TargetSpec) -> None:
    """Refuse float16 where the processor does not compute in it.

    Raises:
        InputError: It does not.
    """
    if precision == "float16" and not has_float16(target):
        raise InputError(
            f"{target.name} does not compute in float16",
            where="precision",
            hint="ARM processors with the feature fullfp16 do, such as arm/rpi5, "
            "arm/neoverse-n1 and arm/neoverse-v1; bfloat16 works on all targets",
        )


def read_required(required: float | None) -> float | None:
    """The share of FLOPs that must run on records, 0 to 1.

    Raises:
        InputError: It is no such share.
    """
    if required is None:
        return None
    is_number = isinstance(required, int | float) and not isinstance(required, bool)
    if not is_number or not 0 <= required <= 1:
        raise InputError(
            f"require_tuned is {required!r}, not a share between 0 and 1",
            where="require_tuned",
            hint="give 0.9 for 90 % of the FLOPs of kernels that can be tuned",
        )
    return float(required)


def open_records(records: RecordsOption, tune: Tune | None) -> Records:
    """The record stores to read, and the one to write.

    Args:
        records: As in `compile`.
        tune: Options of a search, None for none; they may name the folder, too.

    Raises:
        InputError: A search without a store to write to, or two different folders.
        StoreError: The folder is a file, or a search cannot write there.
    """
    from schedules.records import default_stores

    given = None if records is None or records is False else Path(records)
    if tune is not None:
        if records is False:
            raise InputError(
                "a search needs a place for its records",
                where="records",
                hint="leave out records=False (--no-records), or do not tune",
            )
        own = None if tune.records is None else Path(tune.records)
        if given is not None and own is not None and given != own:
            raise InputError(
                f"two folders for records are named: {given} and {own}",
                where="records",
                hint="name one, in Tune(records=...) or beside it",
            )
        given = given or own
    if records is False:
        return Records((), None, None)
    stores = default_stores(given)
    if tune is not None:
        _check_writable(stores[0].folder)
    return Records(tuple(stores), stores[0], given)


def _check_writable(folder: Path) -> None:
    """Find out before the minutes of a search whether its records can be kept.

    Raises:
        StoreError: They cannot.
    """
    from schedules.records.errors import store_error

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"records")
    except OSError as error:
        raise store_error(error, folder, "keep tuning records there") from error


def require_tuned_share(
    kernels: Sequence[KernelInfo],
    required: float | None,
    *,
    target: TargetSpec,
    precision: str,
    records: Records,
) -> None:
    """Refuse a model of which too little runs on tuning records.

    Args:
        kernels: All kernels of the model.
        required: Share of the FLOPs of the kernels that can be tuned, 0 to 1; None for any.
        target: For the hint.
        precision: For the hint.
        records: For the hint.

    Raises:
        NotTunedError: It names the kernels without a record, and why none serves them.
    """
    share = tuned_share(kernels)
    if required is None or share is None or share >= required:
        return
    missed = misses(kernels)
    total = sum(map(flops, kernels)) or 1.0
    named = [
        f"  {kernel.name} ({' + '.join(kernel.operators)}, {flops(kernel) / total:.1%} of FLOPs): "
        f"{kernel.miss or 'it met only the fallback'}"
        for kernel in missed[:_NAMED]
    ]
    if len(missed) > _NAMED:
        named.append(f"  and {len(missed) - _NAMED} more")
    lines = "\n".join(named)
    raise NotTunedError(
        f"{share:.1%} of the FLOPs of kernels that can be tuned run on tuning records, and "
        f"{required:.1%} are required (estimated); without a record:\n{lines}",
        target=target.name,
        arguments=_tune_arguments(target, precision, records),
        share=share,
        misses=tuple(kernel.name for kernel in missed),
    )


def _tune_arguments(target: TargetSpec, precision: str, records: Records) -> tuple[str, ...]:
    arguments = ["--target", target.name]
    if precision != "float32":
        arguments += ["--precision", precision]
    if records.given is not None:
        arguments += ["--records", str(records.given)]
    return tuple(arguments)


__all__ = [
    "PRECISIONS",
    "TOLERANCES",
    "Records",
    "RecordsOption",
    "check_precision",
    "open_records",
    "read_precision",
    "read_required",
    "require_tuned_share",
]
