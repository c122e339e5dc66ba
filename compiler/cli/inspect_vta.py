"""`tilewright inspect --vta`: where each layer's cycles go, and the programs' instructions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compiler.cli.output import Session
from compiler.errors import InputError

if TYPE_CHECKING:
    from compiler.package import Bundle
    from compiler.package.archive import Contents
    from compiler.report.vta import RegionProfile
    from compiler.stages import VtaPart

_NOBODY = "-"


def inspect_vta(session: Session, contents: Contents, layer: str | None) -> dict[str, Any]:
    """Show the VTA part of a bundle; nothing is run but the simulator's clock.

    Args:
        session: Where to.
        contents: The bundle.
        layer: Only the instructions of this layer.

    Returns:
        The same as a JSON document, if the session wants one.

    Raises:
        InputError: The bundle has no VTA programs, or no such layer.
        BundleError: The programs are damaged.
    """
    from compiler.package.vta import load_vta
    from compiler.report.vta import describe_vta, profile_region
    from compiler.report.vta_text import queue_strips

    part = load_vta(contents.data, str(contents.path))
    if part is None:
        raise InputError(
            "the bundle has no VTA programs",
            where=str(contents.path),
            hint="compile the model with --target vta",
        )
    _require_layer(part, layer)
    found = describe_vta(part, device="the simulator", host_ms=0.0)
    profiles = [profile_region(region) for region in part.regions]
    if session.json:
        from compiler.codec import encode

        document = encode(found, non_finite=True)
        for name in ("host_time", "total", "spans"):
            document.pop(name)
        instructions = [list(_instructions(profile, layer)) for profile in profiles]
        return {**document, "instructions": instructions}
    session.show(_layers(found))
    for strip in queue_strips(found):
        session.show(strip)
    for profile in profiles:
        session.show(_listing(profile, layer))
    return {}


def vta_cycles(bundle: Bundle) -> dict[str, Any] | None:
    """What VTA took for the last inference of a bundle; None for one without programs."""
    programs = bundle.executor.programs
    if programs is None:
        return None
    counted = programs.cycles()
    known = [cycles for cycles in counted if cycles is not None]
    cycles = sum(known) if len(known) == len(counted) else None
    clock = programs.part.config.clock_hz
    return {
        "device": programs.driver.name,
        "label": programs.driver.label,
        "cycles": cycles,
        "clock_hz": clock,
        "milliseconds": None if cycles is None else 1e3 * cycles / clock,
    }


def vta_text(found: dict[str, Any]) -> str:
    """The same in one line."""
    if found["cycles"] is None:
        return f"VTA: {found['device']} does not count cycles"
    return (
        f"VTA: {found['cycles']:,} cycles, {found['milliseconds']:.3f} ms at "
        f"{found['clock_hz'] / 1e6:g} MHz ({found['label']} by {found['device']})"
    )


def _require_layer(part: VtaPart, layer: str | None) -> None:
    names = [item.name for region in part.regions for item in region.layers]
    if layer is not None and layer not in names:
        raise InputError(
            f"no program has a layer {layer!r}",
            where="--layer",
            hint=f"the layers: {', '.join(names)}",
        )


def _layers(found: Any) -> Any:
    from rich.table import Table

    from compiler.report.vta_text import fill_layers

    table = Table(
        title=f"Layers on VTA: {found.cycles.value:,.0f} cycles, "
        f"{found.time.value:.3f} ms at {found.clock.value:g} MHz (simulated)",
        title_justify="left",
        title_style="bold",
    )
    return fill_layers(found, table)


def _instructions(profile: RegionProfile, layer: str | None) -> Iterator[dict[str, Any]]:
    """Each instruction with when it ran and whom it works for."""
    from targets.vta import format_instruction
    from targets.vta.isa import decode

    program, line = profile.region.program, profile.simulation.timeline
    data = program.instructions.tobytes()
    names = [item.name for item in profile.region.layers]
    for i, owner in enumerate(profile.region.owners):
        name = names[owner] if owner >= 0 else _NOBODY
        if layer is not None and name != layer:
            continue
        instruction = decode(data[16 * i : 16 * i + 16], program.config)
        yield {
            "index": i,
            "begun": int(line.begun[i]),
            "done": int(line.done[i]),
            "layer": name,
            "text": format_instruction(instruction),
        }


def _listing(profile: RegionProfile, layer: str | None) -> Any:
    """The disassembly: index, first and last cycle, instruction; a headline for each layer."""
    from rich.text import Text

    region = profile.region
    count = len(region.program.instructions)
    title = f"\n{region.name}: {count:,} instructions, {profile.simulation.cycles:,} cycles"
    lines = [f"{title}; index, first and last cycle, instruction"]
    before = None
    for item in _instructions(profile, layer):
        if item["layer"] != before:
            before = item["layer"]
            lines.append(f"; {'no layer' if before == _NOBODY else before}")
        lines.append(f"{item['index']:6} {item['begun']:10,} {item['done']:10,}  {item['text']}")
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


__all__ = ["inspect_vta", "vta_cycles", "vta_text"]
