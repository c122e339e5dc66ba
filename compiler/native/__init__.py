"""C sources that are linked into compiled modules, where Python and C++ programs find them."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from targets.errors import TargetError

#: Asks the kernel for AMX; linked into every module whose code uses it.
AMX_PERMISSION_SOURCE = Path(__file__).parent / "amx_permission.c"
#: The runner for devices without Python, and the C interface to a deployed model.
RUNNER_FOLDER = Path(__file__).parent / "runner"
RUNNER_SOURCES = tuple(sorted(RUNNER_FOLDER.iterdir()))
#: Counts blocks of emulated code and their cache misses, a plugin of QEMU.
COUNTER_SOURCES = tuple(sorted((Path(__file__).parent / "counter").iterdir()))
#: Asks QEMU for the version of its interface for plugins.
PLUGIN_VERSION_SOURCE = Path(__file__).parent / "plugin_version.c"
#: Calls one compiled kernel, in emulation.
KERNEL_SOURCE = Path(__file__).parent / "kernel" / "kernel.c"
#: What TVM's runtime is built of for machines that there is no package for.
RUNTIME_FOLDER = Path(__file__).parent / "runtime"
_SYMBOL = "tilewright_request_amx"

_REASONS = {
    errno.ENOSPC: (
        "a thread has an alternate signal stack that is too small for the state of the tiles",
        "load the model before faulthandler and other libraries install signal handlers",
    ),
    errno.EINVAL: (
        "this Linux kernel does not know the request",
        "use Linux 5.16 or newer",
    ),
}


def check_amx(library: Path, name: str) -> None:
    """Check that a loaded module that uses AMX may do so in this process.

    The module's code asks the kernel itself, when it is loaded, before any thread runs it.

    Args:
        library: The shared object, which is loaded already.
        name: The model's name, for messages.

    Raises:
        TargetError: The kernel refused, as it does where the processor has no AMX.
    """
    # With its folder: a bare name would be looked for among the system's libraries.
    request = getattr(ctypes.CDLL(str(library.resolve())), _SYMBOL, None)
    if request is None:
        return
    request.restype = ctypes.c_int
    status = int(request())
    if status == 0:
        return
    reason, hint = _REASONS.get(
        status,
        (
            f"{os.strerror(status)} (the processor has no AMX, or the system hides it)",
            "compile for this machine (--target x86/host)",
        ),
    )
    raise TargetError(
        f"the model needs AMX tiles, and the process may not use them: {reason}",
        where=name,
        hint=hint,
    )


__all__ = [
    "AMX_PERMISSION_SOURCE",
    "COUNTER_SOURCES",
    "KERNEL_SOURCE",
    "PLUGIN_VERSION_SOURCE",
    "RUNNER_FOLDER",
    "RUNNER_SOURCES",
    "RUNTIME_FOLDER",
    "check_amx",
]
