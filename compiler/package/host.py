"""Whether a bundle's code can run here: system, machine, instruction set, library versions."""

from __future__ import annotations

import platform
import struct
from dataclasses import replace
from importlib import metadata

from compiler._version import __version__
from compiler.errors import BundleError
from compiler.package.manifest import Manifest, Platform
from targets.host import cpu_name, missing_features

#: Distributions whose versions go into the manifest, under the names used there.
_PACKAGES = {
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: ELF's class (1: 32 bits, 2: 64) and e_machine of each machine that compiled code may be for.
_ELF_MACHINES = {"x86_64": (2, 62), "aarch64": (2, 183), "armv7l": (1, 40)}
_ELF_LITTLE_ENDIAN = 1
_ELF_SHARED_OBJECT = 3


def installed_versions() -> dict[str, str]:
    """Versions of Tilewright, Python and the packages that compiling depends on."""
    found = {"tilewright": __version__, "python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        version = _version(distribution)
        if version is not None:
            found[name] = version
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def toolchain() -> dict[str, str]:
    """`installed_versions`, and LLVM's; imports TVM."""
    from schedules.tvm_adapter import llvm_version

    return {**installed_versions(), "llvm": llvm_version()}


def check_host(manifest: Manifest, where: str) -> None:
    """Check that the bundle's code can run in this process.

    Args:
        manifest: The bundle's.
        where: Its path, for errors.

    Raises:
        BundleError: It is for another system, machine, processor or release of TVM.
    """
    here, there = Platform.here(), manifest.platform
    if (here.system, _machine(here.machine)) != (there.system, _machine(there.machine)):
        raise BundleError(
            f"it was compiled for {there}, and this is {here}",
            where=where,
            hint=f"compile the model again for this machine (the bundle's target is "
            f"{manifest.target.name!r})",
        )
    # The list of required features, not the target's own, says what the code really uses.
    needs = replace(manifest.target, features=frozenset(manifest.required_features))
    lacking = missing_features(needs)
    if lacking:
        raise BundleError(
            f"it was compiled for {manifest.target.name}, and this processor "
            f"({cpu_name()}) lacks {', '.join(lacking)}",
            where=where,
            hint="compile the model again for this machine (target 'x86'), or for an older "
            "processor such as 'x86/generic-avx2'",
        )
    have, wanted = installed_versions().get("tvm"), manifest.toolchain.get("tvm")
    if have != wanted:
        raise BundleError(
            f"it was compiled with TVM {wanted}, and {have or 'none'} is installed: "
            "their machine code does not fit together",
            where=where,
            hint=f"install Tilewright {manifest.toolchain.get('tilewright', 'of that time')}, "
            "or compile the model again",
        )


def check_library(library: bytes, manifest: Manifest, where: str) -> None:
    """Check, without loading it, that a shared object is one for the declared machine.

    Raises:
        BundleError: It is something else, or for another machine.
    """
    if manifest.platform.system != "Linux":
        return
    machine = _machine(manifest.platform.machine)
    bits, number = _ELF_MACHINES.get(machine, (0, 0))
    is_elf = len(library) >= 52 and library[:6] == b"\x7fELF" + bytes([bits, _ELF_LITTLE_ENDIAN])
    if not is_elf or struct.unpack_from("<HH", library, 16) != (_ELF_SHARED_OBJECT, number):
        raise BundleError(
            f"it is no shared object for {machine}", where=where, hint="compile the model again"
        )


def _machine(name: str) -> str:
    return _MACHINES.get(name.lower(), name.lower())


__all__ = ["check_host", "check_library", "installed_versions", "toolchain"]
