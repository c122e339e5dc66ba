"""The emulated cores' system and packages, and this machine's environments that make models.

All of it is in ``.venvs/arm-peers`` and is made when it is first needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".venvs" / "arm-peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
PYTHON = "usr/bin/python3.11"
_PACKAGES = (
    "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "libgomp1",
    "liblzma5", "libpython3.11-minimal", "libpython3.11-stdlib", "libssl3", "libstdc++6",
    "libuuid1", "python3.11-minimal", "zlib1g",
)  # fmt: skip
_PLATFORMS = tuple(
    f"{tag}_aarch64"
    for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17",
                "manylinux2014")
)  # fmt: skip
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
#: What Linux says of each core; QEMU would show this machine's processor. Libraries choose their
#: kernels by it. Implementer, part, variant, features.
_CORES = {
    "cortex-a72": ("0x41", "0xd08", "0x0", f"{_FEATURES} cpuid"),
    "neoverse-n1": (
        "0x41",
        "0xd0c",
        "0x3",
        f"{_FEATURES} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs",
    ),
}
_SECONDS = 1800


class SetupError(Exception):
    """Something that is needed cannot be installed."""


def system(core: str) -> Path:
    """The root of a Debian system for aarch64 with Python, which shows one core of the kind.

    Raises:
        SetupError: It cannot be downloaded or unpacked.
    """
    base = CACHE / "system"
    wanted = "\n".join(_PACKAGES)
    stamp = base / "packages.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(base, ignore_errors=True)
        _unpack(base)
        stamp.write_text(wanted)
    implementer, part, variant, features = _CORES[core]
    facts = {
        "proc/cpuinfo": f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: {variant}\n"
        f"CPU part\t: {part}\nCPU revision\t: 1\n\n",
        **{f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present", "online")},
    }
    root = CACHE / f"system-{core}"
    mark = root / "proc/cpuinfo"
    if not mark.exists() or mark.read_text() != facts["proc/cpuinfo"] or (
        mark.stat().st_mtime < stamp.stat().st_mtime
    ):  # fmt: skip
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root, symlinks=True, copy_function=os.link)
        for name, text in reversed(facts.items()):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def _unpack(root: Path) -> None:
    """Download Debian's packages with lists of their own, beside those of this machine."""
    state = CACHE / "apt"
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    _call(["apt-get", *options, "update"], "the lists of Debian's arm64 packages")
    packages = state / "packages"
    for old in packages.glob("*.deb"):
        old.unlink()
    _call(["apt-get", *options, "download", *_PACKAGES], "Debian's arm64 packages", packages)
    for package in sorted(packages.glob("*.deb")):
        _call(["dpkg-deb", "-x", str(package), str(root)], package.name)


def device_packages(name: str) -> Path:
    """The folder with a peer's packages for aarch64.

    Raises:
        SetupError: They cannot be installed.
    """
    folder, requirements = CACHE / f"{name}-aarch64", REQUIREMENTS / f"{name}.txt"
    if not _fresh(folder, requirements):
        shutil.rmtree(folder, ignore_errors=True)
        platforms = [word for tag in _PLATFORMS for word in ("--platform", tag)]
        _call(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
             str(folder), "--python-version", "3.11", "--implementation", "cp",
             "--only-binary=:all:", *platforms, "-r", str(requirements)],
            f"packages of {requirements.name}",
        )  # fmt: skip
        (folder / "requirements.txt").write_text(requirements.read_text())
    return folder


def host_python(name: str) -> Path:
    """The Python of the environment that makes a peer's models.

    Raises:
        SetupError: It cannot be made.
    """
    folder, requirements = CACHE / f"{name}-host", REQUIREMENTS / f"{name}-host.txt"
    python = folder / "bin" / "python"
    if not _fresh(folder, requirements):
        _call([sys.executable, "-m", "venv", "--clear", str(folder)], f"environment {name}")
        # Without what the packages ask for: one of them wants gigabytes that are not used.
        _call([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r",
               str(requirements)], f"packages of {requirements.name}")  # fmt: skip
        (folder / "requirements.txt").write_text(requirements.read_text())
    return python


def versions(name: str) -> dict[str, str]:
    """The packages that a requirements file pins."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    pinned = (line.split("==") for line in lines if "==" in line)
    return {package.strip(): version.strip() for package, version in pinned}


def _fresh(folder: Path, requirements: Path) -> bool:
    stamp = folder / "requirements.txt"
    return stamp.exists() and stamp.read_text() == requirements.read_text()


def _call(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{what} cannot be had: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise SetupError(f"{what} cannot be had: {' '.join(lines[-3:]).strip()}")


__all__ = ["CACHE", "ROOT", "SetupError", "device_packages", "host_python", "system", "versions"]
