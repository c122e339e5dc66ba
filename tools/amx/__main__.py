"""``python -m tools.amx``: the share of the AMX peak that kernels reach.

Estimated on any machine: by the model of `schedules.cpu.amx.cost`, beside what the assembly
holds and, if an llvm-mca is given, what the instructions around the tiles cost. Measured
where the processor has AMX, against the peak measured there, on one thread.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from schedules.cpu.amx import cost
from targets import get_target, missing_features
from targets.host import cpu_name
from tools.amx.kernels import CASES, InnerLoop, build, inner_loop, tile_cycles


@dataclass(frozen=True)
class Line:
    """One kernel's figures; shares are of the peak of one core's tile unit."""

    case: str
    choice: str
    multiplications: int
    useful_share: float
    estimated_cycles: float
    estimated_share: float
    loop_multiplications: int
    loop_loads: int
    loop_others: int
    others_cycles_by_llvm_mca: float | None
    measured_seconds: float | None = None
    measured_share: float | None = None


def mca_cycles(program: str, loop: InnerLoop) -> float | None:
    """Cycles of the instructions beside the tiles', by llvm-mca on its Sapphire Rapids model.

    LLVM's model has no figures for the tile instructions themselves (it gives each a latency
    of 100 and four a cycle), so they are left out.
    """
    if not loop.others:
        return 0.0
    done = subprocess.run(
        [program, "-mcpu=sapphirerapids", "-iterations=100", "-instruction-info=false",
         "-resource-pressure=false"],
        input="\n".join(loop.others) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return float(found.group(1)) / 100 if found else None


@click.command()
@click.option("--case", "only", help="Only cases whose name holds this text.")
@click.option("--mca", help="An llvm-mca of LLVM 17 or newer.")
@click.option("--target", default="x86/sapphirerapids", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--no-measure", is_flag=True, help="Estimates only, on a machine with AMX too.")
def main(only: str | None, mca: str | None, target: str, as_json: bool, no_measure: bool) -> None:
    """Show the share of the AMX peak that kernels reach without tuning."""
    spec = get_target(target)
    measure = not no_measure and not missing_features(spec)
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        if measure:
            from schedules.tvm_adapter import configure_thread_pool
            from tools.amx.measure import build_peak, kernel_seconds, peak_ops_per_s

            configure_thread_pool(1)
            library = build_peak(Path(folder))
            peaks = {bf16: peak_ops_per_s(library, bf16=bf16) for bf16 in (False, True)}
        if not as_json:
            click.echo(_title(measure, peaks))
        for name, workload in CASES.items():
            if only is not None and only not in name:
                continue
            kernel = build(workload, spec)
            loop, bf16 = inner_loop(kernel), workload.dtypes[0] == "bfloat16"
            cycles = cost.cycles(workload, kernel.shape, kernel.choice["order"], spec)
            per_cycle = spec.peak_ops_per_cycle[workload.dtypes[0]]
            seconds = kernel_seconds(kernel, spec) if measure else None
            line = Line(
                case=name,
                choice=json.dumps(kernel.choice, sort_keys=True),
                multiplications=cost.count(kernel.shape).multiplications,
                useful_share=workload.flops / per_cycle / tile_cycles(kernel),
                estimated_cycles=cycles,
                estimated_share=workload.flops / per_cycle / cycles,
                loop_multiplications=loop.multiplications,
                loop_loads=loop.loads,
                loop_others=len(loop.others),
                others_cycles_by_llvm_mca=mca_cycles(mca, loop) if mca else None,
                measured_seconds=seconds,
                measured_share=workload.flops / seconds / peaks[bf16] if seconds else None,
            )
            click.echo(json.dumps(asdict(line)) if as_json else _text(line))


def _title(measured: bool, peaks: dict[bool, float]) -> str:
    if not measured:
        return f"estimated (this machine, {cpu_name()}, cannot run the code)"
    figures = f"{peaks[False] / 1e9:.0f} int8, {peaks[True] / 1e9:.0f} bf16 GOPS"
    return f"estimated, and measured on {cpu_name()}; measured peak of one core: {figures}"


def _text(line: Line) -> str:
    share = f"{line.estimated_share:6.1%} estimated"
    if line.measured_share is not None:
        share += f", {line.measured_share:6.1%} measured"
    loop = (
        f"{line.loop_multiplications} multiplications, {line.loop_loads} loads, "
        f"{line.loop_others} others"
    )
    if line.others_cycles_by_llvm_mca is not None:
        unit = line.loop_multiplications * cost.MULTIPLY_CYCLES
        loop += f" ({line.others_cycles_by_llvm_mca:.0f} of {unit:.0f} cycles by llvm-mca)"
    return (
        f"{line.case:28s} {share} of the peak; {line.useful_share:.0%} of the tiles' work is "
        f"useful; assembly between stores: {loop}\n{'':28s} {line.choice}"
    )


if __name__ == "__main__":
    main()
