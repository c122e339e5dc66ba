"""The programs of a model behind the functions that its compiled code calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import DeviceError
from compiler.runtime.vta.driver import Driver
from compiler.runtime.vta.session import Session
from compiler.runtime.vta.simulated import SimulatedDriver
from compiler.stages import VTA_FUNCTION, VtaPart, VtaRegion, VtaTensor
from schedules.vta.layers import Tensor
from schedules.vta.packing import pack_tensor, unpack_tensor
from targets.vta.relocate import alignment

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

_HERE = threading.local()
_registered = 0
_LOCK = threading.Lock()


class VtaPrograms:
    """A model's VTA programs on one device.

    Args:
        part: The programs.
        driver: The device; by default a simulator.
        timeout_s: After which a program counts as hanging, seconds.

    Raises:
        ProgramError: They were made for another configuration than the device's.
    """

    def __init__(
        self, part: VtaPart, driver: Driver | None = None, timeout_s: float = 10.0
    ) -> None:
        if driver is None:
            step = alignment(part.config)
            wanted = sum(r.program.dram_bytes + step for r in part.regions)
            driver = SimulatedDriver(part.config, memory_bytes=wanted + (1 << 17))
        self.part, self.driver = part, driver
        self._timeout_s = timeout_s
        self._sessions: dict[int, Session] = {}
        self._kept: dict[int, list[dict[str, Array]]] = {}
        self._cycles: dict[int, int | None] = {}
        self._dry = False
        self._errors: list[BaseException] = []
        for region in part.regions:
            _require(region, driver)

    def register(self) -> None:
        """Make the functions that the compiled code calls; it is loaded after that."""
        global _registered  # noqa: PLW0603 - TVM's table of functions is the process's
        from schedules.tvm_adapter import register_function

        with _LOCK:
            while _registered < len(self.part.regions):
                register_function(f"{VTA_FUNCTION}{_registered}", _dispatch(_registered))
                _registered += 1

    @contextmanager
    def active(self, *, dry: bool = False) -> Iterator[None]:
        """The calls of compiled code in this thread come here.

        Args:
            dry: Pack, copy and unpack, but do not run programs: the results are those of the
                run before. So the host's share of the time can be measured.

        Raises:
            DeviceError: What a program ended with.
        """
        before = getattr(_HERE, "programs", None)
        was_dry, self._dry = self._dry, dry or self._dry
        _HERE.programs = self
        self._errors.clear()
        try:
            yield
        except Exception as error:
            # On its way through the compiled code an error of ours loses its type.
            if self._errors and self._errors[0] is not error:
                raise self._errors[0] from None
            raise
        finally:
            _HERE.programs = before
            self._dry = was_dry

    def cycles(self) -> tuple[int | None, ...]:
        """Cycles of the last run of each region, all its images; None where nobody counts."""
        return tuple(self._cycles.get(i) for i in range(len(self.part.regions)))

    def call(self, number: int, *tensors: Any) -> None:
        """Run a region: its inputs, then its outputs, which are written."""
        try:
            self._call(number, [np.from_dlpack(t) for t in tensors])
        except BaseException as error:
            self._errors.append(error)
            raise

    def close(self) -> None:
        """Give the device's memory back."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self.driver.close()

    def _call(self, number: int, arrays: list[Array]) -> None:
        region = self.part.regions[number]
        given = arrays[: len(region.inputs)]
        wanted = arrays[len(region.inputs) :]
        kept = self._kept.get(number)
        fresh: list[dict[str, Array]] = []
        cycles: int | None = 0
        session = self._session(number)
        for image in range(region.batch):
            packed = {
                t.name: _pack(array, image, t, region)
                for t, array in zip(region.inputs, given, strict=True)
            }
            if self._dry and kept is not None:
                results = kept[image]
            else:
                results = session.run(packed)
                spent = session.cycles()
                cycles = None if cycles is None or spent is None else cycles + spent
            fresh.append(results)
            for t, array in zip(region.outputs, wanted, strict=True):
                _unpack(results[t.name], image, t, region, array)
        if not self._dry or kept is None:
            self._cycles[number] = cycles
        self._kept[number] = fresh

    def _session(self, number: int) -> Session:
        if number not in self._sessions:
            program = self.part.regions[number].program
            self._sessions[number] = Session(self.driver, program, self._timeout_s)
        return self._sessions[number]


def _require(region: VtaRegion, driver: Driver) -> None:
    from targets.vta.program import require_config

    require_config(region.program.config, driver.config, where=driver.name)


def _dispatch(number: int) -> Any:
    def run(*tensors: Any) -> None:
        programs: VtaPrograms | None = getattr(_HERE, "programs", None)
        if programs is None:
            raise DeviceError(
                "compiled code called a VTA program outside of a bundle",
                where=f"{VTA_FUNCTION}{number}",
                hint="run the model through Bundle or Executor",
            )
        programs.call(number, *tensors)

    return run


def _pack(array: Array, image: int, tensor: VtaTensor, region: VtaRegion) -> Array:
    """One image of an array of the host, as VTA reads it."""
    data = array.reshape(region.batch, -1)[image]
    if tensor.rows:
        rows = tensor.height * tensor.width
        data = np.ascontiguousarray(data.reshape(rows, tensor.channels).T)
    return pack_tensor(data, _plain(tensor), region.program.config)


def _unpack(packed: Array, image: int, tensor: VtaTensor, region: VtaRegion, array: Array) -> None:
    data = unpack_tensor(packed, _plain(tensor), region.program.config)
    if tensor.rows:
        data = data.reshape(tensor.channels, -1).T
    array.reshape(region.batch, -1)[image] = data.reshape(-1)


def _plain(tensor: VtaTensor) -> Tensor:
    return Tensor(tensor.name, tensor.channels, tensor.height, tensor.width)


__all__ = ["VtaPrograms"]
