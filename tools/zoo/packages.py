"""The packages that define networks of the zoo, and an environment of their own for them.

They are many, large and choosy about versions, and the compiler needs none of them: they
live in ``.venvs/zoo``, which sees the packages of the environment that made it, so that the
core dependencies are the very same ones.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venvs" / "zoo"
#: Of these only the package itself is installed: their own pins would replace torch.
_ALONE = ("torchvision", "timm", "transformers")


@cache
def declare_torchvision_operators() -> None:
    """Let torchvision be imported beside a torch that it was not built for.

    Its library does not load there, and its import then fails on registering the fake forms
    of two operators that nobody has defined. Their schemas are all that it asks for; its
    networks are plain Python.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return  # a torchvision that fits has defined them itself
    _KEPT.append(library)


_KEPT: list[object] = []  # a library's definitions go when it goes


def requirements() -> list[str]:
    """The lines of ``requirements.txt`` that name packages."""
    lines = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def prepare() -> Path:
    """Make the zoo's environment if it is not there yet.

    Returns:
        The path of its interpreter.

    Raises:
        subprocess.CalledProcessError: An installation failed.
    """
    python = FOLDER / "bin" / "python"
    done = FOLDER / "installed.txt"
    wanted = "\n".join(requirements())
    if done.is_file() and done.read_text() == wanted:
        return python
    venv.create(FOLDER, with_pip=True)
    site = sysconfig.get_path("purelib", vars={"base": str(FOLDER), "platbase": str(FOLDER)})
    (Path(site) / "core.pth").write_text(sysconfig.get_path("purelib") + "\n")
    alone = [r for r in requirements() if r.partition("==")[0] in _ALONE]
    rest = [r for r in requirements() if r not in alone]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    print("preparing the zoo's environment in", FOLDER, file=sys.stderr)
    subprocess.run([*pip, "--no-deps", *alone], check=True)
    subprocess.run([*pip, *rest], check=True)
    done.write_text(wanted)
    return python


__all__ = ["FOLDER", "ROOT", "declare_torchvision_operators", "prepare", "requirements"]
