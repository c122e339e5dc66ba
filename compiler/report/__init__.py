"""The latency report: measure a compiled model, keep it as JSON, show it as text and HTML.

Importing this package imports neither TVM nor torch.
"""

from __future__ import annotations

from .measure import compare, measure
from .model import (
    LABELS,
    SCHEMA,
    SCHEMA_VERSION,
    Accuracy,
    CompileStep,
    CoverageRow,
    Elsewhere,
    Environment,
    Figure,
    KernelRow,
    KindRow,
    Latency,
    Memory,
    MemoryStep,
    ReportError,
    Roof,
)
from .report import Report
from .vta import with_vta

__all__ = [
    "LABELS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Accuracy",
    "CompileStep",
    "CoverageRow",
    "Elsewhere",
    "Environment",
    "Figure",
    "KernelRow",
    "KindRow",
    "Latency",
    "Memory",
    "MemoryStep",
    "Report",
    "ReportError",
    "Roof",
    "compare",
    "measure",
    "with_vta",
]
