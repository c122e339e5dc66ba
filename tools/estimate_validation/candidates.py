"""The tasks of the validation, and choices for them spread over good and bad ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from compiler.frontend import import_model
from compiler.lower.tasks import Task, extract_tasks
from compiler.quantization import make_plan, read_request, settle_request
from compiler.stages import StageLog
from compiler.tune.search import choice_key
from schedules.cpu import templates
from schedules.space import Choice
from targets.spec import TargetSpec
from tools.zoo.nets import build, samples

#: Network, precision, and how its tasks' workloads begin; the first task that does is taken.
TASKS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("resnet18", "float32", (
        ("3x3", "conv2d 1x56x56x64 float32 by 64x64x3x3 "),
        ("3x3", "conv2d 1x14x14x256 float32 by 256x256x3x3 "),
        ("3x3", "conv2d 1x28x28x128 float32 by 256x128x3x3 stride 2x2"),
    )),
    ("resnet18", "int8", (
        ("3x3", "conv2d 1x56x56x64 uint8 by 64x64x3x3 "),
        ("3x3", "conv2d 1x14x14x256 uint8 by 256x256x3x3 "),
    )),
    ("mobilenet_v2", "float32", (
        ("pointwise", "conv2d 1x14x14x96 float32 by 576x96x1x1"),
        ("pointwise", "conv2d 1x56x56x24 float32 by 144x24x1x1"),
        ("pointwise", "conv2d 1x7x7x960 float32 by 160x960x1x1"),
        ("depthwise", "depthwise_conv2d 1x56x56x144 float32 by 144x1x3x3 + "),
        ("depthwise", "depthwise_conv2d 1x14x14x384 float32 by 384x1x3x3 + "),
    )),
    ("mobilenet_v2", "int8", (
        ("pointwise", "conv2d 1x14x14x96 uint8 by 576x96x1x1"),
        ("pointwise", "conv2d 1x56x56x24 uint8 by 144x24x1x1"),
        ("depthwise", "depthwise_conv2d 1x56x56x144 uint8 by 144x1x3x3 + "),
        ("depthwise", "depthwise_conv2d 1x14x14x384 uint8 by 384x1x3x3 + "),
    )),
    ("minilm_l6", "float32", (
        ("dense", "dense 1x128x384 float32 by 384x1536"),
        ("dense", "dense 1x128x1536 float32 by 1536x384"),
        ("attention", "batch_matmul 1x12x128x128 float32 by 1x12x128x32"),
        ("attention", "batch_matmul 1x12x128x32 float32 by 1x12x128x32"),
    )),
    ("minilm_l6", "int8", (
        ("dense", "dense 1x128x384 uint8 by 384x1536"),
        ("attention", "batch_matmul 1x12x128x32 int8 by 1x12x128x32"),
    )),
)  # fmt: skip


def find_tasks(spec: TargetSpec) -> dict[str, tuple[str, Task]]:
    """The tasks, each with its kind, by their workloads."""
    found: dict[str, tuple[str, Task]] = {}
    for net, precision, wanted in TASKS:
        tasks = _tasks_of(net, precision, spec)
        for kind, start in wanted:
            task = next(task for task in tasks if str(task.workload).startswith(start))
            found[str(task.workload)] = (kind, task)
    return found


def _tasks_of(net: str, precision: str, spec: TargetSpec) -> Sequence[Task]:
    module, inputs = build(net)
    log = StageLog()
    imported = import_model(module, inputs, log=log)
    plan = None
    if precision == "int8":
        request = read_request(
            "int8", samples(net, 2), None, precision="float32", dynamic=False
        )  # fmt: skip
        request = settle_request(request, imported, "float32")
        assert request is not None
        plan, _ = make_plan(request, imported, spec, log)
    return extract_tasks(imported, spec, log, plan=plan)


def spread_choices(task: Task, spec: TargetSpec, count: int, seed: int = 0) -> list[Choice]:
    """Choices from the best to the worst by the analytic model, the default first.

    Args:
        task: Whose.
        spec: The target.
        count: How many.
        seed: Of those that are drawn where the space is large.
    """
    spaces = templates.spaces(task.workload, spec)
    everything: list[Choice] = []
    for space in spaces:
        names = [decision.name for decision in space.decisions]
        everything += [
            {"algorithm": space.algorithm, **dict(zip(names, values, strict=True))}
            for values in itertools.product(*(decision.options for decision in space.decisions))
        ]
    draw = random.Random(seed)
    draw.shuffle(everything)
    known: dict[str, tuple[float, Choice]] = {}
    for choice in everything[:600]:
        cycles = templates.estimated_cycles(task.workload, choice, spec)
        if 0 < cycles < float("inf"):
            known[choice_key(choice)] = (cycles, choice)
    order = sorted(known.values(), key=lambda item: item[0])
    default = dict(spaces[0].default)
    picked = {choice_key(default): default}
    # Twice as many from the better half: there the search does its work.
    half = len(order) // 2
    for place in _even(half, 2 * count // 3) + [half + i for i in _even(len(order) - half, count)]:
        if len(picked) < count:
            choice = order[place][1]
            picked.setdefault(choice_key(choice), choice)
    return list(picked.values())


def _even(length: int, count: int) -> list[int]:
    """So many places, evenly spread."""
    return (
        sorted({min(length - 1, int(i * length / count)) for i in range(count)}) if length else []
    )


__all__ = ["TASKS", "find_tasks", "spread_choices"]
