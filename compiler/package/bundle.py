"""A compiled model as one object: run it, save it, let it test itself."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compiler.compress.plan import CompressionPlan
from compiler.errors import BundleError, FileError, InputError, PlanError, VerificationError
from compiler.package.archive import Contents, read_contents, write_zip
from compiler.package.atomic import PrivateFolder, file_error, write_file, write_folder
from compiler.package.host import check_host, check_library, toolchain
from compiler.package.manifest import (
    GOLDEN,
    LIBRARY,
    MANIFEST,
    PARAMETERS,
    PLAN,
    REPORT,
    Manifest,
    Member,
    Platform,
    dump_manifest,
)
from compiler.package.store import dump_tensors, load_tensors, match_tensors
from compiler.package.vta import dump_vta, load_vta
from compiler.runtime import Executor
from compiler.runtime.check import bind, check_inputs, is_torch
from compiler.runtime.tensors import aligned, torch_to_numpy
from compiler.runtime.threads import check_threads
from compiler.stages import Built, KernelInfo, ReportLike, StageRecord, TensorSpec, VtaPart
from targets.spec import TargetSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from compiler.runtime.vta.devices import Device
    from compiler.runtime.vta.offloaded import VtaPrograms

    Array = npt.NDArray[np.generic]

#: Largest difference from the golden outputs, relative to an output's largest magnitude.
GOLDEN_TOLERANCE = 1e-5
#: The same where the golden outputs are not the compiled model's own, by the precision.
REFERENCE_TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2, "int8": 1e-3}
)
#: Of a quantized model of which parts are in float: a last digit of theirs may turn a rounding.
MIXED_TOLERANCE = 5e-2


#: Name of a size in reports: of the parameters once the model is loaded.
PARAMETERS_IN_MEMORY = "parameters in memory"


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """Inputs and the outputs that the compiled model gave for them when it was made."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """How a self-test went.

    Attributes:
        max_abs_error: Largest absolute difference from the golden outputs.
        max_rel_error: Largest difference over the largest magnitude in that output.
        tolerance: What `max_rel_error` may be at most.
        outputs: How many outputs were compared.
        same_bits: Whether the outputs of a quantized model are the golden ones bit for bit;
            None for other models.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    outputs: int
    same_bits: bool | None = None


class Bundle:
    """A compiled model with all that is needed to run, test and judge it.

    Call it like the model: numpy or torch in, the same out. Make one with
    `compiler.compile` or `compiler.load`.

    Attributes:
        manifest: What it holds, for which machine, and how it was made.
        parameters: Its tensors by name; those that the manifest calls prepared are compact ones,
            of which the executor makes packed ones.
        golden: Inputs and outputs of the self-test.
        report: The latency report, None if nothing was measured.
        threads: Threads that it runs on.
        plan: What was quantized, and how; None if nothing was.
        vta: What runs on VTA; None if nothing does.
        device: The VTA that it runs on: the simulator (None), a board or a driver.
    """

    def __init__(
        self,
        manifest: Manifest,
        library: bytes,
        parameters: Mapping[str, Array],
        golden: GoldenPair | None,
        *,
        report: ReportLike | None = None,
        threads: int | None = None,
        plan: CompressionPlan | None = None,
        vta: VtaPart | None = None,
        device: Device = None,
    ) -> None:
        self.vta, self.device = vta, device
        self.manifest = manifest
        self.parameters = {name: aligned(array) for name, array in parameters.items()}
        self.report = report
        self.plan = plan
        self.threads = check_threads(manifest.threads if threads is None else threads)
        self._golden = golden
        self._library = library
        self._lock = threading.Lock()
        self._executor: Executor | None = None

    @classmethod
    def from_built(
        cls,
        built: Built,
        example_inputs: Sequence[Any],
        *,
        stages: Sequence[StageRecord] = (),
        threads: int = 1,
        reference: Sequence[Array] | None = None,
        precision: str = "float32",
        plan: CompressionPlan | None = None,
        target: TargetSpec | None = None,
    ) -> Bundle:
        """Package what the build stage gave, and record the golden pair by running it once.

        Args:
            built: The shared object and what belongs to it.
            example_inputs: Arrays that the model takes, numpy or torch; kept as golden inputs.
            stages: What the stages before did.
            threads: Threads that the model is to run on.
            reference: Outputs to take for golden ones instead, with a wider tolerance: for a
                target whose code this machine cannot run.
            precision: That it was compiled in.
            plan: What was quantized.
            target: The device compiled for, if it is more than the processor that runs the
                code.

        Raises:
            InputError: The example inputs do not fit, or `threads` cannot be had.
            BundleError: The shared object does not load.
        """
        check_inputs(built.inputs, example_inputs, where="example_inputs")
        try:
            library = built.library.read_bytes()
        except OSError as error:
            raise file_error(error, built.library, "read the shared object") from error
        manifest = Manifest(
            name=built.name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            inputs=built.inputs,
            outputs=built.outputs,
            parameters=tuple(
                TensorSpec(name, tuple(array.shape), array.dtype.name)
                for name, array in built.parameters.items()
            ),
            target=target or built.target,
            required_features=tuple(sorted(built.target.features)),
            platform=Platform.of(built.target),
            threads=threads,
            toolchain=toolchain(),
            planned_activation_bytes=built.planned_activation_bytes,
            golden_source="compiled" if reference is None else "reference",
            golden_tolerance=GOLDEN_TOLERANCE
            if reference is None
            else _reference_tolerance(precision, plan),
            precision=precision,
            kernels=built.kernels,
            stages=tuple(stages),
            prepared=built.prepared,
        )
        bundle = cls(manifest, library, built.parameters, None, plan=plan, vta=built.vta)
        inputs = tuple(map(_own_copy, example_inputs))
        outputs = bundle._outputs(inputs) if reference is None else tuple(reference)
        where = f"{built.name}: the outputs"
        specs = [replace(spec, name=f"{i}") for i, spec in enumerate(built.outputs)]
        match_tensors({f"{i}": array for i, array in enumerate(outputs)}, specs, where)
        bundle._golden = GoldenPair(inputs, outputs)
        if plan is not None:
            bundle.manifest = replace(manifest, golden_sha256=outputs_sha256(outputs))
        return bundle

    def _outputs(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        result = self.executor.run(*inputs)
        return result if isinstance(result, tuple) else (result,)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in order."""
        return self.manifest.outputs

    @property
    def target(self) -> TargetSpec:
        """The device that it was compiled for."""
        return self.manifest.target

    @property
    def kernels(self) -> tuple[KernelInfo, ...]:
        """Every generated function."""
        return self.manifest.kernels

    @property
    def golden(self) -> GoldenPair:
        """Inputs and outputs of the self-test."""
        if self._golden is None:  # only while `from_built` is at work
            raise VerificationError("the bundle has no golden pair yet", where=self.name)
        return self._golden

    @property
    def library(self) -> bytes:
        """The shared object."""
        return self._library

    @property
    def library_bytes(self) -> int:
        """Size of the shared object."""
        return len(self._library)

    @property
    def parameter_bytes(self) -> int:
        """Size of all parameters as they are kept."""
        return sum(array.nbytes for array in self.parameters.values())

    @property
    def loaded_parameter_bytes(self) -> int:
        """Size of the parameters of a loaded model, which takes packed ones for compact ones."""
        return self.manifest.loaded_parameter_bytes

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the parts of the model, for reports."""
        sizes = {"parameters": self.parameter_bytes, "library": self.library_bytes}
        if self.manifest.prepared:
            sizes[PARAMETERS_IN_MEMORY] = self.loaded_parameter_bytes
        return sizes

    @property
    def executor(self) -> Executor:
        """The loaded model; the first use writes the code to a private folder and loads it.

        Raises:
            BundleError: The code does not load.
            FileError: There is no room for the temporary file.
            DeviceError: The VTA cannot be opened.
        """
        with self._lock:
            if self._executor is None:
                programs = None if self.vta is None else _programs(self.vta, self.device)
                folder = PrivateFolder()
                try:
                    self._executor = Executor(
                        folder.put(LIBRARY, self._library),
                        self.inputs,
                        self.outputs,
                        self.parameters,
                        prepared=self.manifest.prepared,
                        name=self.name,
                        threads=self.threads,
                        programs=programs,
                    )
                finally:
                    # The code is mapped into memory now; a file that is gone cannot be left
                    # behind, whatever ends this process.
                    folder.remove()
            return self._executor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One inference; see `compiler.runtime.Executor.run`.

        Raises:
            InputError: Number, names, shapes or dtypes of the inputs do not fit.
        """
        # The check comes first, so that a wrong call need not wait for the code to load.
        check_inputs(self.inputs, bind(self.inputs, args, kwargs, "run"))
        return self.executor.run(*args, **kwargs)

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self.inputs))
        gives = ", ".join(map(str, self.outputs))
        return (
            f"Bundle({self.name!r}: {takes} -> {gives}; target {self.target.name}; "
            f"{len(self.kernels)} kernels, {_size(self.parameter_bytes)} of parameters, "
            f"{_size(self.library_bytes)} of code)"
        )

    def verify(self) -> Verification:
        """Replay the golden pair.

        Returns:
            How far the outputs are from those recorded when the model was compiled.

        Raises:
            VerificationError: Further than the tolerance in the manifest.
        """
        tolerance = self.manifest.golden_tolerance
        worst_abs = worst_rel = 0.0
        outputs = self._outputs(self.golden.inputs)
        for spec, got, want in zip(self.outputs, outputs, self.golden.outputs, strict=True):
            if got.shape != want.shape or got.dtype != want.dtype:
                raise VerificationError(
                    f"it is {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}",
                    where=f"{self.name}: output {spec.name!r}",
                    hint="compile the model again",
                )
            largest, relative = compare_arrays(got, want)
            exact = want.dtype.kind in "biu"
            if not relative <= (0.0 if exact else tolerance):
                raise VerificationError(
                    f"it differs from the golden output by {largest:.3g} ({relative:.3g} of its "
                    f"largest magnitude), and {0.0 if exact else tolerance:.3g} is allowed",
                    where=f"{self.name}: output {spec.name!r}",
                    hint="compile the model again on this machine; if that does not help, "
                    "report a bug",
                )
            worst_abs, worst_rel = max(worst_abs, largest), max(worst_rel, relative)
        wanted = self.manifest.golden_sha256
        same = outputs_sha256(outputs) == wanted if wanted else None
        return Verification(worst_abs, worst_rel, tolerance, len(outputs), same)

    def set_stages(self, stages: Sequence[StageRecord]) -> None:
        """Replace the record of what the stages did."""
        self.manifest = replace(self.manifest, stages=tuple(stages))

    def save(self, path: str | Path, *, folder: bool = False) -> Path:
        """Write the bundle, whole or not at all.

        Args:
            path: Where to. A file that is there is replaced once the new one is complete.
            folder: Write a folder of files instead of one zip file; one that is there is
                replaced only if it is a bundle, too.

        Returns:
            The path.

        Raises:
            FileError: It cannot be written; nothing is left behind, and a bundle that was
                there is as it was.
        """
        return write_bundle(self, path, folder=folder)

    def members(self) -> dict[str, bytes]:
        """The bytes of every member, the manifest first."""
        data = {
            LIBRARY: self._library,
            PARAMETERS: dump_tensors(self.parameters),
            GOLDEN: dump_tensors(_golden_tensors(self.golden)),
        }
        if self.report is not None:
            data[REPORT] = self.report.to_json().encode("utf-8")
        if self.plan is not None:
            data[PLAN] = self.plan.to_json().encode("utf-8")
        if self.vta is not None:
            data.update(dump_vta(self.vta))
        described = {name: Member.of(content) for name, content in data.items()}
        return {MANIFEST: dump_manifest(self.manifest, described), **data}


def write_bundle(bundle: Bundle, path: str | Path, *, folder: bool = False) -> Path:
    """Write a bundle; see `Bundle.save`.

    Raises:
        FileError: It cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise FileError(
            "cannot write a bundle: the path has no name",
            where=str(path),
            hint="give the name of a file, for example net.tw",
        )
    members = bundle.members()
    if folder:
        write_folder(path, members, replace_if=MANIFEST)
    else:
        write_file(path, lambda file: write_zip(file, members))
    return path


def read_bundle(
    path: str | Path,
    *,
    threads: int | None = None,
    read_report: Callable[[str], ReportLike] | None = None,
    runnable: bool = True,
    device: Device = None,
) -> Bundle:
    """Read a bundle after checking it and this machine; no code of it is loaded yet.

    The checks, in order: zip or folder, schema version, members, their names, sizes and
    hashes, system and processor, dtypes and shapes of the tensors.

    Args:
        path: A zip file or a folder.
        threads: Threads to run on; by default as many as it was compiled for.
        read_report: Makes a report of its JSON; without it the report is left out.
        runnable: Whether it has to run here; if not, it may be for any machine.
        device: The VTA to run on, for a bundle with VTA programs.

    Raises:
        BundleError: A check failed.
        FileError: The path cannot be read.
        InputError: `threads` cannot be had.
    """
    path = Path(path)
    contents = read_contents(path)
    manifest = contents.manifest
    if runnable:
        check_host(manifest, str(path))
    check_library(contents.data[LIBRARY], manifest, f"{path}: {LIBRARY}")
    where = f"{path}: {PARAMETERS}"
    parameters = load_tensors(contents.data[PARAMETERS], where)
    parameters = match_tensors(parameters, manifest.parameters, where)
    golden = _read_golden(contents, f"{path}: {GOLDEN}")
    report = None
    if read_report is not None and REPORT in contents.data:
        report = read_report(contents.data[REPORT].decode("utf-8"))
    plan = None
    if PLAN in contents.data:
        plan = _read_plan(contents.data[PLAN], f"{path}: {PLAN}")
    vta = load_vta(contents.data, str(path))
    if device is not None and vta is None:
        raise InputError(
            f"a device was given ({device}), and the bundle has no VTA programs",
            where=str(path),
            hint="leave it out: the model runs on the processor",
        )
    return Bundle(
        manifest,
        contents.data[LIBRARY],
        parameters,
        golden,
        report=report,
        threads=threads,
        plan=plan,
        vta=vta,
        device=device,
    )


def _programs(vta: VtaPart, device: Device) -> VtaPrograms:
    from compiler.runtime.vta.devices import open_device
    from compiler.runtime.vta.offloaded import VtaPrograms

    driver, timeout_s = open_device(device, vta.config)
    return VtaPrograms(vta, driver, timeout_s)


def _read_plan(data: bytes, where: str) -> CompressionPlan:
    try:
        return CompressionPlan.from_json(data.decode("utf-8"), where)
    except (PlanError, UnicodeDecodeError) as error:
        raise BundleError(
            f"its plan cannot be read: {error}",
            where=where,
            hint="copy the bundle again from where it came from, or compile the model again",
        ) from error


def _reference_tolerance(precision: str, plan: CompressionPlan | None) -> float:
    if plan is not None and any(
        o.precision not in ("int8", "binary") for o in plan.operators.values()
    ):
        return MIXED_TOLERANCE
    return REFERENCE_TOLERANCES[precision]


def _own_copy(value: Any) -> Array:
    import numpy as np

    return torch_to_numpy(value).copy() if is_torch(value) else np.array(value, order="C")


def _golden_tensors(golden: GoldenPair) -> dict[str, Array]:
    return {
        f"{side}.{i}": array
        for side, arrays in (("input", golden.inputs), ("output", golden.outputs))
        for i, array in enumerate(arrays)
    }


def _read_golden(contents: Contents, where: str) -> GoldenPair:
    manifest = contents.manifest
    specs = [
        TensorSpec(f"{side}.{i}", spec.shape, spec.dtype)
        for side, of in (("input", manifest.inputs), ("output", manifest.outputs))
        for i, spec in enumerate(of)
    ]
    arrays = list(match_tensors(load_tensors(contents.data[GOLDEN], where), specs, where).values())
    count = len(manifest.inputs)
    return GoldenPair(tuple(arrays[:count]), tuple(arrays[count:]))


def outputs_sha256(outputs: Sequence[Array]) -> str:
    """Hash of arrays: their dtypes, shapes and bytes, in order."""
    import numpy as np

    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.name}{list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def compare_arrays(got: Array, want: Array) -> tuple[float, float]:
    """Largest absolute difference, also over the largest magnitude of `want`.

    Equal infinities, and NaN at the same place, agree; NaN at only one is an infinite error.
    """
    import numpy as np

    if not want.size:
        return 0.0, 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    # Compared as they are, since float64 does not hold every int64.
    same = (got == want) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b))
    if want.dtype.kind in "iu":  # two large integers may be one and the same float64
        apart = np.where(same, 0.0, np.maximum(apart, 1.0))
    largest = float(np.where(np.isnan(apart), np.inf, apart).max())
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    return largest, largest / scale if scale else float("inf")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


__all__ = [
    "GOLDEN_TOLERANCE",
    "Bundle",
    "GoldenPair",
    "Verification",
    "compare_arrays",
    "outputs_sha256",
    "read_bundle",
    "write_bundle",
]
