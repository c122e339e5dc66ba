"""Time every kernel of a compiled model, and follow its buffers.

The virtual machine's instrument is called from C++ before and after each call, with all the
arguments turned into Python objects: several microseconds each, more than many kernels take.
So it is used once only, to record which kernels run, in which order, on which buffers. The
recorded calls are then replayed in that order on those same buffers, which keeps the caches
as warm as in a real run, with nothing between two kernels but a clock. What an empty call
costs is measured too and taken off.

Whole runs and replays take turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any, Protocol

_BUILTIN = "vm.builtin."
_BLOCKS = 6
_LEAST_RUNS = 3
_SLOW_S = 0.2


class Runner(Protocol):
    """What profiling needs of `compiler.runtime.Executor`."""

    def run(self, *inputs: Any) -> Any:
        """One inference."""

    def time(self, inputs: Sequence[Any], *, warmup: int, repeat: int) -> Sequence[float]:
        """Seconds of each of `repeat` inferences after `warmup` that are not counted."""

    def instrument(self, callback: Callable[..., Any]) -> Any:
        """A context in which the virtual machine calls `callback` around each call."""


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel call of the recorded run: its symbol, the function and its arguments."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """What one instrumented run did.

    Attributes:
        calls: Kernel calls in order.
        allocated_bytes: Sum of the storage that it asked the allocator for.
        live_bytes: Bytes of activation buffers alive during each call, in the order of `calls`.
    """

    calls: tuple[Call, ...]
    allocated_bytes: int
    live_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of whole runs and of every kernel call.

    Attributes:
        run_ms: Milliseconds of each whole run, warm.
        warmup: Runs before the first that counts; the recorded one is not among them.
        call_names: Symbol of each kernel call of one run, in order.
        call_ms: Median milliseconds of each, in the same order, the clock's cost taken off.
        replay_ms: All calls of each replay together, milliseconds, the clock's cost taken off.
        overhead_us: What was taken off a call, microseconds; the median over arities.
        allocated_bytes: As in `Recording`.
        live_bytes: As in `Recording`.
    """

    run_ms: tuple[float, ...]
    warmup: int
    call_names: tuple[str, ...]
    call_ms: tuple[float, ...]
    replay_ms: tuple[float, ...]
    overhead_us: float
    allocated_bytes: int
    live_bytes: tuple[int, ...]


class _Recorder:
    """The instrument: keeps kernel calls, and each buffer's first and last use."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.allocated_bytes = 0
        self._stack: list[bool] = []  # for each open call: whether another ran inside it
        self._buffers: dict[int, _Buffer] = {}  # the buffer now at each address
        self._all: list[_Buffer] = []

    def __call__(self, function: Any, name: str, before: bool, result: Any, *args: Any) -> None:
        if before:
            if self._stack:
                self._stack[-1] = True
            self._stack.append(False)
            return
        was_outer = self._stack.pop()
        if name == _BUILTIN + "alloc_storage":
            self.allocated_bytes += _storage_bytes(args)
        elif name == _BUILTIN + "alloc_tensor":
            address, size = _extent(result)
            self._buffers[address] = _Buffer(size)
            self._all.append(self._buffers[address])
        elif not name.startswith(_BUILTIN) and not was_outer:
            # A Relax function that calls others is no kernel: its callees are counted instead.
            self._use(args)
            self.calls.append(Call(str(name), function, args))

    def _use(self, args: Sequence[Any]) -> None:
        step = len(self.calls)
        for arg in args:
            buffer = self._buffers.get(_address(arg))
            if buffer is not None:
                buffer.first = step if buffer.first is None else buffer.first
                buffer.last = step

    def finish(self, outputs: Any) -> Recording:
        for array in outputs if isinstance(outputs, list | tuple) else (outputs,):
            buffer = self._buffers.get(_address(array))
            if buffer is not None and buffer.first is not None:
                buffer.last = len(self.calls) - 1
        live = [0] * len(self.calls)
        for buffer in self._all:
            if buffer.first is not None:
                for step in range(buffer.first, buffer.last + 1):
                    live[step] += buffer.size_bytes
        return Recording(tuple(self.calls), self.allocated_bytes, tuple(live))


@dataclass(slots=True)
class _Buffer:
    size_bytes: int
    first: int | None = None
    last: int = 0


def _address(value: Any) -> int:
    """Address of a TVM or torch tensor's or a numpy array's data; 0 for anything else."""
    if hasattr(value, "data_ptr"):
        return int(value.data_ptr())
    return int(value.ctypes.data) if hasattr(value, "ctypes") else 0


def _extent(tensor: Any) -> tuple[int, int]:
    """Address and bytes of a TVM tensor."""
    elements = 1
    for size in tensor.shape:
        elements *= int(size)
    dtype = tensor.dtype
    bits = int(dtype.bits) * int(dtype.lanes)
    return int(tensor.data_ptr()), elements * ((bits + 7) // 8)


def _storage_bytes(args: Sequence[Any]) -> int:
    """Bytes that a call of alloc_storage(context, shape, device, dtype, scope) asks for."""
    size = 1
    for extent in args[1]:
        size *= int(extent)
    return size * _dtype_bytes(str(args[3]))


def _dtype_bytes(name: str) -> int:
    digits = "".join(c for c in name if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1


def record(runner: Runner, inputs: Sequence[Any]) -> Recording:
    """Run once with the instrument on; see `Recording`.

    The calls keep their buffers alive, so that they can be replayed.
    """
    recorder = _Recorder()
    with runner.instrument(recorder):
        outputs = runner.run(*inputs)
    return recorder.finish(outputs)


def call_overhead_ns(arguments: Sequence[Any], repeat: int = 200) -> float:
    """Nanoseconds that the clock and an empty call with these arguments take, median.

    0 if this release of TVM's FFI has no empty function to call.
    """
    import tvm_ffi

    nop = tvm_ffi.get_global_func("testing.nop", allow_missing=True)
    if nop is None:
        return 0.0
    return median(_timed(nop, arguments) for _ in range(repeat))


def _timed(function: Callable[..., Any], arguments: Sequence[Any]) -> int:
    start = perf_counter_ns()
    function(*arguments)
    return perf_counter_ns() - start


def profile(
    runner: Runner, inputs: Sequence[Any], *, runs: int, warmup: int, budget_s: float
) -> Profile:
    """Time whole runs and, in turns with them, every kernel.

    Args:
        runner: The compiled model.
        inputs: Arrays for one inference.
        runs: Whole runs to time; as many replays are timed.
        warmup: Runs before the first that counts.
        budget_s: Seconds that it should take. A model too slow for that has fewer runs and
            warm-up runs, but at least `_LEAST_RUNS` (or `runs`) and one.
    """
    recording = record(runner, inputs)
    # An empty call costs more the more arguments it has.
    shapes = {len(call.arguments): call.arguments for call in recording.calls}
    overhead_ns = {count: call_overhead_ns(arguments) for count, arguments in shapes.items()}
    (first_s,) = runner.time(inputs, warmup=0, repeat=1)
    affordable = int(budget_s / (2 * first_s)) if first_s else runs
    runs = min(runs, max(_LEAST_RUNS, affordable))
    warmup = min(warmup, max(1, affordable // 4))
    if warmup > 1:
        runner.time(inputs, warmup=warmup - 2, repeat=1)
    run_s: list[float] = []
    replays: list[list[int]] = []
    for block in _blocks(runs):
        # The first run and replay of a block meet the other's caches and are not counted,
        # unless they are so long that the caches do not matter.
        cold = 1 if first_s < _SLOW_S else 0
        run_s.extend(runner.time(inputs, warmup=cold, repeat=block))
        replays.extend([_replay(recording.calls) for _ in range(cold + block)][cold:])
    clock_ns = sum(overhead_ns[len(call.arguments)] for call in recording.calls)
    call_ms = tuple(
        max(0.0, median(times) - overhead_ns[len(call.arguments)]) / 1e6
        for call, times in zip(recording.calls, zip(*replays, strict=True), strict=True)
    )
    return Profile(
        run_ms=tuple(seconds * 1e3 for seconds in run_s),
        warmup=warmup,
        call_names=tuple(call.name for call in recording.calls),
        call_ms=call_ms,
        replay_ms=tuple((sum(times) - clock_ns) / 1e6 for times in replays),
        overhead_us=median(overhead_ns.values()) / 1e3 if overhead_ns else 0.0,
        allocated_bytes=recording.allocated_bytes,
        live_bytes=recording.live_bytes,
    )


def _replay(calls: Sequence[Call]) -> list[int]:
    clock = perf_counter_ns
    times: list[int] = []
    for call in calls:
        function, arguments = call.function, call.arguments
        start = clock()
        function(*arguments)
        times.append(clock() - start)
    return times


def _blocks(runs: int) -> Iterator[int]:
    """Split `runs` into up to `_BLOCKS` nearly equal, positive blocks."""
    count = max(1, min(_BLOCKS, runs // 2))
    for i in range(count):
        yield runs * (i + 1) // count - runs * i // count


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    import gc

    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
