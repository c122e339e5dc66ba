"""The report of a model whose code this machine cannot run.

It is made of what was measured on a device, of what emulation counts and a model of the processor
estimates, or, without either, of the least times that the target's data allows. Every figure says
which of these it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.deploy import from_source
from compiler.deploy.cache import cache_folder
from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import Tell, build_runner
from compiler.errors import DeployError, EmulationError
from compiler.estimate.costs import cost_model
from compiler.estimate.counting import emulator
from compiler.estimate.profile import ModelCost, estimate_model, memory_rates
from compiler.package import Bundle
from compiler.report.assemble import assemble
from compiler.report.elsewhere_model import Elsewhere
from compiler.report.environment import environment
from compiler.report.figure import Figure
from compiler.report.model import Accuracy
from compiler.report.profile import Profile
from compiler.report.report import Report
from compiler.stages import KernelInfo, StageRecord
from targets.spec import TargetSpec

if TYPE_CHECKING:
    from compiler.report.model import Environment


@dataclass(frozen=True, slots=True)
class BoardRun:
    """What a device measured of a model.

    Attributes:
        device: The device in words.
        environment: The device, as the report shows it.
        profile: Times of whole runs and of each call.
        peak_memory_bytes: Largest resident memory of the process.
    """

    device: str
    environment: Environment
    profile: Profile
    peak_memory_bytes: float


def report_elsewhere(
    bundle: Bundle,
    *,
    estimate: bool | None = None,
    run: BoardRun | None = None,
    stages: Sequence[StageRecord] | None = None,
    accuracy: Accuracy | None = None,
    wheels: Path | None = None,
    tell: Tell | None = None,
) -> Report:
    """Describe a model for another machine.

    Args:
        bundle: The model.
        estimate: Whether to run it in emulation, which takes some ten seconds and more for
            larger models: True, False, or None for where all that is needed is installed.
        run: What a device measured of it.
        stages: What the compilation did; by default as the bundle has it.
        accuracy: Its error against PyTorch; by default that of the report that it brings.
        wheels: As in `compiler.deploy.runtime_libraries`.
        tell: Called before long work.

    Raises:
        EmulationError: `estimate` is True, and a program that is needed is missing or the model
            fails in emulation.
        DeployError: The same, and there is no runtime for the machine.
        FileError: There is no room.
    """
    cost, missing = _estimate(bundle, estimate, wheels, tell)
    spec = bundle.target
    elsewhere, profile, here = _basis(bundle, cost, run, missing)
    earlier = bundle.report if isinstance(bundle.report, Report) else None
    if accuracy is None and earlier is not None:
        accuracy = earlier.accuracy
    report = assemble(
        profile,
        name=bundle.name,
        target=spec,
        environment=here,
        kernels=bundle.kernels,
        stages=bundle.manifest.stages if stages is None else stages,
        planned_activation_bytes=bundle.manifest.planned_activation_bytes,
        process_rss=None,
        sizes=_sizes(bundle, wheels, deployed=cost is not None or run is not None),
        accuracy=accuracy,
        precision=bundle.manifest.precision,
        inputs=tuple(map(str, bundle.inputs)),
        outputs=tuple(map(str, bundle.outputs)),
        notes=_notes(elsewhere, bundle),
        label="measured" if run is not None else "estimated",
        costs={} if cost is None else {kernel.name: kernel for kernel in cost.kernels},
        cache_bandwidths={
            level: rate * spec.clock_hz
            for level, rate in memory_rates(spec).items()
            if cost is not None and level != "memory"
        },
        elsewhere=elsewhere,
    )
    return report if earlier is None else replace(report, quantization=earlier.quantization)


def missing_for_estimate(spec: TargetSpec, wheels: Path | None = None) -> str:
    """What an estimate needs and does not find here, and how to get it; empty if nothing."""
    if spec.machine == os.uname().machine:
        return (
            "Emulation of another processor of this machine's kind may lack its instructions: "
            "estimate=True (--estimate) tries it"
        )
    try:
        emulator(spec)
        cost_model(spec)
    except EmulationError as error:
        return _sentence(error)
    if wheels is None and not any(cache_folder().glob(f"runtime/{spec.machine}-*")):
        if spec.machine in from_source.MACHINES:
            made, cost = "built", "a minute or two"
        else:
            made, cost = "fetched", "about 100 MB"
        return (
            f"TVM's runtime for {spec.machine} was not {made} yet: estimate=True (--estimate) "
            f"does it, once, {cost}"
        )
    return ""


def _estimate(
    bundle: Bundle, wanted: bool | None, wheels: Path | None, tell: Tell | None
) -> tuple[ModelCost | None, str]:
    """The cost, or why there is none."""
    if wanted is False:
        return None, "It was not asked for."
    if wanted is None and (missing := missing_for_estimate(bundle.target, wheels)):
        return None, missing
    try:
        if tell is not None:
            tell("counting in emulation")
        return estimate_model(bundle, wheels=wheels), ""
    except (EmulationError, DeployError) as error:
        if wanted:
            raise
        return None, _sentence(error)


def _sentence(error: EmulationError | DeployError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _basis(
    bundle: Bundle, cost: ModelCost | None, run: BoardRun | None, missing: str
) -> tuple[Elsewhere, Profile, Environment]:
    """Where the times come from, the times, and the machine that the report names."""
    spec = bundle.target
    clock = Figure.estimated((spec.clock_hz if cost is None else cost.clock_hz) / 1e6, "MHz")
    elsewhere = Elsewhere("peaks", "", clock, None, None, None)
    times = {info.name: _least_ms(info, spec) for info in bundle.kernels}
    whole = sum(times.values())
    if cost is not None:
        elsewhere = Elsewhere(
            "estimate",
            cost.model,
            clock,
            Figure.counted(cost.instructions, "instructions"),
            Figure.estimated(cost.cycles, "cycles"),
            Figure.estimated(cost.milliseconds, "ms"),
        )
        known = {info.name for info in bundle.kernels}
        times = {k.name: 1e3 * k.cycles / cost.clock_hz for k in cost.kernels if k.name in known}
        whole = cost.milliseconds
    else:
        elsewhere = replace(elsewhere, missing=_missing_text(missing, run))
    if run is not None:
        return (
            replace(
                elsewhere,
                basis="device",
                device=run.device,
                peak_memory=Figure.measured(run.peak_memory_bytes, "B"),
            ),
            run.profile,
            run.environment,
        )
    calls = {info.name: max(1, info.calls) for info in bundle.kernels if info.name in times}
    names = tuple(name for name, count in calls.items() for _ in range(count))
    profile = Profile(
        run_ms=(whole,),
        warmup=0,
        call_names=names,
        call_ms=tuple(times[name] / calls[name] for name in names),
        replay_ms=(sum(times.values()),),
        overhead_us=0.0,
        allocated_bytes=0,
        live_bytes=(0,) * len(names),
    )
    return elsewhere, profile, environment(1, None)


def _least_ms(info: KernelInfo, spec: TargetSpec) -> float:
    """What the target's peaks allow at best for all calls of a kernel, on one core."""
    rates = spec.peak_ops_per_cycle
    # A dtype without a peak of its own is reckoned with the fastest: a bound stays one.
    rate = rates.get(info.dtype) or max(rates.values(), default=1.0)
    compute = info.flops / (rate * spec.clock_hz)
    memory = (info.bytes_read + info.bytes_written) / spec.memory_bandwidth_bytes_per_s
    return 1e3 * info.calls * max(compute, memory)


def _missing_text(missing: str, run: BoardRun | None) -> str:
    what = "Instructions were not counted and cycles not estimated"
    if run is None:
        what += "; times are the least that the target's peak rates allow, and real ones are longer"
    return f"{what}. {missing[:1].upper()}{missing[1:]}"


def _sizes(bundle: Bundle, wheels: Path | None, *, deployed: bool) -> Mapping[str, int]:
    """Bytes of the artefacts; those of the runtime if a deployment was made, so that it is here."""
    sizes = bundle.sizes
    with tempfile.TemporaryDirectory(prefix="tilewright-size-") as work:
        plain = Path(work) / "bundle.tw"
        earlier, bundle.report = bundle.report, None
        try:
            sizes["bundle without this report"] = bundle.save(plain).stat().st_size
        finally:
            bundle.report = earlier
    if deployed:
        machine = bundle.manifest.platform.machine
        libraries = runtime_libraries(machine, wheels)
        files = (*libraries, *build_runner(machine, libraries).iterdir())
        sizes["runtime on the device"] = sum(file.stat().st_size for file in files)
    return sizes


def _notes(elsewhere: Elsewhere, bundle: Bundle) -> tuple[str, ...]:
    counting = "FLOPs and bytes are counted from shapes; a multiply-add is two."
    notes = [counting]
    if elsewhere.cycles is not None:
        notes.append(
            "Instructions are exact counts of one inference on one thread, taken in emulation. "
            f"Cycles are put together from those of {elsewhere.estimator} for what ran in a row, "
            "from what its busiest units take (of a processor in order, from assumed rates of its "
            "units where these take longer) and from the misses of simulated caches of the "
            "target's sizes. They rank and compare; milliseconds are those cycles at the clock, "
            "which a device may not hold. Emulated wall time is never used. Roofline: the least "
            "that the target's peak rate allows. Bound: memory where misses take half of the "
            "cycles, compute where arithmetic at the peak rate takes half, else instructions."
        )
    if bundle.threads != 1 and elsewhere.basis != "device":
        notes.append(
            f"The model was compiled for {bundle.threads} threads; times are those of one."
        )
    if elsewhere.basis == "device":
        notes.append(
            "Kernels are timed in whole runs there, by the virtual machine's instrument; what it "
            "costs is in the row for the virtual machine. End to end is timed without it."
        )
    return tuple(notes)


__all__ = ["BoardRun", "missing_for_estimate", "report_elsewhere"]
