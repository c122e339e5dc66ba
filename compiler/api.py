"""`compile` and `load`: the only place where the order of the stages is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import (
    CompileError,
    InputError,
    TargetError,
    TilewrightError,
    VerificationError,
)
from compiler.package import Bundle, read_bundle
from compiler.package.atomic import PrivateFolder
from compiler.package.bundle import compare_arrays
from compiler.report import Report, compare
from compiler.report import measure as measure_report
from compiler.runtime.threads import check_threads, use_threads
from compiler.stages import StageLog
from targets import TargetSpec, get_target, missing_features, require_available

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Array = npt.NDArray[np.generic]
    Model = torch.nn.Module | torch.export.ExportedProgram | str | Path

#: Called with a stage's name and a step's as it begins.
Progress = Callable[[str, str], None]


def compile(  # noqa: A001 - the name users expect
    model: Model,
    target: str | Path | TargetSpec = "x86",
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    dynamic_batch: bool = False,
    name: str | None = None,
    threads: int = 1,
    measure: bool = True,
    tolerance: float = 1e-2,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a trained model.

    Args:
        model: A module, an exported program, or the path of a ``.pt2`` file. A module is
            compiled for inference and left as it was.
        target: Name of a target (``x86`` is this machine), path of a TOML file that describes
            one, or a `TargetSpec`.
        example_inputs: Positional inputs as a tuple or named ones as a dict, torch or numpy.
            They fix dtypes and all sizes that are not dynamic, become the golden inputs of
            the bundle's self-test, and are what the report measures. Exported programs
            bring their own.
        dynamic_shapes: Sizes that vary, in the form that `torch.export.export` takes.
        dynamic_batch: Axis 0 of every input varies, under the name ``batch``.
        name: The model's name; by default its class's or file's.
        threads: Threads that the model is to run on.
        measure: Measure the latency report. Without it, `Bundle.report` is None.
        tolerance: Largest error against PyTorch on the example inputs that is accepted,
            relative to the largest magnitude of an output. Integer outputs are left out.
        progress: Called as ``progress(stage, step)`` when a step begins.

    Raises:
        TargetError: The target is unknown, damaged or not available yet, or this machine
            cannot run its code and `measure` is set.
        InputError: The example inputs do not fit the model, or `threads` cannot be had.
        ModelError: The model does not export, is empty, holds NaN weights or operators that
            are not supported.
        CompileError: A later stage failed.
        VerificationError: The compiled model's outputs are not PyTorch's.
    """
    from compiler.build import build
    from compiler.frontend import import_model
    from compiler.lower import lower

    spec = choose_target(target, measure=measure)
    runs_here = not missing_features(spec)
    check_threads(threads)
    # Before any stage runs generated code: TVM's thread pool takes its size from the first call.
    use_threads(threads)
    log = _Log(progress)
    source = _read_source(model, example_inputs, name, log)

    imported = import_model(
        source.model,
        source.given,
        dynamic_shapes=dynamic_shapes,
        dynamic_batch=dynamic_batch,
        name=source.name,
        log=log,
    )
    with log.time("frontend", "reference outputs"):
        expected = source.reference()
    with _as_compile_error("lower", spec):
        lowered = lower(imported, spec, log)
    with _workdir() as workdir:
        with _as_compile_error("build", spec):
            built = build(lowered, spec, log, workdir)
        with log.time("package", "golden pair"):
            bundle = Bundle.from_built(
                built,
                source.tensors(),
                threads=threads,
                reference=None if runs_here else expected,
            )
    _check_error(bundle, expected, tolerance)
    if measure:
        with log.time("report", "measure"):
            bundle.report = measure_report(
                bundle.executor,
                bundle.golden.inputs,
                target=spec,
                kernels=bundle.kernels,
                name=bundle.name,
                stages=tuple(log.records),
                planned_activation_bytes=built.planned_activation_bytes,
                sizes={"parameters": bundle.parameter_bytes, "library": bundle.library_bytes},
                numerical_error=compare(bundle.golden.outputs, expected),
                threads=threads,
            )
    bundle.set_stages(log.records)
    return bundle


def load(path: str | Path, *, threads: int | None = None) -> Bundle:
    """Read a bundle after checking it; none of its code is loaded before it is first run.

    Args:
        path: A zip file or a folder that `Bundle.save` wrote.
        threads: Threads to run on; by default as many as it was compiled for.

    Raises:
        BundleError: It is damaged, foreign, newer than this release or for another machine.
        FileError: It cannot be read.
        InputError: `threads` cannot be had.
    """
    return read_bundle(path, threads=threads, read_report=Report.from_json)


def choose_target(target: str | Path | TargetSpec, *, measure: bool) -> TargetSpec:
    """The target of that name or file, if this release and this machine can do what is asked.

    Args:
        target: As in `compile`.
        measure: Whether code for it is to be measured here.

    Raises:
        TargetError: It is unknown, damaged or not available yet, or this machine cannot run
            its code and a measurement was asked for.
    """
    spec = get_target(target)
    require_available(spec)
    lacking = missing_features(spec)
    if lacking and measure:
        raise TargetError(
            "this processor cannot run the target's code, so that nothing can be measured: it "
            f"lacks {', '.join(lacking)}",
            where=spec.name,
            hint="give measure=False (--no-measure) to compile without a report; the self-test "
            "is then made of PyTorch's outputs",
        )
    return spec


class _Log(StageLog):
    """A stage log that tells somebody when a step begins."""

    def __init__(self, progress: Progress | None) -> None:
        super().__init__()
        self._progress = progress

    @contextmanager
    def time(self, stage: str, name: str) -> Iterator[list[str]]:
        if self._progress is not None:
            self._progress(stage, name)
        with super().time(stage, name) as detail:
            yield detail


@dataclass(frozen=True, slots=True)
class _Source:
    """The model and its example inputs, after the strings and paths were read.

    Attributes:
        model: A module or an exported program.
        given: Example inputs for the import stage, None if the program's own are used.
        args: Positional example inputs.
        kwargs: Named ones.
        name: The model's name, if it is known already.
    """

    model: Any
    given: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str | None

    def tensors(self) -> tuple[Any, ...]:
        """The tensors among the example inputs, in the order in which the model takes them."""
        import torch
        from torch.utils import _pytree as pytree

        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    def reference(self) -> tuple[Array, ...]:
        """PyTorch's outputs for the example inputs, as numpy arrays.

        Raises:
            InputError: The model does not run on them.
        """
        import torch
        from torch.utils import _pytree as pytree

        from compiler.frontend.export import inference_mode
        from compiler.runtime.tensors import torch_to_numpy

        args, kwargs = pytree.tree_map_only(
            torch.Tensor, torch.clone, (self.args, dict(self.kwargs))
        )
        is_program = isinstance(self.model, torch.export.ExportedProgram)
        with torch.no_grad(), nullcontext() if is_program else inference_mode(self.model):
            call = self.model.module() if is_program else self.model
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                raise InputError(
                    f"the model exports, but does not run on the example inputs: {error}",
                    where="example_inputs",
                    hint="call model(*example_inputs) yourself to see the whole error",
                ) from error
        leaves = pytree.tree_leaves(result)
        return tuple(torch_to_numpy(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))


def _read_source(model: Any, example_inputs: Any, name: str | None, log: StageLog) -> _Source:
    """Read a path, and turn numpy example inputs into torch tensors.

    Raises:
        ModelError: The path is no exported program.
        InputError: There are no example inputs.
    """
    import torch

    from compiler.frontend.checks import split_inputs
    from compiler.frontend.export import load_program

    if isinstance(model, str | Path):
        path = Path(model)
        name = name or path.stem
        with log.time("frontend", "load"):
            model = load_program(path)
    given = _to_torch(example_inputs)
    if given is None and isinstance(model, torch.export.ExportedProgram):
        if model.example_inputs is None:
            raise InputError(
                "the exported program brings no example inputs",
                where="example_inputs",
                hint="give some: compile(program, example_inputs=(x,))",
            )
        args, kwargs = model.example_inputs
    else:
        args, kwargs = split_inputs(given)
    return _Source(model, given, tuple(args), dict(kwargs), name)


def _to_torch(example_inputs: Any) -> Any:
    """numpy arrays anywhere in the example inputs as torch tensors.

    Raises:
        InputError: torch has no such dtype.
    """
    import numpy as np
    import torch
    from torch.utils import _pytree as pytree

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        try:
            return torch.from_numpy(np.array(leaf, order="C"))
        except TypeError as error:
            raise InputError(
                f"torch has no dtype {leaf.dtype}",
                where="example_inputs",
                hint="convert the array with .astype",
            ) from error

    return pytree.tree_map(convert, example_inputs)


def _check_error(bundle: Bundle, expected: Sequence[Array], tolerance: float) -> None:
    """Refuse a compiled model that computes something else than PyTorch.

    Raises:
        VerificationError: The message names the output and the error.
    """
    for spec, got, want in zip(bundle.outputs, bundle.golden.outputs, expected, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            raise VerificationError(
                f"it is {got.dtype}{list(got.shape)}, but PyTorch's is "
                f"{want.dtype}{list(want.shape)}",
                where=f"{bundle.name}: output {spec.name!r}",
                hint="this is a bug of Tilewright: please report it",
            )
        largest, relative = compare_arrays(got, want)
        if got.dtype.kind not in "biu" and not relative <= tolerance:
            raise VerificationError(
                f"it differs from PyTorch's by {largest:.3g}, {relative:.3g} of its largest "
                f"magnitude, and {tolerance:g} is accepted",
                where=f"{bundle.name}: output {spec.name!r}",
                hint="give a larger tolerance if that is accurate enough; otherwise this is a "
                "bug of Tilewright: please report it",
            )


@contextmanager
def _as_compile_error(stage: str, target: TargetSpec) -> Iterator[None]:
    """Errors of TVM, which knows neither stage nor hint, as ours.

    Raises:
        CompileError: Something else than one of our own errors came out of the stage.
    """
    try:
        yield
    except TilewrightError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CompileError(
            f"{type(error).__name__}: {' '.join(lines[:3])}",
            stage=stage,
            target=target.name,
            hint="this is a bug of Tilewright: please report it, with the traceback that "
            "--debug shows",
        ) from error


@contextmanager
def _workdir() -> Iterator[Path]:
    """A private folder for the build stage, gone afterwards, also after Ctrl-C."""
    folder = PrivateFolder()
    try:
        yield folder.path
    finally:
        folder.remove()


__all__ = ["Progress", "choose_target", "compile", "load"]
