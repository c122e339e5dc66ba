"""The one place that knows where this release of TVM keeps what upstream moves about.

Everything in `schedules` and `compiler` that needs a TVM name which has moved between
releases takes it from here. Importing this module imports TVM (seconds of CPU time), so it
is imported inside the functions or modules that really compile, never on the command line's
fast paths.
"""

from __future__ import annotations

import tvm
from tvm import IRModule, ir, relax, s_tir, target, te, tirx, topi
from tvm.ir import transform as ir_transform
from tvm.s_tir import Schedule

TVM_VERSION: str = tvm.__version__

__all__ = [
    "TVM_VERSION",
    "IRModule",
    "Schedule",
    "ir",
    "ir_transform",
    "relax",
    "s_tir",
    "target",
    "te",
    "tirx",
    "topi",
    "tvm",
]
