"""The VTA part of a bundle: one member a program, and one that says how they belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from compiler.codec import DecodeError, decode, encode
from compiler.errors import BundleError
from compiler.package.manifest import VTA
from compiler.stages import VtaHostOperator, VtaLayer, VtaPart, VtaRegion, VtaTensor
from targets.errors import TargetError

_VERSION = 1
_DAMAGED = "copy the bundle again from where it came from, or compile the model again"


@dataclass(frozen=True, slots=True)
class _Run:
    """Instructions in a row that work for one layer."""

    layer: int
    count: int


@dataclass(frozen=True, slots=True)
class _Region:
    """A region without its program."""

    name: str
    batch: int
    inputs: tuple[VtaTensor, ...]
    outputs: tuple[VtaTensor, ...]
    layers: tuple[VtaLayer, ...]
    owners: tuple[_Run, ...]


@dataclass(frozen=True, slots=True)
class _Document:
    """``vta.json``."""

    version: int
    config: Mapping[str, Any]
    board_host: str
    regions: tuple[_Region, ...]
    host: tuple[VtaHostOperator, ...]


def program_member(number: int) -> str:
    """The member that holds a region's program."""
    return f"region{number}.vta"


def dump_vta(part: VtaPart) -> dict[str, bytes]:
    """The members of a VTA part."""
    from targets.vta.program import program_bytes

    document = _Document(
        _VERSION,
        part.config.to_dict(),
        part.board_host,
        tuple(
            _Region(
                r.name, r.batch, r.inputs, r.outputs, r.layers,
                tuple(_Run(layer, len(list(run))) for layer, run in groupby(r.owners)),
            )
            for r in part.regions
        ),
        part.host,
    )  # fmt: skip
    text = json.dumps(encode(document), indent=1, sort_keys=True) + "\n"
    programs = {program_member(i): program_bytes(r.program) for i, r in enumerate(part.regions)}
    return {VTA: text.encode("utf-8"), **programs}


def load_vta(data: Mapping[str, bytes], where: str) -> VtaPart | None:
    """The VTA part of a bundle's members; None if it has none.

    Raises:
        BundleError: It is damaged, or its programs do not fit it.
    """
    from targets.vta.config import VtaConfig
    from targets.vta.program import parse_program, require_config

    if VTA not in data:
        return None
    at = f"{where}: {VTA}"
    try:
        document = decode(_Document, json.loads(data[VTA].decode("utf-8")))
    except (DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"it cannot be read: {error}", where=at, hint=_DAMAGED) from error
    if document.version != _VERSION:
        raise BundleError(
            f"it is of version {document.version}, and this release reads {_VERSION}",
            where=at,
            hint="compile the model again with this release",
        )
    regions = []
    try:
        config = VtaConfig.from_dict(document.config, where=at)
        for number, item in enumerate(document.regions):
            name = program_member(number)
            if name not in data:
                raise BundleError(f"member {name!r} is missing", where=where, hint=_DAMAGED)
            program = parse_program(data[name], where=f"{where}: {name}")
            require_config(program.config, config, where=f"{where}: {name}")
            owners = tuple(run.layer for run in item.owners for _ in range(run.count))
            _check(item, owners, len(program.instructions), at)
            regions.append(
                VtaRegion(
                    item.name, program, item.batch, item.inputs, item.outputs, item.layers, owners
                )
            )
            for tensor in (*item.inputs, *item.outputs):
                program.buffer(tensor.name)
    except TargetError as error:
        raise BundleError(error.message, where=error.where, hint=_DAMAGED) from error
    return VtaPart(config, document.board_host, tuple(regions), document.host)


def _check(item: _Region, owners: tuple[int, ...], instructions: int, at: str) -> None:
    if len(owners) != instructions or not all(-1 <= i < len(item.layers) for i in owners):
        raise BundleError(
            f"{item.name}: layers are named for {len(owners)} of {instructions} instructions",
            where=at,
            hint=_DAMAGED,
        )
    if item.batch < 1:
        raise BundleError(f"{item.name}: a batch of {item.batch}", where=at, hint=_DAMAGED)


__all__ = ["dump_vta", "load_vta", "program_member"]
