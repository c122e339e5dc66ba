"""The one place that knows where this release of TVM keeps what upstream moves about.

Everything in `schedules` and `compiler` that needs a TVM name which has moved between
releases takes it from here. Importing this module imports TVM (seconds of CPU time), so it
is imported inside the functions or modules that really compile, never on the command line's
fast paths.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from socket import socket
from types import ModuleType
from typing import Any

# TVM's thread pool pins the thread that first calls compiled code to the machine's first
# cores, whatever affinity mask the process was started with, and never undoes it. TVM reads
# this switch from the environment only.
os.environ.setdefault("TVM_BIND_THREADS", "0")
# An idle worker of the pool gives its CPU away this often before it sleeps. TVM's 300,000 times
# take minutes on a busy machine, and a process ends no sooner; these last from one kernel to the
# next.
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "2000")

import tvm
import tvm_ffi
from tvm import IRModule, ir, relax, s_tir, target, te, tirx, topi
from tvm.ir import GenericConst
from tvm.ir import attrs as ir_attrs
from tvm.ir import transform as ir_transform
from tvm.ir.op import register_op_attr
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule, meta_schedule
from tvm.s_tir.schedule import ScheduleError
from tvm.sym import Analyzer
from tvm.tirx import register_intrin_lowering

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


def register_operator(name: str, *, pure: bool) -> None:
    """Make a TIR operator known, which vectorizes element by element; once in a process."""
    pure_kind, opaque_kind = 1, 3  # tvm::tirx::CallEffectKind
    if name in ir.Op.list_op_names():
        return
    register_op_attr(name, "TVectorizable", True)
    register_op_attr(name, "TCallEffectKind", pure_kind if pure else opaque_kind)
    register_op_attr(name, "TScriptPrinterName", name.removeprefix("tirx."))


def register_lowering(name: str, kind: str, lower: Callable[[Any], Any]) -> None:
    """What becomes of calls of a TIR operator when code is generated for a kind of target."""
    register_intrin_lowering(name, target=kind, f=lower, level=99)


def register_relax_operator(name: str, infer: Callable[[Any, Any], Any]) -> Any:
    """Make a pure Relax operator ``relax.<name>`` known; `infer(call, builder)` gives its type."""
    full = f"relax.{name}"
    if full not in ir.Op.list_op_names():
        register_op_attr(full, "FInferType", infer)
        register_op_attr(full, "FPurity", True)
    return ir.Op.get(full)


def make_attributes(values: Mapping[str, Any]) -> Any:
    """Attributes of a call: plain numbers, texts and lists of them by name."""
    return ir_attrs.make_node("ir.DictAttrs", **values)


def convert_to_packed(function: Callable[..., Any]) -> Any:
    """A Python function as one that TVM can call."""
    return tvm_ffi.convert(function)


def register_function(name: str, function: Callable[..., Any]) -> None:
    """Let TVM's runtime, and RPC sessions of this process, find a Python function by name."""
    tvm_ffi.register_global_func(name, function, override=True)


def serve_rpc(
    listening: socket, port: int, key: str, tracker: tuple[str, int], address: str | None
) -> None:
    """Serve TVM's RPC on a listening socket, one session at a time, each in its own process.

    Args:
        listening: A socket bound to `port`.
        port: Told to the tracker.
        key: Kind of device, told to the tracker.
        tracker: Host and port of the tracker.
        address: Under which clients reach this machine; None: as the tracker sees it.

    Raises:
        RuntimeError: A session's process ended badly; it can be called again.
    """
    from tvm.rpc import server

    server._listen_loop(listening, port, key, tracker, None, address)


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
    "make_attributes",
    "meta_schedule",
    "register_function",
    "register_lowering",
    "register_operator",
    "register_relax_operator",
    "relax",
    "s_tir",
    "save_json",
    "serve_rpc",
    "skip_tensor_intrinsics",
    "structural_hash",
    "target",
    "te",
    "tirx",
    "topi",
    "tvm",
]
