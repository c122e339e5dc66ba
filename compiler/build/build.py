"""Generate machine code with LLVM and link it into one shared object."""

from __future__ import annotations

import shutil
from pathlib import Path

from compiler.errors import CompileError
from compiler.stages import Built, Lowered, StageLog
from schedules.tvm_adapter import relax, target as tvm_target
from targets.spec import TargetSpec


def find_linker() -> str:
    """The path of a C++ compiler that can link a shared object.

    Raises:
        CompileError: None is installed.
    """
    for name in ("g++", "c++", "clang++", "gcc", "cc", "clang"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise CompileError(
        "no C or C++ compiler was found to link the module with",
        stage="build",
        hint="install one, for example Debian's package g++ (apt-get install g++)",
    )


def build(lowered: Lowered, target: TargetSpec, log: StageLog, workdir: Path) -> Built:
    """Compile a lowered module to `workdir/module.so`.

    Raises:
        CompileError: LLVM refused the module, or no linker is there.
    """
    linker = find_linker()
    library = workdir / "module.so"
    tvm_t = tvm_target.Target(dict(target.tvm))
    with log.time("build", "code generation"):
        executable = relax.build(lowered.module, target=tvm_t, relax_pipeline=None)
    with log.time("build", "link"):
        executable.export_library(str(library), cc=linker)
    return Built(
        library=library,
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        parameters=lowered.parameters,
        kernels=lowered.kernels,
        planned_activation_bytes=lowered.planned_activation_bytes,
        target=target,
        name=lowered.name,
    )
