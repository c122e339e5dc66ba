"""The one place that knows where this release of TVM keeps what upstream moves about.

Everything in `schedules` and `compiler` that needs a TVM name which has moved between
releases takes it from here. Importing this module imports TVM (seconds of CPU time), so it
is imported inside the functions or modules that really compile, never on the command line's
fast paths.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# TVM's thread pool pins the thread that first calls compiled code to the machine's first
# cores, whatever affinity mask the process was started with, and never undoes it. TVM reads
# this switch from the environment only.
os.environ.setdefault("TVM_BIND_THREADS", "0")

import tvm
import tvm_ffi
from tvm import IRModule, ir, relax, s_tir, target, te, tirx, topi
from tvm.ir import GenericConst
from tvm.ir import transform as ir_transform
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule, meta_schedule
from tvm.s_tir.schedule import ScheduleError
from tvm.sym import Analyzer

TVM_VERSION: str = tvm.__version__


def configure_thread_pool(threads: int) -> int:
    """Let compiled code called from this thread use `threads` workers, itself included.

    The pool belongs to the calling thread and is made on its first use, with as many workers
    as the process may use CPUs; later it can shrink and grow again within that number.

    Returns:
        The workers that will really be used.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cpus = cpus or list(range(os.cpu_count() or 1))
    share_all_cores = -3  # ThreadGroup::kSpecifyThreadShareAllCore
    tvm_ffi.get_global_func("runtime.config_threadpool")(
        share_all_cores, threads, [str(cpu) for cpu in cpus]
    )
    return int(tvm_ffi.get_global_func("runtime.NumThreads")())


def skip_tensor_intrinsics() -> None:
    """Spare MetaSchedule the 80 CPU-seconds of TVM's own tensor intrinsics.

    Every tuning context imports all of them, though ours uses none. Afterwards the package
    is there without its contents; a submodule is still loaded by whoever imports it by name.
    """
    name = f"{s_tir.__name__}.tensor_intrin"
    found = find_spec(name)
    if name in sys.modules or found is None:
        return
    package = ModuleType(name)
    package.__path__ = list(found.submodule_search_locations or ())
    package.__spec__ = found
    sys.modules[name] = package
    s_tir.tensor_intrin = package


def llvm_version() -> str:
    """Major version of the LLVM that generates the code."""
    return str(target.codegen.llvm_version_major())


def save_json(module: Any) -> str:
    """A module as JSON text."""
    return str(ir.save_json(module))


def load_json(text: str) -> Any:
    """A module from its JSON text."""
    return ir.load_json(text)


def structural_hash(function: Any) -> str:
    """TVM's hash of a function's structure, 16 hexadecimal digits; it changes with releases."""
    return f"{tvm_ffi.structural_hash(function) & (2**64 - 1):016x}"


def convert_to_packed(function: Callable[..., Any]) -> Any:
    """A Python function as one that TVM can call."""
    return tvm_ffi.convert(function)


__all__ = [
    "TVM_VERSION",
    "Analyzer",
    "GenericConst",
    "IRModule",
    "Schedule",
    "ScheduleError",
    "configure_thread_pool",
    "convert_to_packed",
    "derived_object",
    "ir",
    "ir_transform",
    "llvm_version",
    "load_json",
    "meta_schedule",
    "relax",
    "s_tir",
    "save_json",
    "skip_tensor_intrinsics",
    "structural_hash",
    "target",
    "te",
    "tirx",
    "topi",
    "tvm",
]
