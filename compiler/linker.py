"""The system's compiler, which links shared objects for builds and for tuning."""

from __future__ import annotations

import shutil

from compiler.errors import CompileError

#: Programs that can link a shared object, in the order in which they are looked for.
LINKERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")


def find_linker() -> str:
    """The path of a C or C++ compiler that can link a shared object.

    Raises:
        CompileError: None is installed.
    """
    for name in LINKERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise CompileError(
        "no C or C++ compiler was found to link the module with",
        stage="build",
        where=f"looked for {', '.join(LINKERS)} on PATH",
        hint="install one, for example Debian's package g++ (apt-get install g++)",
    )


__all__ = ["LINKERS", "find_linker"]
