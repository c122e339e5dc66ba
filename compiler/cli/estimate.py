"""`tilewright estimate`: what a model costs on a device that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli.output import Session, with_common_options

if TYPE_CHECKING:
    from compiler.estimate import KernelCost, ModelCost


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kernels", type=click.IntRange(0, 1000), default=12, show_default=True,
    help="Kernels to show of each model.",
)  # fmt: skip
@click.option(
    "--wheels", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Folder of the runtime's packages for the device, if they cannot be fetched.",
)  # fmt: skip
@with_common_options
@click.pass_obj
def estimate(
    session: Session, bundles: tuple[Path, ...], kernels: int, wheels: Path | None
) -> None:
    """Count a model's instructions in emulation, and estimate its cycles from them.

    Of several bundles the ratios of their cycles to the first one's are shown, too: of the same
    model in other precisions, tuned and untuned, or for other devices.
    """
    from compiler.codec import encode
    from compiler.estimate import estimate_model
    from compiler.package import read_bundle

    found: list[tuple[str, ModelCost]] = []
    for path in bundles:
        session.message(f"running {path} in emulation")
        cost = estimate_model(read_bundle(path, runnable=False), wheels=wheels)
        found.append((str(path), cost))
    if session.json:
        session.document(
            [
                {
                    "bundle": name, **encode(cost), "instructions": cost.instructions,
                    "cycles": cost.cycles,
                    "labels": {"instructions": "counted", "cycles": "estimated"},
                }
                for name, cost in found
            ]
        )  # fmt: skip
        return
    for name, cost in found:
        _show(session, name, cost, kernels)
    if len(found) > 1:
        first = found[0][1]
        for name, cost in found[1:]:
            click.echo(
                f"{name}: {first.cycles / cost.cycles:.2f} times fewer cycles than "
                f"{found[0][0]} (estimated)"
            )


def _show(session: Session, name: str, cost: ModelCost, kernels: int) -> None:
    from rich.table import Table

    click.echo(
        f"{name} on {cost.target}: {cost.instructions / 1e6:.1f} M instructions (counted), "
        f"{cost.cycles / 1e6:.1f} M cycles, {cost.milliseconds:.1f} ms at "
        f"{cost.clock_hz / 1e9:.2f} GHz (estimated by {cost.model})"
    )
    if not kernels:
        return
    table = Table("kernel", "kind", "calls", "M instructions\ncounted", "M cycles\nestimated",
                  "share", "FLOP/cycle", "bound")  # fmt: skip
    for kernel in cost.kernels[:kernels]:
        table.add_row(
            kernel.name,
            kernel.kind,
            str(kernel.calls),
            f"{kernel.instructions / 1e6:.3f}",
            f"{kernel.cycles / 1e6:.3f}",
            f"{kernel.cycles / cost.cycles:.1%}",
            f"{kernel.flops / kernel.cycles:.1f}" if kernel.cycles else "",
            "memory" if _waits(kernel) else "core",
        )
    session.show(table, wide=True)


def _waits(kernel: KernelCost) -> bool:
    """Whether moving data takes most of a kernel's cycles."""
    if kernel.misses:
        return 2 * kernel.stall_cycles >= kernel.cycles
    return kernel.memory_cycles > kernel.core_cycles


__all__ = ["estimate"]
