"""ReducePrecision: convolutions and matrix products on bfloat16 or float16, sums in float32.

Operands of the heavy operators become bfloat16; they still add up in float32 (of float16 some tens
of products at a time in float16, see `schedules.cpu.microkernels.neon_half`). Everything else
computes in float32. What is stored between kernels is bfloat16 where that costs no conversion
of its own: a conversion behind a kernel becomes part of its epilogue, one in front of an
elementwise kernel part of its loads. A tensor that both kinds of consumers read is converted
once, and all of them read the bfloat16 one, so only that is ever stored. Weights are
converted here, to the nearest even. Inputs and outputs of the model stay float32.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from compiler.compress.apply.facts import precision_mark
from compiler.errors import ModelError
from compiler.lower.graph import dtype_of, is_constant, operator_name
from compiler.lower.parameters import ParameterTable, value_of
from schedules.tvm_adapter import IRModule, relax

HIGH = "float32"
#: Dtypes that the operands may become, and a short form of each for names.
LOW = {"bfloat16": "bf16", "float16": "fp16"}

#: Operators whose operands become bfloat16, and that sum up in float32.
HEAVY = frozenset({"nn.conv2d", "nn.conv2d_transpose", "matmul"})
#: Operators that only move or choose elements: they give the same on either dtype.
MOVES = frozenset(
    {"reshape", "permute_dims", "expand_dims", "squeeze", "flatten", "concat", "split",
     "strided_slice", "broadcast_to", "take", "nn.pad"}
)  # fmt: skip
#: Operators with a kernel of their own that computes in float32 and can read bfloat16 ...
READERS = frozenset(
    {"nn.softmax", "nn.log_softmax", "nn.layer_norm", "nn.rms_norm", "nn.max_pool2d",
     "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean", "sum", "max", "min"}
)  # fmt: skip
#: ... and those of them that cannot take a conversion behind them, but can write bfloat16.
WRITERS = frozenset({"nn.softmax", "nn.log_softmax", "nn.layer_norm", "nn.rms_norm"})
_SOFTMAX = frozenset({"nn.softmax", "nn.log_softmax"})


@dataclass(slots=True)
class PrecisionSummary:
    """What the pass did, for the log.

    Attributes:
        reduced: How often each operator computes on bfloat16.
        kept: How often each arithmetic operator stays in float32.
        stored: Tensors between operators that are bfloat16.
        low: Dtype of the operands; all that is said of bfloat16 goes for float16.
    """

    low: str = "bfloat16"
    reduced: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    stored: int = 0

    def describe(self, native: bool) -> str:
        """One line; `native` says whether the target has instructions for the dtype."""
        if not self.reduced:
            return f"nothing computes in {self.low}: no float32 convolution or matrix product"
        text = (
            f"{self.reduced.total()} operators in {self.low} ({_list(self.reduced)}), "
            f"{self.kept.total()} in float32, {self.stored} tensors stored as {self.low}"
        )
        if not native:
            text += (
                "; the target has no bfloat16 instructions: it computes in float32 on widened "
                "numbers and does not get faster"
            )
        return text


def reduce_precision(
    module: IRModule, table: ParameterTable, *, marked_only: bool = False, low: str = "bfloat16"
) -> tuple[IRModule, PrecisionSummary]:
    """Apply the pass to `main`, whose weights are constants.

    A module without a heavy operator in float32 comes back as it is.

    Args:
        module: The module.
        table: Names of its constants.
        marked_only: Whether a compression plan says which operators compute on bfloat16
            (`compiler.compress.apply.facts.marked_name`). What the others read is then not
            stored as bfloat16 for anybody's sake.
        low: Dtype of the operands, ``bfloat16`` or ``float16``.

    Raises:
        ModelError: A weight is too large for float16.
    """
    variable = module.get_global_var("main")
    main = module[variable]
    plan = _Plan(main, marked_only, low)
    if not plan.summary.reduced:
        return module, plan.summary
    rewriter = _Rewriter(plan, table)
    function = rewriter.rewrite(main)
    result = module.clone()
    result.update_func(variable, function)
    result = relax.transform.CanonicalizeBindings()(result)
    return relax.transform.DeadCodeElimination(["main"])(result), plan.summary


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name.removeprefix('nn.')}" for name, n in sorted(counts.items()))


def _is_float(expr: Any) -> bool:
    return isinstance(expr.ty, relax.TensorType) and dtype_of(expr) == HIGH


def _tensors(call: Any) -> list[Any]:
    """The float32 tensors among the operands of a call, those in tuples included."""
    flat = []
    for argument in call.args:
        flat += list(argument.fields) if isinstance(argument, relax.Tuple) else [argument]
    return [v for v in flat if _is_float(v)]


def _variables(value: Any) -> list[Any]:
    """The variables that a binding's value reads."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.TupleGetItem):
        return _variables(value.tuple_value)
    items = getattr(value, "args", None) or getattr(value, "fields", None) or ()
    return [v for item in items for v in _variables(item)]


def _is_heavy(value: Any) -> bool:
    return (
        operator_name(value) in HEAVY
        and _is_float(value)
        and len(_tensors(value)) == len(value.args)
    )


def _is_move(value: Any) -> bool:
    return operator_name(value) in MOVES and bool(_tensors(value))


class _Plan:
    """Which variables of a function are stored as bfloat16.

    Attributes:
        stored: Variables that exist as bfloat16; readers of float32 widen it.
        outputs: Variables that leave the function, in float32.
        exact: Variables that an operator reads that a plan keeps in float32.
        derived: Variables that depend on a heavy operator's result.
        summary: Counts for the log.
    """

    def __init__(self, function: Any, marked_only: bool, low: str) -> None:
        self.marked_only, self.low = marked_only, low
        self.stored: set[Any] = set()
        self.outputs: set[Any] = set()
        self.exact: set[Any] = set()
        self.summary = PrecisionSummary(low)
        # Masked scores are as low as float32 goes; float16 would make minus infinity of them.
        self.readers = READERS - _SOFTMAX if low == "float16" else READERS
        bindings = [b for block in function.body.blocks for b in block.bindings]
        self.sources = {b.var: b.value for b in bindings}
        self._find_outputs(function.body.body)
        self._find_exact(bindings)
        self.derived = self._find_derived(bindings)
        for binding in reversed(bindings):
            self._look_at(binding.var, binding.value)
        if self.summary.reduced:
            self.summary.stored = sum(_is_float(v) for v in self.stored)

    def _find_outputs(self, expr: Any) -> None:
        """The variables behind the result, through tuples and names for the same thing."""
        if isinstance(expr, relax.Tuple):
            for item in expr.fields:
                self._find_outputs(item)
        elif isinstance(expr, relax.Var) and expr not in self.outputs:
            self.outputs.add(expr)
            value = self.sources.get(expr)
            if isinstance(value, (relax.Var, relax.Tuple)):
                self._find_outputs(value)
            elif isinstance(value, relax.TupleGetItem):
                self._find_outputs(value.tuple_value)

    def is_heavy(self, variable: Any, value: Any) -> bool:
        """Whether an operator is to compute on bfloat16."""
        if not _is_heavy(value):
            return False
        return not self.marked_only or precision_mark(str(variable.name)) == self.low

    def _find_exact(self, bindings: list[Any]) -> None:
        """What operators read that are to compute in float32, though they could do otherwise."""
        for binding in reversed(bindings):
            value = binding.value
            kept = _is_heavy(value) and not self.is_heavy(binding.var, value)
            if kept or (_is_move(value) and binding.var in self.exact):
                self.exact.update(v for v in _tensors(value) if isinstance(v, relax.Var))

    def _find_derived(self, bindings: list[Any]) -> set[Any]:
        """The variables that depend on a heavy operator's result.

        Only these may be stored as bfloat16 for the sake of memory. What a model computes
        beside them (positions, lengths, masks) may need more digits.
        """
        derived: set[Any] = set()
        for binding in bindings:
            value = binding.value
            heavy = self.is_heavy(binding.var, value)
            if heavy or any(v in derived for v in _variables(value)):
                derived.add(binding.var)
        return derived

    def _look_at(self, variable: Any, value: Any) -> None:
        """Mark what a binding reads, given what is known about its result."""
        name = operator_name(value)
        if isinstance(value, relax.TupleGetItem):
            if variable in self.stored:
                self._store(value.tuple_value)
        elif self.is_heavy(variable, value):
            self.summary.reduced[name] += 1
            self._mark(value)
        elif _is_move(value):
            if variable in self.derived:
                self._store(variable)
            if variable in self.stored:
                self._mark(value)
        elif name and _is_float(value):
            self.summary.kept[name] += 1
            if name in self.readers and variable in self.derived:
                self._mark(value)
            if name in WRITERS and variable in self.derived:
                self._store(variable)
        elif isinstance(value, relax.Tuple):
            for item in value.fields:  # may be read as it is
                self.outputs.add(item)

    def _mark(self, call: Any) -> None:
        heavy = _is_heavy(call) or _is_move(call)
        for operand in _tensors(call) if heavy else _tensors(call)[:1]:
            if isinstance(operand, relax.Var):
                self._store(operand)

    def _store(self, variable: Any) -> None:
        if variable not in self.outputs and variable not in self.exact:
            self.stored.add(variable)


class _Rewriter:
    """Builds the function again, with conversions where the plan wants them."""

    def __init__(self, plan: _Plan, table: ParameterTable) -> None:
        self.plan, self.table = plan, table
        self.builder = relax.BlockBuilder()
        self.high: dict[Any, Any] = {}
        self.low: dict[Any, Any] = {}
        self.constants: dict[str, Any] = {}

    def rewrite(self, function: Any) -> Any:
        """The function on bfloat16."""
        bb = self.builder
        for parameter in function.params:
            self.high[parameter] = parameter
        attributes = dict(function.attrs.items()) if function.attrs is not None else {}
        attributes.pop("global_symbol", None)  # the builder sets it
        with bb.function("main", list(function.params), attrs=attributes):
            with bb.dataflow():
                for block in function.body.blocks:
                    for binding in block.bindings:
                        self._bind(binding.var, binding.value)
                result = bb.emit_output(self._wide(function.body.body))
            bb.emit_func_output(result)
        return bb.get()["main"]

    def _bind(self, variable: Any, value: Any) -> None:
        plan = self.plan
        name = str(variable.name)
        if isinstance(value, relax.TupleGetItem):
            source = value.tuple_value
            kept = self.low if source in self.low else self.high
            item = self.builder.emit(relax.TupleGetItem(kept[source], value.index), name)
            (self.low if dtype_or_none(item) == plan.low else self.high)[variable] = item
            return
        if plan.is_heavy(variable, value):
            new = self._heavy(value)
        elif _is_move(value) and variable in plan.stored:
            self.low[variable] = self.builder.emit(
                self._call(value, [self._narrow(v) for v in value.args]), name
            )
            return
        elif isinstance(value, relax.Call):
            new = self._call(value, [self._wide(v) for v in value.args])
        else:
            new = self._wide(value)
        self.high[variable] = self.builder.emit(new, name)

    def _call(self, call: Any, arguments: list[Any]) -> Any:
        """The same call on other arguments, its type inferred anew."""
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    def _heavy(self, call: Any) -> Any:
        """The same call on bfloat16, summing up in float32."""
        data, weight = (self._narrow(v) for v in call.args)
        a = call.attrs
        if operator_name(call) == "matmul":
            return relax.op.matmul(data, weight, out_dtype=HIGH)
        layouts = {
            "data_layout": a.data_layout,
            "kernel_layout": a.kernel_layout,
            "out_layout": a.out_layout,
            "out_dtype": HIGH,
        }
        if operator_name(call) == "nn.conv2d":
            return relax.op.nn.conv2d(
                data, weight, a.strides, a.padding, a.dilation, a.groups, **layouts
            )
        return relax.op.nn.conv2d_transpose(
            data, weight, a.strides, a.padding, a.output_padding, a.dilation, a.groups, **layouts
        )

    def _narrow(self, expr: Any) -> Any:
        """An operand as bfloat16 where it is a float32 tensor."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._narrow(v) for v in expr.fields])
        if is_constant(expr) and _is_float(expr):
            return self._constant(expr)
        if not isinstance(expr, relax.Var):
            return expr
        if expr not in self.low:
            if not _is_float(expr):
                return self.high.get(expr, expr)
            narrow = relax.op.astype(self.high[expr], self.plan.low)
            self.low[expr] = self.builder.emit(narrow, f"{expr.name}_{LOW[self.plan.low]}")
        return self.low[expr]

    def _wide(self, expr: Any) -> Any:
        """An operand as it was; a stored one is widened for each of its readers."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._wide(v) for v in expr.fields])
        if not isinstance(expr, relax.Var):
            return expr
        if _is_float(expr) and (expr in self.plan.stored or expr not in self.high):
            return self.builder.emit(relax.op.astype(self._narrow(expr), HIGH))
        return self.high.get(expr, expr)

    def _constant(self, constant: Any) -> Any:
        name = self.table.name_of(constant)
        key = name or f"constant.{len(self.constants)}"
        if key not in self.constants:
            value = self._as_low(np.asarray(value_of(constant)), key)
            self.constants[key] = self.table.constant(value, key)
        return self.constants[key]

    def _as_low(self, value: Any, name: str) -> Any:
        if self.plan.low == "bfloat16":
            return value.astype(ml_dtypes.bfloat16)
        if np.abs(value).max(initial=0.0) > np.finfo(np.float16).max:
            raise ModelError(
                f"a weight is larger than float16 holds ({np.finfo(np.float16).max})",
                stage="lower",
                where=name,
                hint="compile in bfloat16, which holds what float32 does",
            )
        return value.astype(np.float16)


def dtype_or_none(expr: Any) -> str | None:
    """Dtype of a tensor, None for anything else."""
    return dtype_of(expr) if isinstance(expr.ty, relax.TensorType) else None
