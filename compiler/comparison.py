"""One model compiled for several targets, and what each of them makes of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.api import Progress
from compiler.api import compile as compile_model
from compiler.errors import InputError, TilewrightError
from compiler.report.comparison import ComparedTarget, Comparison
from compiler.report.report import Report
from targets import get_target, missing_features

if TYPE_CHECKING:
    from compiler.api import Model
    from compiler.compress.plan import CompressionPlan
    from compiler.package import Bundle
    from targets.spec import TargetSpec

#: Called with each target's outcome as soon as it is there.
OnTarget = Callable[[ComparedTarget], None]


def compare_targets(
    model: Model,
    targets: Sequence[str | Path | TargetSpec],
    *,
    save: Path | None = None,
    progress: Progress | None = None,
    on_target: OnTarget | None = None,
    **options: Any,
) -> Comparison:
    """Compile a model for each target and put the figures side by side.

    Where this machine runs a target's code the latency is measured; elsewhere it is estimated as
    in `compile`. A target that fails has a row that says why. A model that is quantized has one
    plan, the first target's, so that all compute the same integers; VTA, which shifts, has its
    own.

    Args:
        model: As in `compile`.
        targets: Targets as in `compile`; the ratios are to the first one that does not fail.
        save: A folder for the bundles, ``arm-rpi4.tw`` for ``arm/rpi4``; None to keep none.
        progress: Called as ``progress(stage, step)`` when a step begins, the target's name in
            front of the stage.
        on_target: Called with each target's row as soon as it is there.
        options: Of `compile`, for all targets.

    Raises:
        InputError: There are no targets, or one is given twice.
        FileError: `save` cannot be written.
    """
    names = [target if isinstance(target, str | Path) else target.name for target in targets]
    if not names or len(set(map(str, names))) != len(names):
        raise InputError(
            "no targets were given" if not names else "a target is given twice",
            where="targets",
            hint="give several: arm/rpi4, arm/rpi5, x86",
        )
    if save is not None:
        _make_folder(save)
    if isinstance(options.get("calibration"), Iterator):
        # A target that fails must not leave the next one without samples.
        options["calibration"] = list(options["calibration"])
    rows: list[ComparedTarget] = []
    plan: CompressionPlan | None = None
    title = ""
    for number, (name, target) in enumerate(zip(names, targets, strict=True), start=1):
        step = _named(progress, f"{name} ({number} of {len(names)})")
        chosen, start = dict(options), time.perf_counter()
        spec: TargetSpec | None = None
        try:
            spec = get_target(target)
            if not missing_features(spec):
                chosen = {**chosen, "estimate": None}
            if plan is not None and spec.family != "vta":
                chosen = {**chosen, "quantize": plan, "calibration": None}
            bundle = compile_model(model, spec, progress=step, **chosen)
            if spec.family != "vta":
                plan = bundle.plan
            title = bundle.name
            rows.append(_row(str(name), bundle, save, time.perf_counter() - start))
        except TilewrightError as error:
            row = ComparedTarget(
                str(name), "" if spec is None else spec.title, None, None,
                time.perf_counter() - start, str(error).replace("\n", " "), error.exit_code,
            )  # fmt: skip
            rows.append(row)
        if on_target is not None:
            on_target(rows[-1])
    return Comparison(title or str(options.get("name") or "the model"), tuple(rows))


def _named(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, step: progress(f"{name}: {stage}", step)


def _row(name: str, bundle: Bundle, save: Path | None, seconds: float) -> ComparedTarget:
    report = bundle.report if isinstance(bundle.report, Report) else None
    with tempfile.TemporaryDirectory(prefix="tilewright-compare-") as work:
        folder = Path(work) if save is None else save
        path = bundle.save(folder / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.tw")
        size = path.stat().st_size
    if report is None:
        return ComparedTarget(
            name, bundle.target.title, None, size, seconds,
            "it compiles, and there is neither a measurement nor an estimate of it", 3,
        )  # fmt: skip
    return ComparedTarget(name, bundle.target.title, report, size, seconds)


def _make_folder(path: Path) -> None:
    from compiler.package.atomic import file_error

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, path, "write the bundles") from error


__all__ = ["OnTarget", "compare_targets"]
