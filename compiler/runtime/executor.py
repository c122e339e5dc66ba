"""Load a shared object and run the model in it."""

from __future__ import annotations

import bisect
import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from compiler.errors import BundleError, InputError
from compiler.native import check_amx
from compiler.runtime import tensors
from compiler.runtime.check import bind, check_inputs, is_torch
from compiler.runtime.prepare import load_parameters
from compiler.runtime.threads import check_threads, use_threads
from compiler.stages import Prepared, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.runtime.vta.offloaded import VtaPrograms


class Executor:
    """A compiled model, ready to run on this machine's CPU.

    Inputs may be numpy arrays or CPU torch tensors. If any of them is a torch tensor the
    outputs are torch tensors, otherwise numpy arrays. Memory is shared both ways through
    DLPack: a contiguous, 64-byte aligned and writable input is read where it lies, and an
    output is never written again by a later call. Calls from several threads are safe; they
    run one after the other.

    Args:
        library: Path of the shared object.
        inputs: What the model takes, in order.
        outputs: What it gives, in order.
        parameters: The tensors that `main` takes after the inputs, in order, or what those in
            `prepared` are made of.
        prepared: Parameters that are made here, once, by functions of the shared object.
        name: The model's name, for messages.
        threads: Threads that the compiled code may use.
        programs: The VTA programs that it calls; None for code that calls none.

    Raises:
        BundleError: The shared object cannot be loaded or is no compiled model, or a parameter
            cannot be prepared.
        InputError: `threads` cannot be had on this machine.
        TargetError: The model uses AMX, and this process may not.
    """

    def __init__(
        self,
        library: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        parameters: Mapping[str, npt.NDArray[np.generic]],
        prepared: Sequence[Prepared] = (),
        *,
        name: str = "model",
        threads: int = 1,
        programs: VtaPrograms | None = None,
    ) -> None:
        self.programs = programs
        if programs is not None:
            programs.register()  # the machine looks the functions up when it is made
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.threads = check_threads(threads)
        self.library = library
        self._lock = threading.RLock()
        code, self._vm = _load(library, name)
        self._main = self._vm["main"]
        if prepared:
            use_threads(self.threads)
        self._parameters = load_parameters(code, parameters, prepared, name)
        # Addresses that an output must not share: the parameters' and our input buffers'.
        self._own = _Extents([tensors.extent(p) for p in self._parameters])
        self._staging: dict[tuple[int, tuple[int, ...]], npt.NDArray[np.generic]] = {}

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self.inputs))
        gives = ", ".join(map(str, self.outputs))
        return f"Executor({self.name!r}: {takes} -> {gives}; threads={self.threads})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `run`."""
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One inference.

        Args:
            *args: Inputs in the model's order.
            **kwargs: Inputs by name.

        Returns:
            The output, or a tuple of them if the model has more than one.

        Raises:
            InputError: Number, names, shapes or dtypes do not fit.
        """
        values = bind(self.inputs, args, kwargs, "run")
        check_inputs(self.inputs, values)
        as_torch = any(map(is_torch, values))
        with self._lock, self.offloading():
            use_threads(self.threads)
            given = self._convert(values)
            results = self._results(self._main(*given, *self._parameters), given)
        if as_torch:
            converted = tuple(tensors.tvm_to_torch(tensor) for tensor in results)
        else:
            converted = tuple(tensors.tvm_to_numpy(tensor) for tensor in results)
        return converted[0] if len(converted) == 1 else converted

    def time(self, inputs: Sequence[Any], *, warmup: int, repeat: int) -> tuple[float, ...]:
        """Time whole inferences, without the conversion of inputs and outputs.

        Args:
            inputs: Arrays for one inference, in the model's order.
            warmup: Inferences that are not counted.
            repeat: Inferences that are.

        Returns:
            Seconds of each of the `repeat` inferences.

        Raises:
            InputError: The inputs do not fit, or a count makes no sense.
        """
        for what, value, least in (("warmup", warmup, 0), ("repeat", repeat, 1)):
            if value < least:
                raise InputError(f"{what} is {value}", where="time", hint=f"give at least {least}")
        values = bind(self.inputs, tuple(inputs), {}, "time")
        check_inputs(self.inputs, values, where="time")
        with self._lock, self.offloading(), _collector_off():
            use_threads(self.threads)
            arguments = (*self._convert(values), *self._parameters)
            main, seconds = self._main, []
            for _ in range(warmup):
                main(*arguments)
            for _ in range(repeat):
                start = perf_counter()
                result = main(*arguments)
                seconds.append(perf_counter() - start)
                del result  # its storage goes back to the pool outside the timed part
        return tuple(seconds)

    def offloading(self, *, dry: bool = False) -> AbstractContextManager[None]:
        """Where calls of VTA programs find this model's; nothing for a model without any.

        Args:
            dry: Pack and copy, but run no program; see `VtaPrograms.active`.
        """
        return nullcontext() if self.programs is None else self.programs.active(dry=dry)

    @contextmanager
    def instrument(self, callback: Callable[..., Any]) -> Iterator[None]:
        """Have the virtual machine call back before and after each call it makes.

        Args:
            callback: Called as ``callback(function, symbol, before, result, *arguments)``,
                where `result` is None before the call. What it returns is ignored.
        """
        from schedules.tvm_adapter import convert_to_packed

        def forward(*args: Any) -> int:
            callback(*args)
            return 0  # the virtual machine goes on as if nobody had looked

        with self._lock:
            self._vm.set_instrument(convert_to_packed(forward))
            try:
                yield
            finally:
                self._vm.set_instrument(None)

    def _convert(self, values: Sequence[Any]) -> tuple[Any, ...]:
        converted = []
        for i, value in enumerate(values):
            if is_torch(value):
                converted.append(tensors.torch_to_tvm(value)[0])
            else:
                converted.append(self._from_numpy(i, value))
        return tuple(converted)

    def _from_numpy(self, index: int, value: Any) -> Any:
        import numpy as np

        array = np.asarray(value)
        if tensors.is_ready(array) or array.dtype.name == "bfloat16":
            return tensors.numpy_to_tvm(array)[0]
        # One buffer for each input and shape, kept: a fresh one costs page faults every call.
        key = (index, array.shape)
        if key not in self._staging:
            if sum(k[0] == index for k in self._staging) >= _STAGED_SHAPES:
                self._staging.clear()
            self._staging[key] = tensors.aligned_empty(array.shape, array.dtype)
        return tensors.numpy_to_tvm(array, self._staging[key])[0]

    def _results(self, result: Any, given: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs as a tuple, none of which shares memory that is written again.

        A model that returns an input or a parameter as it is (or reshaped) makes the virtual
        machine give back that very buffer; the caller gets a copy instead.
        """
        found = (result,) if hasattr(result, "data_ptr") else tuple(result)
        if len(found) != len(self.outputs):
            raise BundleError(
                f"the compiled code gave {len(found)} outputs, not {len(self.outputs)}",
                where=self.name,
                hint="compile the model again",
            )
        inputs = _Extents([tensors.extent(tensor) for tensor in given])
        return tuple(
            _copy(tensor) if self._own.overlap(tensor) or inputs.overlap(tensor) else tensor
            for tensor in found
        )


_STAGED_SHAPES = 4


class _Extents:
    """A set of addresses, as ranges that do not overlap one another."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for r in sorted((r for r in ranges if r), key=lambda r: r.start):
            if self._stops and r.start <= self._stops[-1]:
                self._stops[-1] = max(self._stops[-1], r.stop)
            else:
                self._starts.append(r.start)
                self._stops.append(r.stop)

    def overlap(self, tensor: Any) -> bool:
        """Whether the tensor's memory touches one of the ranges."""
        wanted = tensors.extent(tensor)
        at = bisect.bisect_left(self._starts, wanted.stop)
        return bool(wanted) and at > 0 and self._stops[at - 1] > wanted.start


def _copy(tensor: Any) -> Any:
    from schedules.tvm_adapter import tvm

    return tensor.copyto(tvm.cpu())


def _load(library: Path, name: str) -> tuple[Any, Any]:
    """A shared object, and the virtual machine over it."""
    if not library.is_file():
        raise BundleError(
            f"there is no shared object at {library}",
            where=name,
            hint="load the bundle again: its temporary files may have been removed",
        )
    from schedules.tvm_adapter import relax, tvm

    try:
        module = tvm.runtime.load_module(str(library))
        check_amx(library, name)
        return module, relax.VirtualMachine(module, tvm.cpu())
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        raise BundleError(
            f"the shared object cannot be loaded: {str(error).strip().splitlines()[-1]}",
            where=name,
            hint="compile the model again; if the temporary folder is mounted noexec, "
            "set TMPDIR to one that is not",
        ) from error


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep Python's garbage collector out of a measurement."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


__all__ = ["Executor"]
