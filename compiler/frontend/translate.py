"""From an exported program's graph to a Relax module, checked operator by operator.

This drives TVM's importer (``tvm.relax.frontend.torch``) with our converters on top of it.
Beyond what TVM does it

- keeps parameters *and* buffers as inputs of ``main`` by their PyTorch names,
- compares shape and dtype of every translated operator with what torch.export says, so that
  a mistranslation is an error and not a wrong answer,
- collects every unsupported operator before it fails, each with its place in the model.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy.typing as npt
import torch
from torch import fx
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from compiler.errors import ModelError, UnsupportedOperatorError
from compiler.frontend.converters import CONVERTERS
from compiler.frontend.converters.base import array_constant, same_size
from compiler.frontend.dtypes import dtype_name, to_numpy
from compiler.frontend.provenance import Origin, binding_name, operator_name, origin_of
from compiler.frontend.symbols import SymbolTable
from compiler.stages import TensorSpec
from schedules.tvm_adapter import ir, relax, tirx

_SKIPPED = ("aten._assert", "aten.sym_constrain")


@dataclass(frozen=True, slots=True)
class Problem:
    """One operator that could not be translated."""

    operator: str
    origin: Origin
    reason: str


@dataclass(slots=True)
class Translation:
    """What `translate` yields: the module, its interface, and notes for the log."""

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: dict[str, npt.NDArray[Any]]
    operators: int = 0
    notes: list[str] = field(default_factory=list)


@cache
def _importer_class() -> type[Any]:
    """TVM's importer, with names of variables that say which module they came from."""
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    class NamingBuilder(relax.BlockBuilder):
        """Names every binding ``module.path:operator``, the cheapest provenance there is."""

        def __init__(self) -> None:
            super().__init__()
            self.label = ""

        def emit(self, expr: Any, name_hint: str = "") -> Any:
            return super().emit(expr, name_hint or self.label)

    class Importer(ExportedProgramImporter):
        """Only what translation of single operators needs; `translate` drives it."""

        def __init__(self, symbols: SymbolTable) -> None:
            super().__init__()
            self.symbols = symbols
            self.block_builder = NamingBuilder()

        def convert(self, node: fx.Node) -> Any:
            """Translate one operator with our converter, or with TVM's."""
            name = node.target.__name__  # type: ignore[union-attr]
            self.block_builder.label = binding_name(node)
            ours = CONVERTERS.get(name)
            return ours(node, self) if ours is not None else self.convert_map[name](node)

        def knows(self, node: fx.Node) -> bool:
            name = getattr(node.target, "__name__", "")
            return name in CONVERTERS or name in self.convert_map

    return Importer


def translate(
    program: torch.export.ExportedProgram,
    *,
    symbol_names: dict[str, str],
    output_names: tuple[str, ...],
) -> Translation:
    """Translate a decomposed exported program.

    Args:
        program: The program, after `run_decompositions`.
        symbol_names: The user's names of symbolic sizes, by torch.export's symbol.
        output_names: Names of the tensor outputs, in order.

    Raises:
        UnsupportedOperatorError: Operators are unsupported; the message names all of them.
        ModelError: The program has no outputs, or changes its own buffers.
    """
    symbols = SymbolTable(symbol_names)
    importer = _importer_class()(symbols)
    builder = importer.block_builder
    notes: list[str] = []
    inputs, parameters, variables = _interface(program, symbols, importer)
    _check_effects(program, notes)
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]

    attributes: dict[str, Any] = {"num_input": len(inputs)}
    attributes.update(_bounds(program, symbols))
    results: tuple[Any, ...] = ()
    with builder.function("main", params=list(variables.values()), attrs=attributes):
        with builder.dataflow():
            problems = _translate_nodes(nodes, importer, symbols)
            results = _outputs(program, importer) if not problems else (relax.const(0, "int64"),)
            final = results[0] if len(results) == 1 else relax.Tuple(list(results))
            emitted = builder.emit_output(final)
        builder.emit_func_output(emitted)
    if problems:
        raise _unsupported(problems)
    specs = tuple(
        TensorSpec(name, tuple(symbols.label(s) for s in value.shape), dtype_name(value.dtype))
        for name, value in zip(output_names, _output_values(program), strict=True)
    )
    return Translation(builder.get(), inputs, specs, parameters, len(nodes), notes)


def _interface(
    program: torch.export.ExportedProgram, symbols: SymbolTable, importer: Any
) -> tuple[tuple[TensorSpec, ...], dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Inputs, parameters and the variables of ``main``: inputs first, then parameters."""
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    inputs: list[TensorSpec] = []
    parameters: dict[str, npt.NDArray[Any]] = {}
    input_variables: dict[str, Any] = {}
    parameter_variables: dict[str, Any] = {}
    shared: dict[tuple[Any, ...], Any] = {}
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if isinstance(spec.arg, ConstantArgument):
            continue  # a Python value that the export has built into the graph
        if spec.kind is InputKind.USER_INPUT:
            value = node.meta["val"]
            if not isinstance(value, torch.Tensor):
                raise ModelError(
                    f"input {node.name!r} is a {type(value).__name__}, not a tensor",
                    stage="frontend",
                    hint="pass sizes and flags as constants (functools.partial or an attribute)",
                )
            labels = tuple(symbols.label(s) for s in value.shape)
            dtype = dtype_name(value.dtype)
            inputs.append(TensorSpec(node.name, labels, dtype))
            shape = [symbols.size(s) for s in value.shape]
            variable = relax.Var(node.name, relax.TensorType(shape, dtype))
            input_variables[node.name] = variable
            importer.env[node] = variable
        elif not node.users or spec.kind is InputKind.TOKEN:
            continue  # an order of effects; or for example a BatchNorm's num_batches_tracked
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensor = _stored(program, str(spec.target))
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if tensor.numel() and key in shared:
                importer.env[node] = shared[key]  # tied weights are one parameter
                continue
            array = to_numpy(tensor)
            type_ = relax.TensorType(list(tensor.shape), dtype_name(tensor.dtype))
            target = str(spec.target)
            variable = relax.Var(target, type_)
            parameters[target] = array
            parameter_variables[target] = variable
            importer.env[node] = shared[key] = variable
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            importer.env[node] = array_constant(to_numpy(program.constants[str(spec.target)]))
        else:
            raise ModelError(
                f"input {node.name!r} is of a kind that cannot be compiled ({spec.kind.name})",
                stage="frontend",
            )
    _check_solvable(inputs, symbols)
    variables = {f"input {k}": v for k, v in input_variables.items()}
    variables |= {f"parameter {k}": v for k, v in parameter_variables.items()}
    return tuple(inputs), parameters, variables


def _check_solvable(inputs: list[TensorSpec], symbols: SymbolTable) -> None:
    """Refuse sizes such as ``32*h`` of which no input has the plain ``h``.

    Raises:
        ModelError: The value of a symbol could not be read from the inputs' shapes.
    """
    labels = [label for spec in inputs for label in spec.shape if isinstance(label, str)]
    unsolved = [name for name in symbols.names() if name not in labels]
    if unsolved:
        raise ModelError(
            f"the dynamic size {unsolved[0]!r} stands only in formulas: {', '.join(labels)}",
            stage="frontend",
            hint="name the whole size in dynamic_shapes, or compile for fixed sizes",
        )


def _stored(program: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    """A parameter or buffer; buffers that are not persistent stand among the constants."""
    if name in program.state_dict:
        return program.state_dict[name]
    return program.constants[name]


def _check_effects(program: torch.export.ExportedProgram, notes: list[str]) -> None:
    """Refuse programs that carry state from call to call."""
    changed = [
        spec.target
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.BUFFER_MUTATION and spec.target is not None
    ]
    if changed:
        raise ModelError(
            f"the model changes its own buffers when it runs: {', '.join(map(str, changed))}",
            stage="frontend",
            where=str(changed[0]).rpartition(".")[0] or None,
            hint="compiled models keep no state: pass the state as an input and return the new one",
        )
    kept = {OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT}
    for spec in program.graph_signature.output_specs:
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            notes.append(f"input {spec.target!r} is changed in place by the model, not here")
        elif spec.kind not in kept and spec.kind is not OutputKind.TOKEN:
            raise ModelError(
                f"the model has an effect that cannot be compiled ({spec.kind.name})",
                stage="frontend",
            )


def _bounds(program: torch.export.ExportedProgram, symbols: SymbolTable) -> dict[str, Any]:
    """Least and greatest values of the symbolic sizes, in TVM's attributes."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    for symbol, limits in program.range_constraints.items():
        if not symbol.is_Symbol:
            continue
        name = symbols.name(str(symbol))
        if limits.lower.is_Integer:
            low[name] = int(limits.lower)
        # Unbounded above is an infinity, or a number near the end of int64.
        if limits.upper.is_Integer and int(limits.upper) < 2**31:
            high[name] = int(limits.upper)
    found = {"tir_var_lower_bound": low, "tir_var_upper_bound": high}
    return {key: value for key, value in found.items() if value}


def _translate_nodes(nodes: list[fx.Node], importer: Any, symbols: SymbolTable) -> list[Problem]:
    """Translate all operators; those that fail are replaced by zeros to find the others."""
    problems: list[Problem] = []
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
            importer.env[node] = symbols.size(value)
            continue
        if _is_assertion(node):
            continue
        try:
            if node.target is operator.getitem:
                importer.env[node] = _item(node, importer)
            elif not importer.knows(node):
                raise NotImplementedError("")  # noqa: TRY301 - the reason is its own name
            else:
                importer.env[node] = importer.convert(node)
            importer.env[node] = _checked(node, importer.env[node], importer, symbols)
        except Exception as error:  # noqa: BLE001 - whatever a converter of TVM's raises is shown
            reason = (
                ""
                if not str(error) and isinstance(error, NotImplementedError)
                else (
                    f"{type(error).__name__}: " * (not isinstance(error, NotImplementedError))
                    + (str(error).strip().splitlines() or ["no message"])[0]
                )
            )
            problems.append(Problem(operator_name(node), origin_of(node), reason))
            importer.env[node] = _placeholder(value, symbols)
    return problems


def _is_assertion(node: fx.Node) -> bool:
    """Checks of sizes and dtypes that torch.export has proved, or that hold for the inputs."""
    value = node.meta.get("val")
    scalar = value is None or isinstance(value, (torch.SymBool, bool))
    return scalar and (not node.users or operator_name(node).startswith(_SKIPPED))


def _item(node: fx.Node, importer: Any) -> Any:
    """One of several results; those that a converter does not compute are refused."""
    source: Any = node.args[0]
    index: Any = node.args[1]
    value = importer.env[source]
    if isinstance(value, (list, tuple, relax.Tuple)):
        return value[index]
    if isinstance(value.ty, relax.TupleType):
        return importer.block_builder.emit(relax.TupleGetItem(value, index))
    if index != 0:
        raise NotImplementedError(f"result {index} of {operator_name(source)}")
    return value


def _checked(node: fx.Node, result: Any, importer: Any, symbols: SymbolTable) -> Any:
    """Compare a result's dtype and shape with those that torch.export has recorded.

    Raises:
        NotImplementedError: They differ: the converter does something else than PyTorch.
    """
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not isinstance(result, relax.Expr):
        return result
    if not isinstance(result, (relax.Var, ir.GenericConst, relax.Tuple)):
        result = importer.block_builder.emit(result)
    type_ = result.ty
    if not isinstance(type_, relax.TensorType):
        return result
    found = str(type_.dtype.dtype)
    if found != dtype_name(value.dtype):
        raise NotImplementedError(f"translated with dtype {found}, not {value.dtype}")
    wanted = [symbols.size(s) for s in value.shape]
    if type_.shape is None:
        if type_.ndim != len(wanted):
            raise NotImplementedError("its shape is known only at run time")
        return importer.block_builder.match_cast(result, relax.TensorType(wanted, found))
    dims = list(type_.shape.values)
    fixed = [
        (int(d.value), w)
        for d, w in zip(dims, wanted, strict=False)
        if isinstance(d, tirx.IntImm) and isinstance(w, int)
    ]
    if len(dims) != len(wanted) or any(d != w for d, w in fixed):
        shown = ", ".join(str(d) for d in dims)
        raise NotImplementedError(f"translated with shape ({shown}), not {tuple(value.shape)}")
    if all(same_size(d, w) for d, w in zip(dims, wanted, strict=True)):
        return result
    # torch.export knows more than Relax can infer, such as that min(length, 512) is length.
    return importer.block_builder.match_cast(result, relax.TensorType(wanted, found))


def _placeholder(value: Any, symbols: SymbolTable) -> Any:
    """Zeros in place of what could not be translated, so that the search goes on."""
    if isinstance(value, torch.Tensor):
        try:
            dtype = dtype_name(value.dtype)
        except NotImplementedError:
            dtype = "float32"
        shape = relax.ShapeExpr([symbols.size(s) for s in value.shape])
        return relax.Var("unsupported", relax.TensorType(shape.values, dtype))
    if isinstance(value, (list, tuple)):
        return tuple(_placeholder(part, symbols) for part in value)
    return value


def _output_values(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """The fake tensors of the user's outputs; None and Python values are left out."""
    node = program.graph.output_node()
    values = []
    for spec, argument in zip(
        program.graph_signature.output_specs,
        node.args[0],
        strict=True,
    ):
        if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
            continue
        if isinstance(argument, fx.Node) and isinstance(argument.meta.get("val"), torch.Tensor):
            values.append(argument.meta["val"])
    return values


def _outputs(program: torch.export.ExportedProgram, importer: Any) -> tuple[Any, ...]:
    node = program.graph.output_node()
    results = []
    for spec, argument in zip(
        program.graph_signature.output_specs,
        node.args[0],
        strict=True,
    ):
        if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT):
            continue
        if isinstance(argument, fx.Node) and isinstance(argument.meta.get("val"), torch.Tensor):
            results.append(importer.env[argument])
    return tuple(results)


def _unsupported(problems: list[Problem]) -> UnsupportedOperatorError:
    """One error that names every operator once, with its count and the first place."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.operator, problem.reason), []).append(problem)
    lines = []
    for (name, reason), members in groups.items():
        times = f" ({len(members)} times)" if len(members) > 1 else ""
        because = f": {reason}" if reason else ""
        lines.append(f"  {name}{times}{because}\n    at {members[0].origin}")
    names = {problem.operator for problem in problems}
    count = "1 operator is" if len(names) == 1 else f"{len(names)} operators are"
    return UnsupportedOperatorError(
        f"{count} not supported:\n" + "\n".join(lines),
        stage="frontend",
        hint="rewrite these places of the model with other operators, "
        "or keep them outside of the compiled part",
    )


__all__ = ["Problem", "Translation", "translate"]
