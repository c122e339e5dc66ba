"""The peers' virtual environments, made when they are first needed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.bench.protocol import ContenderError

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
#: Environments that also see the packages of the one that the driver runs in.
_SEES_MAIN = frozenset({"export"})
_INSTALL_SECONDS = 1200


def ensure(name: str, root: Path = ROOT) -> Path:
    """The Python of the environment `name`, made and filled if it is not up to date.

    Args:
        name: A file of ``tools/bench/requirements`` without its ending.
        root: The repository; environments are in its ``.venvs``.

    Raises:
        ContenderError: It cannot be made, or its packages cannot be installed.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = root / ".venvs" / f"bench-{name}"
    python = folder / "bin" / "python"
    # A copy of the requirements, written last: its presence means that all are installed.
    stamp = folder / "requirements.txt"
    wanted = requirements.read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    _call([sys.executable, "-m", "venv", str(folder)], f"environment {name}")
    if name in _SEES_MAIN:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        link = folder / "lib" / version / "site-packages" / "main.pth"
        link.write_text(sysconfig.get_path("purelib") + "\n")
    _call(
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
        f"packages of {requirements.name}",
    )
    stamp.write_text(wanted)
    return python


def _call(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ContenderError(
            f"{what} cannot be installed: no end within {_INSTALL_SECONDS} s"
        ) from error
    except OSError as error:
        raise ContenderError(f"{what} cannot be installed: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise ContenderError(f"{what} cannot be installed: {' '.join(lines[-3:]).strip()}")
