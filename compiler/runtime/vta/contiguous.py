"""Physically contiguous memory under Linux: u-dma-buf, or the CMA library of PYNQ images.

u-dma-buf is a kernel module: ``/dev/NAME`` maps the memory, ``/sys/class/u-dma-buf/NAME`` (of
older releases ``/sys/class/udmabuf/NAME``) has its address and size and synchronizes the CPU's
caches. PYNQ's ``libcma.so`` does the same by function calls.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compiler.errors import DeviceError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_CLASSES = ("u-dma-buf", "udmabuf")
_TO_DEVICE, _FROM_DEVICE = 1, 2


class Contiguous(Protocol):
    """One contiguous piece of memory that CPU and hardware share.

    Attributes:
        address: Physical, of its first byte.
        data: It, as the CPU sees it.
    """

    address: int
    data: Bytes

    def flush(self, offset: int, size: int) -> None:
        """Write the CPU's caches back."""

    def invalidate(self, offset: int, size: int) -> None:
        """Drop what the CPU's caches hold of it."""

    def close(self) -> None:
        """Unmap it."""


class DmaBuffer:
    """The whole of one u-dma-buf device.

    Args:
        name: Of the device, such as ``udmabuf0``.
        devices: Where the device's file is.
        classes: Where the kernel's classes are.

    Raises:
        DeviceError: There is no such device, or it cannot be mapped.
    """

    def __init__(
        self,
        name: str,
        devices: Path = Path("/dev"),
        classes: Path = Path("/sys/class"),
    ) -> None:
        self.name = name
        found = [classes / kind / name for kind in _CLASSES if (classes / kind / name).is_dir()]
        if not found:
            raise DeviceError(
                f"there is no contiguous memory {name!r}",
                where=str(classes / _CLASSES[0]),
                hint="load the kernel module: modprobe u-dma-buf udmabuf0=67108864",
            )
        self._folder = found[0]
        self.address = self._number("phys_addr")
        size = self._number("size")
        try:
            file = os.open(devices / name, os.O_RDWR)
            try:
                self._map = mmap.mmap(file, size)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"contiguous memory {name!r} cannot be mapped: {error}",
                where=str(devices / name),
                hint="run as root, or give the device's file to your group",
            ) from error
        self.data = np.frombuffer(self._map, np.uint8)
        coherent = self._folder / "dma_coherent"
        self._coherent = coherent.is_file() and self._number("dma_coherent") == 1

    def flush(self, offset: int, size: int) -> None:
        """Write the CPU's caches back."""
        self._sync("sync_for_device", offset, size, _TO_DEVICE)

    def invalidate(self, offset: int, size: int) -> None:
        """Drop what the CPU's caches hold of it."""
        self._sync("sync_for_cpu", offset, size, _FROM_DEVICE)

    def close(self) -> None:
        """Unmap it."""
        self.data = np.empty(0, np.uint8)
        self._map.close()

    def _sync(self, action: str, offset: int, size: int, direction: int) -> None:
        if self._coherent:
            return
        values = {"sync_offset": offset, "sync_size": size, "sync_direction": direction}
        try:
            for name, value in {**values, action: 1}.items():
                (self._folder / name).write_text(f"{value}\n")
        except OSError as error:
            raise DeviceError(
                f"the caches cannot be synchronized: {error}",
                where=str(self._folder),
                hint="run as root",
            ) from error

    def _number(self, name: str) -> int:
        try:
            text = (self._folder / name).read_text().strip()
            return int(text, 0)
        except (OSError, ValueError) as error:
            raise DeviceError(
                f"it does not say its {name}: {error}", where=str(self._folder / name)
            ) from error


class CmaBuffer:
    """A piece of memory from PYNQ's CMA library.

    Args:
        size: Bytes.
        library: The library, or its path.

    Raises:
        DeviceError: There is no such library, or not so much memory.
    """

    def __init__(self, size: int, library: Any = "libcma.so") -> None:
        if isinstance(library, str):
            try:
                library = ctypes.CDLL(library)
            except OSError as error:
                raise DeviceError(
                    f"the library of contiguous memory cannot be loaded: {error}",
                    where="CMA",
                    hint="it comes with PYNQ images; elsewhere use u-dma-buf",
                ) from error
            library.cma_alloc.restype = ctypes.c_void_p
            library.cma_alloc.argtypes = [ctypes.c_size_t, ctypes.c_int]
            library.cma_get_phy_addr.restype = ctypes.c_uint32
            library.cma_get_phy_addr.argtypes = [ctypes.c_void_p]
            library.cma_free.argtypes = [ctypes.c_void_p]
            for name in ("cma_flush_cache", "cma_invalidate_cache"):
                getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
        self._library = library
        self._pointer = library.cma_alloc(size, 1)
        if not self._pointer or self._pointer == ctypes.c_void_p(-1).value:
            raise DeviceError(
                f"there are no {size} bytes of contiguous memory",
                where="CMA",
                hint="give the kernel more (cma=128M on its command line), or free some",
            )
        self.address = int(library.cma_get_phy_addr(self._pointer))
        block = (ctypes.c_uint8 * size).from_address(self._pointer)
        self.data = np.ctypeslib.as_array(block)

    def flush(self, offset: int, size: int) -> None:
        """Write the CPU's caches back."""
        self._library.cma_flush_cache(self._pointer + offset, self.address + offset, size)

    def invalidate(self, offset: int, size: int) -> None:
        """Drop what the CPU's caches hold of it."""
        self._library.cma_invalidate_cache(self._pointer + offset, self.address + offset, size)

    def close(self) -> None:
        """Give it back."""
        self.data = np.empty(0, np.uint8)
        self._library.cma_free(self._pointer)


__all__ = ["CmaBuffer", "Contiguous", "DmaBuffer"]
