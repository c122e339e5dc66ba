"""Small kernels that are right, wrong or dangerous, in place of `compiler.lower.tasks`.

Workers import this module by name. The kernel is ``y[i] = x[i] * w[i] + 1``; a choice names
what goes wrong with it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from compiler.lower.tasks import ArgumentSpec
from schedules.tvm_adapter import te, tirx

MODULE = "tests.unit.tune.measure.kernels"


@dataclass(frozen=True)
class Work:
    """As much of a workload as measuring looks at."""

    operator: str
    data: tuple[int, ...]
    weight: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """``n`` elements of a dtype; the reference itself can be made to fail."""

    n: int = 4096
    dtype: str = "float32"
    broken_reference: bool = False

    @property
    def workload(self):
        return Work("dense", (1, self.n), (self.n, 1))

    def to_json(self):
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text):
        return cls(**json.loads(text))


def arguments(task):
    return (
        ArgumentSpec("x", (task.n,), task.dtype, "data"),
        ArgumentSpec("w", (task.n,), task.dtype, "weight"),
        ArgumentSpec("y", (task.n,), task.dtype, "output"),
    )


def pack_arguments(task, choice, spec, arrays):
    x, w = arrays
    return [x, w.reshape(-1, 16)] if choice.get("packed") else [x, w]


def reference(task):
    if task.broken_reference:
        return _calling(task, "abort")
    return _multiply(task, lambda i, x, w: x[i] * w[i] + _one(task))


def build_candidate(task, choice, spec):
    return BUILDERS[choice["do"]](task, choice)


def _one(task):
    return tirx.const(1, task.dtype)


def _multiply(task, body, *, packed=False):
    x = te.placeholder((task.n,), task.dtype, name="x")
    w = te.placeholder((task.n // 16, 16) if packed else (task.n,), task.dtype, name="w")
    y = te.compute((task.n,), lambda i: body(i, x, w), name="y")
    return te.create_prim_func([x, w, y]).with_attr("global_symbol", "main")


def _calling(task, name, *args):
    """A kernel that calls a C function and writes nothing."""
    x = te.placeholder((task.n,), task.dtype, name="x")
    w = te.placeholder((task.n,), task.dtype, name="w")
    y = te.extern(
        (task.n,),
        [x, w],
        lambda _ins, _outs: tirx.call_extern("int32", name, *args),
        dtype=task.dtype,
        name="y",
    )
    return te.create_prim_func([x, w, y]).with_attr("global_symbol", "main")


def _right(task, choice):
    packed = bool(choice.get("packed"))
    return _multiply(
        task,
        lambda i, x, w: x[i] * (w[i // 16, i % 16] if packed else w[i]) + _one(task),
        packed=packed,
    )


def _wrong(task, choice):
    """Right but for one element in the middle."""
    one = _one(task)
    return _multiply(
        task,
        lambda i, x, w: x[i] * w[i] + tirx.Select(i == task.n // 2, one + one, one),
    )


def _overrun(task, choice):
    """Right, and then some: it also writes behind the end of its output."""
    x = te.placeholder((task.n,), task.dtype, name="x")
    w = te.placeholder((task.n,), task.dtype, name="w")

    def body(ins, outs):
        i = tirx.Var("i", "int32")
        value = ins[0].vload([i]) * ins[1].vload([i]) + _one(task)
        write = tirx.For(i, 0, task.n, tirx.ForKind.SERIAL, outs[0].vstore([i], value))
        end = outs[0].access_ptr("w", offset=task.n)
        return tirx.SeqStmt([write, tirx.Evaluate(tirx.call_extern("int32", "memset", end, 7, 64))])

    y = te.extern((task.n,), [x, w], body, dtype=task.dtype, name="y")
    return te.create_prim_func([x, w, y]).with_attr("global_symbol", "main")


def _refuse(task, choice):
    raise ValueError("this choice cannot be built")


def _crash(task, choice):
    os.abort()


def _hang(task, choice):
    time.sleep(600)


def _hog(task, choice):
    return bytearray(64 << 30)


def _leave_files(task, choice):
    """Say where temporary files go, then hang with one of them open."""
    import tempfile

    handle, name = tempfile.mkstemp()
    os.write(handle, b"x" * 1000)
    Path(choice["tell"]).write_text(f"{os.getpid()} {os.getppid()} {name}")
    time.sleep(600)


def _full_disk(task, choice):
    raise OSError(28, "No space left on device")


BUILDERS = {
    "right": _right,
    "wrong": _wrong,
    "overrun": _overrun,
    "nothing": lambda task, choice: _calling(task, "getpid"),
    "slow": lambda task, choice: _slow(task),
    "abort": lambda task, choice: _calling(task, "abort"),
    "segfault": lambda task, choice: _calling(task, "raise", 11),
    "illegal": lambda task, choice: _calling(task, "raise", 4),
    "endless": lambda task, choice: _calling(task, "pause"),
    "refuse": _refuse,
    "crash the build": _crash,
    "hang the build": _hang,
    "hog memory": _hog,
    "leave files": _leave_files,
    "full disk": _full_disk,
}


def _slow(task):
    """Right, after 20 ms."""
    x = te.placeholder((task.n,), task.dtype, name="x")
    w = te.placeholder((task.n,), task.dtype, name="w")

    def body(ins, outs):
        i = tirx.Var("i", "int32")
        value = ins[0].vload([i]) * ins[1].vload([i]) + _one(task)
        write = tirx.For(i, 0, task.n, tirx.ForKind.SERIAL, outs[0].vstore([i], value))
        return tirx.SeqStmt([write, tirx.Evaluate(tirx.call_extern("int32", "usleep", 20_000))])

    y = te.extern((task.n,), [x, w], body, dtype=task.dtype, name="y")
    return te.create_prim_func([x, w, y]).with_attr("global_symbol", "main")
