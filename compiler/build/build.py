"""Generate machine code with LLVM and link it into one shared object."""

from __future__ import annotations

from pathlib import Path

from compiler.elf import check_shared_object
from compiler.errors import CompileError
from compiler.linker import find_linker
from compiler.native import AMX_PERMISSION_SOURCE
from compiler.stages import Built, Lowered, StageLog
from schedules.cpu.annotations import IS_HOST_FUNCTION, IS_SCHEDULED
from schedules.tvm_adapter import IRModule, relax, tirx
from schedules.tvm_adapter import target as tvm_target
from targets.spec import TargetSpec


def check_scheduled(module: IRModule, target: TargetSpec) -> None:
    """Refuse a module with a function that no schedule rule has seen.

    The functions that the virtual machine computes symbolic sizes with are scalar code and
    have nothing to schedule.

    Raises:
        CompileError: Names the functions.
    """
    missing = [
        str(variable.name_hint)
        for variable, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc)
        and not function.attrs.get(IS_SCHEDULED)
        and not function.attrs.get(IS_HOST_FUNCTION)
    ]
    if missing:
        raise CompileError(
            f"functions without a schedule: {', '.join(missing)}",
            stage="build",
            target=target.name,
            hint="this is a fault of Tilewright's; please report it with the model",
        )


def build(lowered: Lowered, target: TargetSpec, log: StageLog, workdir: Path) -> Built:
    """Compile a lowered module to `workdir/module.so`.

    Raises:
        CompileError: A function has no schedule, LLVM refused the module, or no linker is
            there or it failed.
    """
    linker = find_linker(target)
    check_scheduled(lowered.module, target)
    library = workdir / "module.so"
    with log.time("build", "code generation"):
        try:
            executable = relax.build(
                lowered.module, target=tvm_target.Target(target.tvm_dict()), relax_pipeline=None
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise CompileError(
                f"TVM could not generate code: {_summary(error)}",
                stage="build",
                target=target.name,
                hint="this is a fault of Tilewright's or TVM's; please report it with the model",
            ) from error
    with log.time("build", "link"):
        try:
            executable.export_library(str(library), fcompile=linker, addons=_addons(lowered))
        except (RuntimeError, OSError) as error:
            raise CompileError(
                f"linking with {linker.name} failed: {_summary(error)}",
                stage="build",
                target=target.name,
                hint="check that the disk is not full",
            ) from error
        check_shared_object(library, linker.machine)
    return Built(
        library=library,
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        parameters=lowered.parameters,
        kernels=lowered.kernels,
        planned_activation_bytes=lowered.planned_activation_bytes,
        target=target,
        name=lowered.name,
        vta=lowered.vta,
        prepared=lowered.prepared,
    )


def _addons(lowered: Lowered) -> list[str]:
    """Sources that are linked beside the generated code."""
    uses_amx = any(kernel.rule == "amx" for kernel in lowered.kernels)
    return [str(AMX_PERMISSION_SOURCE)] if uses_amx else []


def _summary(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
