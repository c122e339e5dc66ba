"""Times on a processor with AMX: the tile unit's peak, and kernels."""

from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
from pathlib import Path
from time import perf_counter

import numpy as np

from compiler.native import AMX_PERMISSION_SOURCE, check_amx
from schedules.cpu.templates.amx import Amx
from schedules.tvm_adapter import tvm
from targets import TargetSpec
from tools.amx.kernels import Kernel

SOURCE = Path(__file__).parent / "peak.c"
#: Operations of one multiplication of full tiles: 16 x 16 sums of 64 or 32 products.
OPERATIONS = {False: 2 * 16 * 16 * 64, True: 2 * 16 * 16 * 32}


def build_peak(folder: Path) -> ctypes.CDLL:
    """The library that times tiles; it asks for the permission when it is loaded.

    Raises:
        TargetError: The system does not let this process use tiles.
    """
    compiler = shutil.which("gcc") or shutil.which("clang") or "cc"
    library = folder / "peak.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, AMX_PERMISSION_SOURCE],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    check_amx(library, "the measurement of the peak")
    loaded.tilewright_amx_peak.restype = ctypes.c_double
    loaded.tilewright_amx_peak.argtypes = [ctypes.c_int, ctypes.c_long]
    return loaded


def peak_ops_per_s(library: ctypes.CDLL, *, bf16: bool, rounds: int = 2_000_000) -> float:
    """Operations per second of tiles in registers: the best of five runs."""
    seconds = min(library.tilewright_amx_peak(int(bf16), rounds) for _ in range(5))
    return 4.0 * rounds * OPERATIONS[bf16] / seconds


def kernel_seconds(kernel: Kernel, spec: TargetSpec, *, repeat: int = 51) -> float:
    """Median seconds of a kernel on random data; after ten runs that are not counted."""
    rng = np.random.default_rng(0)
    workload = kernel.workload

    def draw(shape: tuple[int | str, ...], dtype: str) -> np.ndarray:
        values = rng.integers(0, 3, [int(v) for v in shape])
        if dtype == "bfloat16":
            import ml_dtypes

            return values.astype(ml_dtypes.bfloat16)
        return values.astype(dtype)

    data = draw(workload.data, workload.dtypes[0])
    weight = draw(workload.weight, workload.dtypes[1])
    (packed,) = Amx().pack(workload, kernel.choice, spec, weight)
    out = tvm.runtime.empty([int(v) for v in workload.output], workload.dtypes[2])
    arguments = (tvm.runtime.tensor(data), tvm.runtime.tensor(packed), out)
    main = kernel.library["main"]
    seconds = []
    for _ in range(10 + repeat):
        start = perf_counter()
        main(*arguments)
        seconds.append(perf_counter() - start)
    return statistics.median(seconds[10:])
