"""The model and its example inputs as a user gives them: paths, modules, numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError
from compiler.stages import StageLog

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Source:
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


def read_source(model: Any, example_inputs: Any, name: str | None, log: StageLog) -> Source:
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
    return Source(model, given, tuple(args), dict(kwargs), name)


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


__all__ = ["Source", "read_source"]
