"""Finding a target by its name, by a file, or by a family's plain name."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from targets.errors import TargetError, TargetNotAvailableError, UnknownTargetError
from targets.families import DATA, FAMILY_FACTS
from targets.host import HOST_NAME, host_target, is_x86
from targets.parse import read_target
from targets.spec import FAMILIES, TargetSpec


def get_target(target: str | Path | TargetSpec) -> TargetSpec:
    """The target that a name, a file or a `TargetSpec` stands for.

    Args:
        target: A `TargetSpec` (returned as it is); the path of a TOML file (a `Path`, or a
            text that ends in ``.toml``); a device's name such as ``"arm/rpi4"``; or a
            family's name: ``"x86"`` is this machine, ``"arm"`` is ``arm/rpi4``, ``"cuda"``
            is ``cuda/sm_80``, ``"vta"`` is ``vta/pynq``.

    Raises:
        UnknownTargetError: There is no target of this name; the message lists near matches.
        TargetError: The file cannot be read or describes no possible target, or ``x86`` was
            asked for on a machine that is no x86.
    """
    if isinstance(target, TargetSpec):
        return target
    if isinstance(target, Path) or target.endswith(".toml"):
        return read_target(Path(target))
    name = target.strip()
    if name in FAMILY_FACTS:
        name = FAMILY_FACTS[name].default
    name = _aliases().get(name, name)
    if name == HOST_NAME:
        return host_target()
    path = _devices().get(name)
    if path is None:
        raise _unknown(target)
    return _read_device(path)


def list_targets(family: str | None = None) -> tuple[TargetSpec, ...]:
    """All targets, family by family; the host first, then by name.

    Args:
        family: Only the targets of this family.

    Raises:
        UnknownTargetError: There is no such family.
    """
    if family is not None and family not in FAMILIES:
        raise UnknownTargetError(
            f"there is no target family {family!r}", hint=f"the families: {', '.join(FAMILIES)}"
        )
    found = [host_target()] if is_x86() else []
    found += [_read_device(path) for path in _devices().values()]
    order = {name: i for i, name in enumerate(FAMILIES)}
    chosen = [t for t in found if family is None or t.family == family]
    return tuple(sorted(chosen, key=lambda t: (order[t.family], t.name != HOST_NAME, t.name)))


def target_names() -> tuple[str, ...]:
    """Every name that `get_target` knows, the families' plain names and aliases included."""
    host = [HOST_NAME] if is_x86() else []
    return (*FAMILIES, *host, *_devices(), *_aliases())


def require_available(target: TargetSpec) -> None:
    """Refuse a target that this release cannot compile for.

    Raises:
        TargetNotAvailableError: With the target's one-line status.
    """
    if not target.available:
        works = ", ".join(f for f in FAMILIES if FAMILY_FACTS[f].available)
        raise TargetNotAvailableError(
            f"target {target.name!r} is not available yet: {target.status}",
            hint=f"families that work in this release: {works}",
        )


@cache
def _devices() -> dict[str, Path]:
    """The name and file of every device in the package, sorted by name."""
    return {f"{p.parent.name}/{p.stem}": p for p in sorted(DATA.glob("*/*.toml"))}


@cache
def _read_device(path: Path) -> TargetSpec:
    spec = read_target(path)
    if spec.name != f"{path.parent.name}/{path.stem}":
        raise TargetError(f"key 'name' is {spec.name!r}, which does not fit", where=str(path))
    return spec


def _aliases() -> dict[str, str]:
    return {alias: name for f in FAMILY_FACTS.values() for alias, name in f.aliases.items()}


def _unknown(name: str) -> UnknownTargetError:
    known = target_names()
    wanted = name.strip().lower()
    near = get_close_matches(wanted, known, n=4, cutoff=0.6)
    # People type a device without its family, or only part of its name.
    device = wanted.rsplit("/", 1)[-1]
    devices = {k.rsplit("/", 1)[-1]: k for k in known if "/" in k}
    near += [devices[d] for d in get_close_matches(device, devices, n=3, cutoff=0.6)]
    near += [k for d, k in devices.items() if device and device in d]
    hint = f"did you mean {', '.join(list(dict.fromkeys(near))[:5])}?" if near else (
        f"the families: {', '.join(FAMILIES)}; `tilewright targets` lists all devices")  # fmt: skip
    return UnknownTargetError(f"there is no target {name!r}", hint=hint)
