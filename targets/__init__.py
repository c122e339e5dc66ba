"""Facts about hardware, as data. Imports nothing else of Tilewright's, nor TVM or torch."""

from __future__ import annotations

from targets.errors import (
    TargetError,
    TargetNotAvailableError,
    TilewrightError,
    UnknownTargetError,
)
from targets.families import FAMILY_FACTS, FamilyFacts
from targets.host import cpu_name, host_features, host_target, missing_features
from targets.parse import parse_target, read_target
from targets.registry import get_target, list_targets, require_available, target_names
from targets.spec import DTYPE_BYTES, FAMILIES, CacheSpec, TargetSpec

__all__ = [
    "DTYPE_BYTES",
    "FAMILIES",
    "FAMILY_FACTS",
    "CacheSpec",
    "FamilyFacts",
    "TargetError",
    "TargetNotAvailableError",
    "TargetSpec",
    "TilewrightError",
    "UnknownTargetError",
    "cpu_name",
    "get_target",
    "host_features",
    "host_target",
    "list_targets",
    "missing_features",
    "parse_target",
    "read_target",
    "require_available",
    "target_names",
]
