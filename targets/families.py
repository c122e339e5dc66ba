"""The families of targets: the default device of each, and what works today."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from targets.spec import FAMILIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The folder of the devices' descriptions, ``<family>/<device>.toml``.
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """One family of targets.

    Attributes:
        title: One line for people.
        default: The device that the family's plain name stands for.
        available: Whether this release can compile for the family.
        status: One line that says what works, or what is missing.
        aliases: Other names of devices of this family.
    """

    title: str
    default: str
    available: bool
    status: str
    aliases: Mapping[str, str]


def _read() -> Mapping[str, FamilyFacts]:
    data = tomllib.loads((DATA / "families.toml").read_text(encoding="utf-8"))
    return MappingProxyType(
        {f: FamilyFacts(**{"aliases": {}, **data[f]}) for f in FAMILIES}  # a typo fails on import
    )


FAMILY_FACTS: Mapping[str, FamilyFacts] = _read()
