"""Programs that were quantized elsewhere: PT2E and torchao, as float programs with remarks.

An exported program of PT2E's or torchao's computes in float32 on values that it rounds itself:
``quantize`` and ``dequantize`` in pairs before operators, weights as stored integers. TVM's
importer refuses these operators. Here

- a dequantized weight becomes a float32 parameter again, whose scales are remembered,
- a pair on an activation becomes one marker, `tilewright::imported_range`, that computes nothing
  and says what the program rounds to,
- torchao's integer products of rows quantized at run time, and its products with stored weights,
  become linear layers again.

What is left is the float32 model; `compiler.compress.imported` makes a plan of the remarks, so
that the program runs by the integer semantics of every other quantized model.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from compiler.errors import ModelError
from compiler.frontend.provenance import module_path, operator_name, origin_of
from compiler.stages import ImportedWeight

#: The marker, in PyTorch and in Relax (where ``relax.tilewright.`` stands before it).
MARKER = "imported_range"
#: Dtypes of activations that have kernels.
ACTIVATIONS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}

_DECOMPOSED, _TORCHAO = "quantized_decomposed.", "torchao."
_QUANTIZE = ("quantize_per_tensor", "quantize_per_token", "quantize_affine")
_DEQUANTIZE = (
    "dequantize_per_tensor", "dequantize_per_channel", "dequantize_per_channel_group",
    "dequantize_per_token", "dequantize_affine",
)  # fmt: skip
_CHOOSE = ("choose_qparams",)
#: Operators that pass integers on without computing anything.
_PASSES = frozenset({"to", "_to_copy", "reshape", "view", "flatten", "contiguous", "clone"})
_TRANSPOSES = frozenset({"t", "permute", "transpose"})
_PRODUCTS = frozenset({"mm", "matmul", "linear", "addmm"})
_HINT = (
    "export the float32 model, and quantize it here: compile(..., quantize='int8', calibration=...)"
)


@dataclass(slots=True)
class QuantizedProgram:
    """A program without operators of quantization, and what they said.

    Attributes:
        program: The program in float32, with markers.
        source: Who quantized it: ``PT2E`` or ``torchao``.
        weights: How each weight was stored, by the parameter's name.
        ranges: Activations that are rounded to a known range.
        dynamic: Activations whose range is found at run time.
        notes: Conversions that change what is computed, for the log.
    """

    program: torch.export.ExportedProgram
    source: str
    weights: dict[str, ImportedWeight] = field(default_factory=dict)
    ranges: int = 0
    dynamic: int = 0
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """One line for the log."""
        return (
            f"quantized by {self.source}: {len(self.weights)} weights, {self.ranges} activations "
            f"with a range, {self.dynamic} quantized at run time"
        )


def register_operators() -> None:
    """Make PT2E's operators known to PyTorch, so that files that hold them can be read."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401 - it registers them


@cache
def marker() -> Any:
    """The marker as an operator of PyTorch: a copy of its first argument."""
    name = f"tilewright::{MARKER}"

    @torch.library.custom_op(name, mutates_args=())
    def mark(
        x: torch.Tensor, scale: float, zero_point: int, dtype: str, dynamic: bool
    ) -> torch.Tensor:
        del scale, zero_point, dtype, dynamic
        return x.clone()

    @mark.register_fake
    def _(
        x: torch.Tensor, scale: float, zero_point: int, dtype: str, dynamic: bool
    ) -> torch.Tensor:
        del scale, zero_point, dtype, dynamic
        return torch.empty_like(x)

    return getattr(torch.ops.tilewright, MARKER).default


def is_quantized(program: torch.export.ExportedProgram) -> bool:
    """Whether a program holds operators or weights of PT2E's or torchao's."""
    return any(map(_is_ours, program.graph.nodes)) or any(
        is_traceable_wrapper_subclass(t) or (t.dtype == torch.int8 and t.ndim == 2)
        for t in program.state_dict.values()
    )


def _is_ours(node: fx.Node) -> bool:
    return node.op == "call_function" and operator_name(node).startswith((_DECOMPOSED, _TORCHAO))


def read_quantized(program: torch.export.ExportedProgram) -> QuantizedProgram | None:
    """A program that was quantized elsewhere as a float32 one; None for any other program.

    Raises:
        ModelError: It holds a form of quantization that has no counterpart here.
    """
    if not is_quantized(program):
        return None
    found = _Reader(program).read()
    return found if found.weights or found.ranges or found.dynamic else None


class _Reader:
    """Rewrites a copy of a program's graph."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.module = copy.deepcopy(program.graph_module)
        self.graph = self.module.graph
        self.signature = copy.deepcopy(program.graph_signature)
        self.state = dict(program.state_dict)
        self.constants = dict(program.constants)
        decomposed = any(
            operator_name(n).startswith(_DECOMPOSED)
            for n in self.graph.nodes
            if n.op == "call_function"
        )
        self.result = QuantizedProgram(program, "PT2E" if decomposed else "torchao")
        self.specs = {spec.arg.name: spec for spec in self.signature.input_specs}
        self.placeholders = {n.name: n for n in self.graph.nodes if n.op == "placeholder"}
        self.values: dict[fx.Node, Any] = {}
        self.fixed = self._fixed()
        self.changes: dict[str, torch.Tensor] = {}

    def read(self) -> QuantizedProgram:
        """Do it."""
        for node in list(self.graph.nodes):
            if operator_name(node).startswith("aten._assert_tensor_metadata"):
                self.graph.erase_node(node)  # a promise that the export has kept
        self._integer_products()
        self._stored_products()
        for node in list(self._named(_DEQUANTIZE)):
            self._dequantize(node)
        self.graph.eliminate_dead_code()
        self._check_rest()
        self._unwrap()
        for spec, value in zip(
            self.signature.output_specs, self.graph.output_node().args[0], strict=True
        ):
            if isinstance(value, fx.Node) and isinstance(spec.arg, TensorArgument):
                spec.arg.name = value.name
        for name, value in self.changes.items():
            spec = next(s for s in self.signature.input_specs if s.target == name)
            parameter = spec.kind is InputKind.PARAMETER
            self.state[name] = (
                torch.nn.Parameter(value, requires_grad=False) if parameter else value
            )
        self.graph.lint()
        self.module.recompile()
        self.result.program = torch.export.ExportedProgram(
            root=self.module,
            graph=self.graph,
            graph_signature=self.signature,
            state_dict=self.state,
            range_constraints=copy.copy(self.program.range_constraints),
            module_call_graph=self.program.module_call_graph,
            example_inputs=self.program.example_inputs,
            constants=self.constants,
            verifiers=self.program.verifiers,
        )
        return self.result

    # The graph

    def _named(self, names: tuple[str, ...]) -> Iterator[fx.Node]:
        for node in self.graph.nodes:
            if _is_ours(node) and _base(node).startswith(names):
                yield node

    def _error(self, node: fx.Node, message: str) -> ModelError:
        return ModelError(
            f"{operator_name(node)}: {message}",
            stage="frontend",
            where=str(origin_of(node)),
            hint=_HINT,
        )

    def _constant(self, node: Any) -> Any:
        """The value of an expression of parameters and numbers; None if it has no fixed one."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self.fixed:
            return None
        if node not in self.values:
            self.values[node] = self._evaluate(node)
        return self.values[node]

    def _fixed(self) -> set[fx.Node]:
        """The nodes whose values follow from parameters alone."""
        kinds = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node.op == "placeholder":
                spec = self.specs.get(node.name)
                fixed = spec is not None and spec.kind in kinds
            else:
                fixed = node.op == "call_function" and all(n in found for n in node.all_input_nodes)
            if fixed:
                found.add(node)
        return found

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            target = str(self.specs[node.name].target)
            value: Any = self.state.get(target, self.constants.get(target))
            return value.detach() if isinstance(value, torch.Tensor) else value
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._constant)
        function: Any = node.target
        with torch.no_grad():
            return function(*args, **kwargs)

    def _replace(self, node: fx.Node, new: fx.Node) -> None:
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    # Activations

    def _mark(self, pair: fx.Node, x: fx.Node, parameters: tuple[Any, ...]) -> fx.Node:
        """A marker in front of `pair`, for the activation `x`.

        Args:
            pair: The node that the marker stands before.
            x: The activation.
            parameters: Scale, zero point, least and greatest stored value, dtype; a scale of
                None is found at run time.
        """
        scale, zero_point, low, high, dtype = parameters
        if x.meta["val"].dtype != torch.float32:
            raise self._error(pair, f"activations of {x.meta['val'].dtype} are not float32")
        if dtype not in ACTIVATIONS:
            raise self._error(pair, f"activations stored as {dtype} have no kernels")
        least, greatest = ACTIVATIONS[dtype]
        dynamic = scale is None
        name = str(dtype).removeprefix("torch.")
        with self.graph.inserting_before(pair):
            if not dynamic:
                scale, zero_point = _number(scale), _number(zero_point or 0)
                if scale is None or not math.isfinite(scale) or scale <= 0:
                    raise self._error(pair, "the scale of an activation is no positive number")
                if (low, high) != (least, greatest):
                    # Fewer values than the dtype has: what is beyond them is clipped, exactly.
                    limits = [(v - zero_point) * scale for v in (low, high)]
                    clipped = self._call(x, torch.ops.aten.clamp.default, (x, *limits))
                    x = clipped
                self.result.ranges += 1
            else:
                scale, zero_point = 0.0, 0
                self.result.dynamic += 1
            arguments = (x, float(scale), int(zero_point), name, dynamic)
            return self._call(x, marker(), arguments)

    def _call(self, like: fx.Node, function: Any, arguments: tuple[Any, ...]) -> fx.Node:
        new = self.graph.call_function(function, arguments)
        new.meta = {k: v for k, v in like.meta.items() if k in ("nn_module_stack", "stack_trace")}
        values = fx.node.map_arg(arguments, lambda n: n.meta["val"])
        new.meta["val"] = function(*values)
        return new

    def _parameters(self, node: fx.Node) -> tuple[Any, ...]:
        """Scale, zero point, limits and dtype of a quantization; no scale if it varies."""
        form = _base(node)
        a: list[Any] = list(node.args)
        if form == "quantize_affine":
            block, scale, zero_point, dtype, low, high = (a + [None] * 7)[1:7]
            dynamic = self._varies(scale)
            if not dynamic and math.prod(block) < math.prod(node.meta["val"].shape):
                raise self._error(node, "activations with several fixed scales have no kernels")
            if low is None or high is None:
                low, high = ACTIVATIONS.get(dtype, (0, 0))
        else:
            scale, zero_point, low, high, dtype = a[1:6]
            dynamic = self._varies(scale)
        if dynamic:
            return None, 0, low, high, dtype
        return self._constant(scale), self._constant(zero_point), low, high, dtype

    def _varies(self, scale: Any) -> bool:
        return isinstance(scale, fx.Node) and self._constant(scale) is None

    def _dequantize(self, node: fx.Node) -> None:
        stored = node.args[0]
        if not isinstance(stored, fx.Node):
            raise self._error(node, "it has no tensor to read")
        if self._constant(stored) is not None:
            self._weight(node, stored)
        elif _is_ours(stored) and _base(stored).startswith(_QUANTIZE):
            if _base(stored).startswith("quantize_per_channel"):
                raise self._error(stored, "activations with a scale a channel have no kernels")
            if not _same(stored.args[1:6], node.args[1:6]):
                raise self._error(node, "it does not undo the quantization before it")
            x: Any = stored.args[0]
            made = next((u for u in x.users if _marks(u, stored)), None)
            if made is None:
                made = self._mark(stored, x, self._parameters(stored))
                made.meta["tilewright"] = stored
            self._replace(node, made)
        else:
            raise self._error(
                node, f"it reads {operator_name(stored)}, which computes on stored integers"
            )

    # Weights

    def _weight(self, node: fx.Node, stored: fx.Node) -> None:
        """A dequantized weight becomes a parameter in float32."""
        value = self._constant(node)
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            raise self._error(node, "weights that are not float32 when they are read")
        integers = self._constant(stored)
        found = self._storage(node, integers, value)
        self._replace(node, self._parameter(node, value, found))

    def _storage(self, node: fx.Node, integers: torch.Tensor, value: torch.Tensor) -> Any:
        """How a weight is stored; None for what is no weight, such as a bias in int32."""
        form = _base(node)
        a: list[Any] = list(node.args)
        axis, group = 0, 0
        if integers.dtype not in (torch.int8, torch.uint8):
            return None
        if form == "dequantize_affine":
            block, scale, zero_point, _, low, high = (a + [None] * 6)[1:7]
            if len(block) != 2 or block[0] not in (1, integers.shape[0]):
                return None
            scales = self._constant(scale).reshape(-1)
            granularity = "tensor" if scales.numel() == 1 else "channel"
            if block[1] < integers.shape[1]:
                granularity, group = "group", int(block[1])
        elif form == "dequantize_per_channel":
            scale, zero_point, axis, low, high = a[1:6]
            granularity = "channel"
        elif form == "dequantize_per_tensor":
            scale, zero_point, low, high = a[1:5]
            granularity = "tensor"
        elif form == "dequantize_per_channel_group":
            scale, zero_point, low, high = a[1:5]
            granularity, group = "group", int(a[6])
        else:
            raise self._error(node, "weights in this form have no kernels")
        scales = torch.as_tensor(self._constant(scale), dtype=torch.float32).reshape(-1)
        zero = self._constant(zero_point)
        symmetric = zero is None or not bool(torch.as_tensor(zero).any())
        low, high = (-128, 127) if low is None else (int(low), int(high))
        del value
        return ImportedWeight(
            dtype="int4" if low >= -8 and high <= 7 else "int8",
            granularity=granularity,
            axis=int(axis),
            group=group,
            scales=tuple(scales.tolist()),
            low=int(integers.min()),
            symmetric=symmetric and integers.dtype == torch.int8,
        )

    def _parameter(
        self, node: fx.Node, value: torch.Tensor, found: ImportedWeight | None
    ) -> fx.Node:
        """A placeholder for a float32 parameter, under the name that it had before if possible."""
        reader = node
        while reader.users and not (module_path(reader) and _base(reader) not in _TRANSPOSES):
            reader = next(iter(reader.users))
        path = module_path(reader)
        last = "weight" if found is not None else "bias"
        name = f"{path}.{last}" if path else self._free(node.name)
        spec = next((s for s in self.signature.input_specs if s.target == name), None)
        known = None if spec is None else self.placeholders[spec.arg.name]
        free = known is not None and not [
            u for u in known.users if not operator_name(u).startswith("export.access_subclass")
        ]
        fits = known is not None and tuple(known.meta["val"].shape) == tuple(value.shape)
        taken = name in self.changes or (known is not None and not (free or fits))
        if known is not None and not taken and fits:
            self.changes[name] = value.contiguous()
            known.meta["val"] = self._fake(known, value)
            result = known
        else:
            name = self._free(name) if known is not None or name in self.changes else name
            result = self._placeholder(name, value)
            self.changes[name] = value.contiguous()
        if found is not None:
            self.result.weights[name] = found
        return result

    def _free(self, name: str) -> str:
        number, result = 1, name
        while result in self.changes or result in self.state:
            number += 1
            result = f"{name}_{number}"
        return result

    def _placeholder(self, name: str, value: torch.Tensor) -> fx.Node:
        first = next(n for n in self.graph.nodes if n.op == "placeholder")
        argument = "p_" + "".join(c if c.isalnum() else "_" for c in name)
        with self.graph.inserting_before(first):
            new = self.graph.placeholder(argument)
        new.meta["val"] = self._fake(first, value)
        spec = InputSpec(InputKind.PARAMETER, TensorArgument(new.name), name)
        self.signature.input_specs.insert(0, spec)
        self.specs[new.name] = spec
        self.placeholders[new.name] = new
        return new

    def _fake(self, like: fx.Node, value: torch.Tensor) -> Any:
        from torch._guards import detect_fake_mode

        values = [n.meta.get("val") for n in (like, *self.placeholders.values())]
        mode = detect_fake_mode([v for v in values if v is not None])
        return mode.from_tensor(value, static_shapes=True) if mode else value.to("meta")

    # torchao's products

    def _integer_products(self) -> None:
        """``_int_mm`` of a quantized activation and a stored weight, and what scales its sums."""
        for node in list(self.graph.nodes):
            if not operator_name(node).startswith("aten._int_mm"):
                continue
            left, right = node.args
            quantized = self._back(left)
            if quantized is None or self._constant(right) is None:
                raise self._error(node, "only products of an activation and a weight are known")
            scaled = self._scaled(node)
            if scaled is None:
                raise self._error(node, "its sums are not multiplied with the weight's scales")
            last, scale = scaled
            weight = self._constant(right).t()
            data: Any = quantized.args[0]
            marked = next((u for u in data.users if _marks(u, quantized)), None)
            if marked is None:
                marked = self._mark(quantized, data, self._parameters(quantized))
                marked.meta["tilewright"] = quantized
            self._linear(node, last, marked, weight, scale)

    def _stored_products(self) -> None:
        """Products with a weight that is only converted to float32, and scaled afterwards."""
        for node in list(self.graph.nodes):
            if node.op != "call_function" or _base(node) not in ("mm", "matmul"):
                continue
            data, right = node.args[:2]
            weight = self._constant(right)
            source = self._integers(right)
            if source is None or weight is None or self._constant(data) is not None:
                continue
            scaled = self._scaled(node)
            if scaled is not None:
                self._linear(node, scaled[0], data, self._constant(source), scaled[1])

    def _integers(self, node: Any) -> fx.Node | None:
        """The stored integers behind a conversion to float32, transposed to output channels."""
        converted = False
        while isinstance(node, fx.Node) and node.op == "call_function":
            if _base(node) in ("to", "_to_copy"):
                source: Any = node.args[0]
                converted = converted or source.meta["val"].dtype == torch.int8
            elif _base(node) in _TRANSPOSES and converted:
                inner: Any = node.args[0]
                return inner
            elif _base(node) not in _TRANSPOSES:
                return None
            node = node.args[0]
        return None

    def _back(self, node: Any) -> fx.Node | None:
        """The quantization behind an operand of an integer product."""
        while isinstance(node, fx.Node) and node.op == "call_function":
            if _is_ours(node):
                return node if _base(node).startswith(_QUANTIZE) else None
            if _base(node) not in _PASSES and _base(node) not in ("add", "sub"):
                return None
            node = node.args[0]
        return None

    def _scaled(self, node: fx.Node) -> tuple[fx.Node, torch.Tensor] | None:
        """The multiplication with the weight's scales behind a product, and the scales."""
        current = node
        while len(current.users) == 1:
            (user,) = current.users
            if _base(user) == "mul":
                other = user.args[1] if user.args[0] is current else user.args[0]
                value = self._constant(other)
                if isinstance(value, torch.Tensor):
                    return user, value.float().reshape(-1)
            elif _base(user).rstrip("_") not in {*_PASSES, "sub", "add", "mul"}:
                break
            current = user
        return None

    def _linear(
        self,
        product: fx.Node,
        last: fx.Node,
        data: fx.Node,
        integers: torch.Tensor,
        scale: torch.Tensor,
    ) -> None:
        """``linear(data, weight)`` for `product` to `last`, whose rows may have been flattened."""
        rows = data
        while _base(rows) in ("reshape", "view", "flatten") and isinstance(rows.args[0], fx.Node):
            rows = rows.args[0]
        wanted = [*rows.meta["val"].shape[:-1], integers.shape[0]]
        follower = next(iter(last.users), None)
        if (
            follower is not None
            and len(last.users) == 1
            and _base(follower) in ("reshape", "view")
            and list(follower.meta["val"].shape) == wanted
        ):
            data, last = rows, follower
        found = ImportedWeight(
            dtype="int8",
            granularity="tensor" if scale.numel() == 1 else "channel",
            axis=0,
            group=0,
            scales=tuple(scale.tolist()),
            low=int(integers.min()),
            symmetric=True,
        )
        value = integers.float() * scale.reshape(-1, 1)
        parameter = self._parameter(product, value, found)
        with self.graph.inserting_before(last):
            new = self._call(product, torch.ops.aten.linear.default, (data, parameter))
        last.replace_all_uses_with(new)
        self._erase(last)

    def _erase(self, node: fx.Node) -> None:
        """Remove what nobody reads any more, operators in place included."""
        pending = [node]
        while pending:
            dead = pending.pop()
            if dead.users or dead.op != "call_function":
                continue
            pending += dead.all_input_nodes
            self.values.pop(dead, None)
            self.graph.erase_node(dead)

    # What is left

    def _check_rest(self) -> None:
        for node in self.graph.nodes:
            if _is_ours(node):
                raise self._error(
                    node, "quantization in this form, or at this place, has no counterpart"
                )

    def _unwrap(self) -> None:
        """Weights of torchao's tensor classes that nobody reads any more as plain zeros."""
        for name, tensor in self.state.items():
            if not is_traceable_wrapper_subclass(tensor) or name in self.changes:
                continue
            spec = next(s for s in self.signature.input_specs if s.target == name)
            node = self.placeholders[spec.arg.name]
            if node.users:
                raise ModelError(
                    f"a weight of class {type(tensor).__name__} has no counterpart here",
                    stage="frontend",
                    where=name,
                    hint=_HINT,
                )
            value = torch.zeros(tuple(tensor.shape))
            self.changes[name] = value
            node.meta["val"] = self._fake(node, value)


def _base(node: fx.Node) -> str:
    """The operator without its namespace and overload."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    parts = operator_name(node).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _marks(node: fx.Node, stored: fx.Node) -> bool:
    return node.meta.get("tilewright") is stored


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.reshape(-1)[0].item() if value.numel() == 1 else None
    return value


def _same(left: Any, right: Any) -> bool:
    return all(
        a is b or (not isinstance(a, fx.Node) and a == b) for a, b in zip(left, right, strict=False)
    )


__all__ = [
    "MARKER",
    "QuantizedProgram",
    "is_quantized",
    "marker",
    "read_quantized",
    "register_operators",
]
