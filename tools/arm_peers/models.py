"""The networks in each peer's own format, with the seeded weights that our own modules have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.arm_peers.environments import CACHE, ROOT, SetupError, host_python
from tools.bench import environments as bench
from tools.bench.protocol import ContenderError

MODELS = CACHE / "models"
_SECONDS = 1800


def model(peer: str, net: str, precision: str) -> str:
    """What the peer's program on the emulated core is given, made if it is not there.

    Raises:
        SetupError: The network cannot be exported or converted.
    """
    if peer == "ncnn":
        kind = "" if precision == "float32" else ".int8"
        path = MODELS / f"{net}{kind}.ncnn"
        made = Path(f"{path}.bin")
    else:
        ending = {"mnn": "mnn", "litert": "tflite"}[peer]
        kind = "" if precision == "float32" else ".int8"
        made = path = MODELS / f"{net}{kind}.{ending}"
    if not made.exists():
        _export(net)
        _convert(peer, net)
    if not made.exists():
        raise SetupError(f"{peer} did not write {made.name}")
    return str(path)


def _export(net: str) -> None:
    if (MODELS / f"{net}.onnx").exists():
        return
    MODELS.mkdir(parents=True, exist_ok=True)
    try:
        python = bench.ensure("export")
    except ContenderError as error:
        raise SetupError(str(error)) from error
    _call([str(python), "-m", "tools.arm_peers.convert.export", net, str(MODELS)])


def _convert(peer: str, net: str) -> None:
    python = host_python(peer)
    stem = MODELS / net
    convert = [str(python), "-m"]
    if peer == "ncnn":
        # The converter itself; the command of its package needs PyTorch.
        program = next(python.parents[1].glob("lib/python*/site-packages/pnnx/pnnx"))
        _call([str(program), f"{stem}.pt", "inputshape=[1,3,224,224]", "fp16=0"])
        _call([*convert, "tools.arm_peers.convert.ncnn_int8", f"{stem}.ncnn", f"{stem}.int8.ncnn"])
    elif peer == "mnn":
        _call([*convert, "tools.arm_peers.convert.mnn", f"{stem}.onnx", f"{stem}.mnn",
               f"{stem}.int8.mnn"])  # fmt: skip
    else:
        _call([*convert, "tools.arm_peers.convert.tflite", f"{stem}.onnx", f"{stem}.tflite",
               f"{stem}.int8.tflite"])  # fmt: skip


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{Path(command[0]).name} failed: {error}") from error
    if done.returncode:
        tail = " ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        what = command[2] if command[1] == "-m" else Path(command[0]).name
        raise SetupError(f"{what} failed: {tail[-400:]}")


__all__ = ["MODELS", "model"]
