"""Groups: which operators are computed together, and which of them on integers.

A group is an operator with its epilogue: a bias and a clipping activation that come before
the one requantization. Convolutions and products, with constant weights or of two activations,
are integers unless the user keeps them in float32 or they have no integer form. Other operators
are integers where that spares conversions: all that they read comes from integers, and somebody
goes on with integers. Layer normalization needs only one of both; softmax is an integer operator
in front of an integer product that takes its results on the left, as in attention.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.compress.apply import MOVES, TABLES, average_window, clip_limits
from compiler.compress.sites import PlainGraph, Site
from compiler.errors import InputError, PlanError
from schedules.tvm_adapter import GenericConst, relax

#: Axis of output channels in the weight of the plain graph.
WEIGHT_AXIS: Mapping[str, int] = {"nn.conv1d": 0, "nn.conv2d": 0, "matmul": 1}
#: Activations that only clip, so that limits of integers do their work.
CLIPS = frozenset({"nn.relu", "nn.relu6", "clip"})
AVERAGES = frozenset({"mean", "nn.avg_pool2d", "nn.adaptive_avg_pool2d"})
_BINARY = frozenset({"add", "multiply"})
#: Operators on rows.
ROWS = frozenset({"nn.softmax", "nn.layer_norm"})
#: Operators that give what they are given, so that range and scale stay.
SHARING = MOVES | {"concat", "nn.pad"}
#: Longest row that the sums of a normalization have room for.
LONGEST_ROW = 32767


@dataclass(frozen=True, slots=True)
class Group:
    """One operator with its epilogue.

    Attributes:
        site: The operator.
        epilogue: The operators after it that belong to it.
        integer: Whether it is computed on integers.
        why: Why it is not, or empty.
    """

    site: Site
    epilogue: tuple[Site, ...] = ()
    integer: bool = False
    why: str = ""

    @property
    def name(self) -> str:
        """The name of its operator."""
        return self.site.name

    @property
    def output(self) -> str:
        """The tensor that it gives."""
        return (self.epilogue or (self.site,))[-1].name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The activations that it reads."""
        return self.site.data

    @property
    def weighted(self) -> bool:
        """Whether it computes with a constant weight."""
        return self.weight is not None

    @property
    def product(self) -> bool:
        """Whether it multiplies two activations as matrices."""
        return self.site.kind == "matmul" and not self.weighted

    @property
    def factor(self) -> float | None:
        """The positive number that it multiplies an activation with; None if it does not."""
        if self.site.kind != "multiply" or len(self.site.data) != 1:
            return None
        constant = next((a for a in self.site.value.args if isinstance(a, GenericConst)), None)
        if constant is None or int(np.prod(_extents(constant))) != 1:
            return None
        if len(_extents(constant)) > len(_extents(self.site.value.args[0])):
            return None
        value = float(np.asarray(constant.value.numpy()).reshape(()))
        return value if value > 0 and np.isfinite(value) else None

    @property
    def weight(self) -> Any | None:
        """Its weight, a Relax constant."""
        if self.site.kind not in WEIGHT_AXIS:
            return None
        weight = self.site.value.args[1]
        return weight if isinstance(weight, GenericConst) else None

    @property
    def bias(self) -> Site | None:
        """The operator of its epilogue that adds a bias."""
        return next((s for s in self.epilogue if s.kind == "add"), None)

    def members(self) -> tuple[Site, ...]:
        """The operator and its epilogue."""
        return (self.site, *self.epilogue)


def find_groups(
    graph: PlainGraph, keep: Sequence[str] = (), ends: Collection[str] = ()
) -> tuple[Group, ...]:
    """All groups of a plain graph, in order.

    Args:
        graph: The graph.
        keep: Module paths or names of operators that stay in float32.
        ends: Tensors that are rounded: epilogues end there at the latest.

    Raises:
        InputError: A name of `keep` is none of the model's.
    """
    check_keep(graph, keep)
    readers = graph.readers()
    taken: set[str] = set()
    groups: list[Group] = []
    for site in graph.sites:
        if site.name in taken:
            continue
        group = Group(site)
        if why := _no_integers(group, keep):
            groups.append(replace(group, why=why))
            continue
        group = replace(group, integer=True, epilogue=_epilogue(graph, site, readers, group, ends))
        taken.update(s.name for s in group.epilogue)
        groups.append(group)
    return _settle(groups, graph)


def _epilogue(
    graph: PlainGraph,
    site: Site,
    readers: Mapping[str, tuple[Site, ...]],
    group: Group,
    ends: Collection[str],
) -> tuple[Site, ...]:
    """What comes after an operator that it can compute before its requantization."""
    if not group.weighted and site.kind not in _BINARY | AVERAGES:
        return ()
    found: list[Site] = []
    tensor = site.name
    last = {*graph.outputs, *ends}
    while tensor not in last and len(readers.get(tensor, ())) == 1:
        step = readers[tensor][0]
        if step.data != (tensor,):
            break
        clipped = any(s.kind in CLIPS for s in found)
        bias = group.weighted and not found and _is_bias(step, group)
        if not bias and (step.kind not in CLIPS or clipped or not _known_limits(step)):
            break
        found.append(step)
        tensor = step.name
    return tuple(found)


def _is_bias(step: Site, group: Group) -> bool:
    if step.kind != "add" or group.weight is None:
        return False
    constant = next((a for a in step.value.args if isinstance(a, GenericConst)), None)
    if constant is None:
        return False
    channels = _extents(group.weight)[WEIGHT_AXIS[group.site.kind]]
    shape = _extents(constant)
    behind = 0 if group.site.kind == "matmul" else len(_extents(group.site.value)) - 2
    if int(np.prod(shape)) == 1:
        return True
    position = len(shape) - 1 - behind
    return position >= 0 and shape[position] == channels == int(np.prod(shape))


def _known_limits(site: Site) -> bool:
    try:
        clip_limits(site)
    except PlanError:
        return False
    return True


def _no_integers(group: Group, keep: Sequence[str]) -> str:
    """Why an operator cannot be or shall not be on integers; empty if nothing speaks against."""
    site = group.site
    if not site.kind:
        return "it only groups tensors"
    for name in keep:
        if is_under(site.name, name):
            return f"kept in float32 by keep=[{name!r}]"
    if not isinstance(site.value.ty, relax.TensorType) or _dtype(site.value) != "float32":
        return "its result is not float32"
    tensors = [a for a in site.value.args if isinstance(a.ty, relax.TensorType)]
    if site.kind in WEIGHT_AXIS:
        if not group.weighted:
            return _no_product(site)
        if site.kind == "matmul" and len(_extents(site.value.args[1])) != 2:
            return "its weight is no matrix"
        return "" if len(site.data) == 1 else "it has no activation to read"
    if site.kind in _BINARY:
        if len(site.data) == 2 and len(tensors) == 2:
            return ""
        fixed = [a for a in site.value.args if isinstance(a, GenericConst)]
        if len(site.data) == 1 and len(fixed) == 1 and np.isfinite(fixed[0].value.numpy()).all():
            return ""
        return "an operand is no number"
    if site.kind in ROWS:
        return _no_rows(site)
    if site.kind in AVERAGES:
        known = average_window(site, list(_extents(site.value.args[0]))) is not None
        return "" if known else "it is no average over equal windows of images"
    if site.kind == "concat":
        fields = site.value.args[0]
        plain = isinstance(fields, relax.Tuple) and all(
            isinstance(f, (relax.Var, GenericConst)) for f in fields.fields
        )
        return "" if plain and site.data else "what it joins is not known"
    if site.kind == "image.resize2d" and str(site.value.attrs.method) != "nearest_neighbor":
        return "only nearest neighbours are resized on integers"
    if site.kind == "nn.pad" and str(site.value.attrs.pad_mode) != "constant":
        return "only padding by a constant is on integers"
    if site.kind in CLIPS and not _known_limits(site):
        return "its limits are not known"
    if site.kind in SHARING | CLIPS | set(TABLES):
        return "" if len(site.data) == 1 else "an operand is a constant"
    return f"{site.kind} is computed in float32"


def _no_product(site: Site) -> str:
    """Why a product of two activations has no integer form."""
    left, right = (a if isinstance(a, relax.Var) else None for a in site.value.args)
    if left is None or right is None:
        return "an operand is a constant"
    shapes = [_extents(left), _extents(right)]
    if min(len(s) for s in shapes) < 2:
        return "an operand is a vector"
    if shapes[0][-1] * 255 * 128 >= 2**31:
        return "its sums may need more than 32 bits"
    return ""


def _no_rows(site: Site) -> str:
    """Why a softmax or a layer normalization has no integer form."""
    a = site.value.attrs
    shape = _extents(site.value)
    if site.kind == "nn.softmax":
        last = int(a.axis) % len(shape) == len(shape) - 1
        return "" if last else "only softmax along the last axis is on integers"
    axes = [int(v) % len(shape) for v in a.axes]
    if axes != [len(shape) - 1] or not all(
        isinstance(v, GenericConst) for v in site.value.args[1:]
    ):
        return "only layer normalization along the last axis is on integers"
    return "" if shape[-1] <= LONGEST_ROW else f"rows of {shape[-1]} are too long for integers"


def _only_left(group: Group, readers: Sequence[Site], integers: Mapping[str, Group]) -> bool:
    """Whether integer products read a tensor on the left, and nothing else reads it."""
    for site in readers:
        reader = integers.get(site.name)
        if reader is None or not reader.product or reader.inputs[0] != group.output:
            return False
        if reader.inputs[1] == group.output:
            return False
    return bool(readers)


def _settle(groups: list[Group], graph: PlainGraph) -> tuple[Group, ...]:
    """Give up integers where they would cost conversions and spare none."""
    readers = graph.readers()
    changed = True
    while changed:
        changed = False
        makers = {g.output: g for g in groups}
        integers = {g.name: g for g in groups if g.integer}
        used = {name for g in integers.values() for name in g.inputs}
        for i, group in enumerate(groups):
            if not group.integer or group.weighted or group.product:
                continue
            real = [
                name
                for name in group.inputs
                if not (name in graph.inputs or (name in makers and makers[name].integer))
            ]
            following = readers.get(group.output, ())
            if group.output in graph.outputs:
                following = ()
            masks = bool(following) and all(
                s.name in integers and s.kind == "nn.softmax" for s in following
            )
            why = f"it reads {real[0]}, which is float32" if real else ""
            if group.site.kind == "add" and len(real) < len(group.inputs) and masks:
                why = ""  # a mask in front of a softmax is quantized
            if not why and group.output not in used:
                why = "what reads it is float32"
            if group.site.kind == "nn.layer_norm" and (not real or group.output in used):
                why = ""
            if group.site.kind == "nn.softmax":
                left = _only_left(group, following, integers)
                why = "" if left else "only integer products may read a softmax on integers"
            if why:
                # Its epilogue becomes operators of their own again.
                rest = [Group(s, (), integer=False, why=why) for s in group.members()]
                groups[i : i + 1] = rest
                changed = True
                break
    return tuple(groups)


def check_keep(graph: PlainGraph, keep: Sequence[str]) -> None:
    """Refuse names that no operator has.

    Raises:
        InputError: Names one, with the nearest that there are.
    """
    known: dict[str, None] = {}
    for site in graph.sites:
        known[site.name] = None
        path = site.name.partition(":")[0]
        while path:
            known[path] = None
            path = path.rpartition(".")[0]
    for name in keep:
        if any(is_under(site.name, name) for site in graph.sites):
            continue
        near = difflib.get_close_matches(name, known, 3, 0.5) or list(known)[:3]
        raise InputError(
            f"keep names {name!r}, but the model has no layer of that name",
            where="quantize",
            hint=f"there are {', '.join(map(repr, near))}, for example",
        )


def is_under(site: str, name: str) -> bool:
    """Whether a name of `keep` means this operator: its own, or that of a module around it."""
    path = site.partition(":")[0]
    return name in (site, path) or path.startswith(f"{name}.")


def _extents(expr: Any) -> list[int]:
    return [int(v) for v in expr.ty.shape.values]


def _dtype(expr: Any) -> str:
    return str(expr.ty.dtype.dtype)


__all__ = [
    "AVERAGES",
    "CLIPS",
    "ROWS",
    "SHARING",
    "WEIGHT_AXIS",
    "Group",
    "check_keep",
    "find_groups",
]
