"""Builds the wheel, installs it in a fresh environment, and uses it as a reader of README would.

Run as ``python -m tools.ci.check_wheel`` from the project's environment. Nothing of the checkout
is on the path of what is run, except the tests, which run against the installed packages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from time import perf_counter

from tools.ci.check_files import tracked_files
from tools.ci.readme import examples

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("compiler", "schedules", "targets")
#: Tests that need nothing from the checkout but themselves.
TESTS = ("tests/unit/targets", "tests/unit/package", "tests/unit/cli")


def run(*command: str | Path, cwd: Path, path: Path | None = None, quiet: bool = False) -> None:
    """Run a command, show it, and end the program if it fails.

    Args:
        command: The program and its arguments.
        cwd: The folder to run it in.
        path: A folder to look for programs in first.
        quiet: Show its output only if it fails.
    """
    print(f"+ {' '.join(str(c) for c in command)[:160]}", flush=True)
    # What points at the checkout or its environment must not leak into the fresh one.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    start = perf_counter()
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode != 0:
        print(done.stdout or "", flush=True)
        raise SystemExit(f"error: it ended with exit code {done.returncode}")
    print(f"  {perf_counter() - start:.1f} s", flush=True)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from the files that git knows, without what lies about in the checkout."""
    source = folder / "source"
    for path in tracked_files(ROOT):
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    pip = (sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps")
    run(*pip, "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds our packages with all their data, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    if tops != set(PACKAGES):
        raise SystemExit(f"the wheel's top-level names are {sorted(tops)}, not {sorted(PACKAGES)}")
    tracked = (str(p.relative_to(ROOT)) for p in tracked_files(ROOT))
    wanted = {name for name in tracked if name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    missing = sorted(wanted - set(names))
    if missing:
        raise SystemExit(f"the wheel lacks {', '.join(missing)}")
    if not any(n.endswith(".dist-info/licenses/LICENSE") for n in names):
        raise SystemExit("the wheel lacks the licence")
    print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB, contents are complete")


def run_readme(python: Path, folder: Path) -> None:
    """Run README's marked examples with the installed wheel, in an empty folder."""
    folder.mkdir()
    for example in examples(ROOT / "README.md"):
        if example.action == "save":
            (folder / example.name).write_text(example.body, encoding="utf-8")
            continue
        how = ("bash", "-euo", "pipefail") if example.language == "bash" else (python,)
        run(*how, "-c", example.body, cwd=folder, path=python.parent, quiet=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in and keep")
    keep: Path | None = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="tilewright-wheel-") as temporary:
        folder = (keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(folder)
        check_contents(wheel)
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv/bin"
        python = programs / "python"
        run(python, "-m", "pip", "install", "-qq", wheel, "pytest", "hypothesis", cwd=folder)
        where = "; ".join(
            f"import {p}; assert 'site-packages' in {p}.__file__, {p}.__file__" for p in PACKAGES
        )
        run(python, "-I", "-c", where, cwd=folder)
        run_readme(python, folder / "readme")
        pytest = (programs / "pytest", "-q", "-o", "pythonpath=", "-p", "no:cacheprovider")
        tests = [t for t in TESTS if (ROOT / t).is_dir()]
        run(*pytest, "-m", "not slow and not zoo", *tests, cwd=ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
