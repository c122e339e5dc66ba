"""Two quick measurements of this machine that no file of the system gives.

Virtual machines report the clock of the time stamp counter, which can be a third below what
the core runs at, and nothing reports the bandwidth that one core reaches. Both take tens of
milliseconds; where a measurement is not possible the answer is None and the caller says so.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from time import perf_counter

#: ``add rax, rcx`` 32 times, ``dec rdi``, ``jnz`` to the start, ``ret``. Each addition of two
#: registers waits for the one before, one cycle on every x86; the loop's own two instructions
#: run beside them. (Additions of constants would not do: recent cores fold them away.)
_ADDITIONS = 32
_BODY = b"\x48\x01\xc8" * _ADDITIONS + b"\x48\xff\xcf"
_CODE = _BODY + b"\x75" + bytes([256 - (len(_BODY) + 2)]) + b"\xc3"


def measure_x86_clock_hz(loops: int = 150_000, repeats: int = 20) -> float | None:
    """The clock that one core really runs at, from a chain of additions of one cycle each.

    Only to be called on a 64-bit x86. The best of several runs counts, since interruptions
    only ever make a run longer.

    Returns:
        Hertz, rounded to 10 MHz; None where the system allows no executable memory.
    """
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        memory.write(_CODE)
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        libc = ctypes.CDLL(None, use_errno=True)
        # Never writable and executable at once: hardened systems refuse that.
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 1 | 4) != 0:
            return None
    except (OSError, AttributeError, ValueError):
        return None
    run = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(address)
    best = min(_seconds(lambda: run(loops)) for _ in range(repeats))
    return round(loops * _ADDITIONS / best / 1e7) * 1e7


def measure_copy_bandwidth(buffer_bytes: int, repeats: int = 4) -> float | None:
    """Bytes per second that one core moves when it copies a buffer, reads and writes counted.

    Args:
        buffer_bytes: Size of the buffer; larger than the last-level cache.
        repeats: The best of so many copies counts.

    Returns:
        Bytes per second, rounded to 0.1 GB/s; None where there is too little memory.
    """
    try:
        # Not zeros: pages of zeros are one page of memory, read from the cache.
        source = memoryview(bytearray(b"\x01") * buffer_bytes)
        copy = memoryview(bytearray(buffer_bytes))
    except MemoryError:
        return None

    def once() -> None:
        copy[:] = source

    once()  # the first copy pays for the pages
    best = min(_seconds(once) for _ in range(repeats))
    return round(2 * buffer_bytes / best / 1e8) * 1e8


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
