"""What a build worker does: makes a function, compiles it and links a shared object.

The functions come from a module that is given by name, `compiler.lower.tasks` unless a test
says otherwise. It has

- ``Task.from_json(text)``,
- ``build_candidate(task, choice, spec) -> PrimFunc``, scheduled, its symbol ``main``,
- ``reference(task) -> PrimFunc``, likewise,
- ``arguments(task) -> tuple[ArgumentSpec, ...]``,
- ``pack_arguments(task, choice, spec, arrays) -> list[array]``.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from compiler.linker import find_linker
from compiler.native import AMX_PERMISSION_SOURCE
from compiler.tune.measure.channel import Message, receive, send
from targets.parse import parse_target
from targets.spec import TargetSpec

_FULL_DISK = ("No space left on device", "Disk quota exceeded", "final link failed: No space")


def serve(connection: Connection, kernels: str, _options: Mapping[str, Any]) -> None:
    """Build what is asked for, until nobody asks any more."""
    module = importlib.import_module(kernels)
    while True:
        send(connection, build(module, receive(connection)))


def build(module: Any, job: Message) -> Message:
    """Build one candidate, or the reference if the job names no choice.

    Returns:
        ``{"seconds": …}``, or ``{"error": …, "disk_full": …}``.
    """
    start = perf_counter()
    try:
        spec = read_spec(job["spec"])
        task = _read_task(module, job["task"])
        if job["choice"] is None:
            function = module.reference(task)
        else:
            function = module.build_candidate(task, job["choice"], spec)
        _compile(function, spec, job["library"], _addons(job["choice"]))
    except Exception as error:  # noqa: BLE001 whatever it raises costs this candidate only
        return {"error": summary(error), "disk_full": _is_disk_full(error)}
    return {"seconds": perf_counter() - start}


def _addons(choice: Mapping[str, Any] | None) -> list[str]:
    """Sources that are linked beside a candidate's code."""
    uses_amx = choice is not None and choice.get("algorithm") == "amx"
    return [str(AMX_PERMISSION_SOURCE)] if uses_amx else []


def _compile(function: Any, spec: TargetSpec, library: str, addons: list[str]) -> None:
    from schedules.tvm_adapter import IRModule, target, tvm

    executable = tvm.compile(IRModule({"main": function}), target=target.Target(spec.tvm_dict()))
    executable.export_library(library, fcompile=find_linker(spec), addons=addons)


@lru_cache(maxsize=16)
def _read_task(module: Any, text: str) -> Any:
    return module.Task.from_json(text)


@lru_cache(maxsize=8)
def read_spec(text: str) -> TargetSpec:
    """The target that `write_spec` wrote."""
    import json

    return parse_target(json.loads(text), where="the tuner's target")


def write_spec(spec: TargetSpec) -> str:
    """A target as a text for a worker, which may be on another machine."""
    import json

    return json.dumps(spec.to_dict(), sort_keys=True)


def summary(error: BaseException) -> str:
    """The last line of an error's text, which is where TVM says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:400]


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(error) for text in _FULL_DISK)


__all__ = ["build", "read_spec", "serve", "summary", "write_spec"]
