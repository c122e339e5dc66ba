"""The pieces of the search: traces of choices, mutation, cost model, features, transfer."""

import math
import random

import numpy as np
import pytest

from schedules.search.cost_model import MIN_EXAMPLES, CostModel, Example
from schedules.search.features import choice_features, product_shape, workload_features
from schedules.search.transfer import transfer
from schedules.space import Choice, Decision, Space
from schedules.workload import Workload
from tests.unit.tune.fakes import SPEC, FakeKernels, dense

KERNELS = FakeKernels(large=True)
SPACES = tuple(KERNELS.spaces(dense().workload, SPEC))


def conv(**changes: object) -> Workload:
    values: dict[str, object] = {
        "operator": "conv2d",
        "data": (1, 56, 56, 64),
        "weight": (64, 64, 3, 3),
        "output": (1, 56, 56, 64),
        "dtypes": ("float32", "float32", "float32"),
        "layout": "NHWC",
        "attributes": {"strides": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1},
    }
    return Workload(**{**values, **changes})  # type: ignore[arg-type] - values are of each field


def test_schedules_stand_for_choices_and_change_nothing_else() -> None:
    from schedules.search.design_space import DesignSpace
    from schedules.tvm_adapter import IRModule, Schedule

    module = IRModule({"main": KERNELS.function(dense()).with_attr("global_symbol", "main")})
    design = DesignSpace(SPACES)
    chosen: Choice = {
        "algorithm": "direct",
        "tile": [7, 3],
        "unroll": 8,
        "order": "strip",
        "block": 64,
    }
    for choice in (chosen, dict(SPACES[1].default)):
        schedule = design.schedule(module, choice)
        assert design.choice(schedule) == choice
        kinds = {instruction.kind.name for instruction in schedule.trace.insts}
        assert kinds == {"GetSBlock", "SampleCategorical", "Annotate"}
        replayed = Schedule(module)
        schedule.trace.apply_to_schedule(replayed, remove_postproc=True)
        assert design.choice(replayed) == choice
    generated = design.generate(Schedule(module))
    assert [design.choice(s)["algorithm"] for s in generated] == ["direct", "blocked"]
    with pytest.raises(ValueError, match="none of the spaces"):
        design.schedule(module, {**chosen, "tile": [5, 5]})


def test_mutation_changes_one_or_two_decisions_to_other_options() -> None:
    from schedules.search.design_space import DesignSpace
    from schedules.search.mutators import mutate_decision
    from schedules.tvm_adapter import IRModule, Schedule

    module = IRModule({"main": KERNELS.function(dense()).with_attr("global_symbol", "main")})
    design = DesignSpace(SPACES)
    parent = design.schedule(module, dict(SPACES[0].default))
    mutator = mutate_decision(3).clone()
    changed = set()
    for _ in range(60):
        child = Schedule(module)
        mutator.apply(parent.trace).apply_to_schedule(child, remove_postproc=True)
        choice = design.choice(child)
        assert SPACES[0].refusal(choice) is None
        differing = {name for name in choice if choice[name] != SPACES[0].default[name]}
        assert len(differing) in (1, 2)
        changed |= differing
    assert changed == {"tile", "unroll", "order", "block"}


def test_nothing_open_is_nothing_to_mutate() -> None:
    from schedules.search.design_space import DesignSpace
    from schedules.search.mutators import mutate_decision
    from schedules.tvm_adapter import IRModule

    module = IRModule({"main": KERNELS.function(dense()).with_attr("global_symbol", "main")})
    only = Space("x", (Decision("a", (1,)),), {"algorithm": "x", "a": 1})
    schedule = DesignSpace([only]).schedule(module, only.default)
    assert mutate_decision(0).apply(schedule.trace) is None


def test_evolution_proposes_valid_new_choices_and_uses_its_score() -> None:
    from schedules.search.evolution import Evolution

    def good(choice: Choice) -> bool:
        return choice.get("block") == 64 and choice["algorithm"] == "direct"

    evolution = Evolution(
        KERNELS.function(dense()),
        SPACES,
        SPEC.tvm_dict(),
        score=lambda choices: np.array([4.0 if good(c) else 0.1 for c in choices]),
        accepts=lambda choice: choice.get("tile") != [1, 1],
        batch=16,
        seed=5,
    )
    evolution.observe(dict(SPACES[0].default), 1e-3)
    seen: list[str] = []
    shares = []
    for _ in range(3):
        batch = evolution.propose()
        assert batch
        assert all(any(s.refusal(c) is None for s in SPACES) for c in batch)
        assert all(choice.get("tile") != [1, 1] for choice in batch)
        shares.append(sum(map(good, batch)) / len(batch))
        seen += [str(choice) for choice in batch]
    evolution.close()
    assert len(seen) == len(set(seen))
    assert min(shares) > 0.5  # a fifth of the space is good


def test_tensor_intrinsics_of_tvm_are_not_loaded() -> None:
    import sys

    from schedules.tvm_adapter import skip_tensor_intrinsics

    skip_tensor_intrinsics()
    skip_tensor_intrinsics()
    assert "tvm.s_tir.tensor_intrin" in sys.modules
    assert "tvm.s_tir.tensor_intrin.cuda" not in sys.modules


def test_features_are_finite_and_tell_what_they_say() -> None:
    workload = conv()
    shape = product_shape(workload)
    assert (shape.rows, shape.columns, shape.depth) == (56 * 56, 64, 576)
    assert shape.flops == workload.flops
    common = workload_features(workload, SPEC)
    choice: Choice = {"algorithm": "direct", "tile": [1, 12, 3, 16], "order": "rows", "flag": True}
    features = choice_features(workload, choice, SPEC, 1e6)
    assert all(math.isfinite(value) for value in {**common, **features}.values())
    assert features["tile back: columns wasted"] == pytest.approx(1 - 64 / 96)
    assert features["tile[1]: width wasted"] == pytest.approx(1 - 56 / 60)
    assert features["order=rows"] == 1
    assert common["log depth"] == pytest.approx(math.log2(576))
    with pytest.raises(ValueError, match="symbolic"):
        workload_features(conv(data=("n", 56, 56, 64), output=("n", 56, 56, 64)), SPEC)


def test_every_operator_has_features() -> None:
    depthwise = conv(operator="depthwise_conv2d", weight=(64, 1, 3, 3))
    pool = conv(
        operator="pool2d", weight=(),
        attributes={"strides": [2, 2], "padding": [0] * 4, "dilation": [1, 1], "kernel": [2, 2]},
    )  # fmt: skip
    batch = Workload(
        "batch_matmul", (12, 64, 32), (12, 32, 48), (12, 64, 48),
        ("bfloat16", "bfloat16", "float32"), "row-major", {"transpose_rhs": False},
    )  # fmt: skip
    for workload in (depthwise, pool, batch, dense().workload):
        features = workload_features(workload, SPEC)
        features |= choice_features(workload, {"algorithm": "a", "tile": [2, 4]}, SPEC, 100.0)
        assert all(math.isfinite(value) for value in features.values())
    assert product_shape(batch).batch == 12
    assert product_shape(batch).flops == batch.flops
    assert product_shape(depthwise).depth == 9


def test_the_model_says_what_the_estimate_says_until_it_knows_better() -> None:
    model = CostModel()
    rows = [{"a": float(i)} for i in range(5)]
    assert model.predict(rows).tolist() == [0.0] * 5
    model.add([Example({"a": 1.0}, 0.7)])
    assert model.predict(rows).tolist() == pytest.approx([0.7] * 5)


def test_the_model_learns_and_is_repeatable() -> None:
    rng = random.Random(1)
    rows = [{"a": rng.random(), "b": rng.random()} for _ in range(200)]

    def truth(row: dict[str, float]) -> float:
        return 0.5 + (row["a"] > 0.5) - 0.8 * row["b"]

    predictions = []
    for _ in range(2):
        model = CostModel(seed=4)
        model.add([Example(row, truth(row)) for row in rows[:150]])
        predictions.append(model.predict(rows[150:]))
    wanted = np.array([truth(row) for row in rows[150:]])
    assert predictions[0].tolist() == predictions[1].tolist()
    error = float(np.abs(predictions[0] - wanted).mean())
    assert error < 0.2 * float(np.abs(wanted - wanted.mean()).mean())
    assert model.examples == 150 >= MIN_EXAMPLES


def test_examples_with_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        CostModel().add([Example({"a": math.nan}, 0.0)])
    with pytest.raises(ValueError, match="not finite"):
        CostModel().add([Example({"a": 1.0}, math.inf)])


def test_transfer_takes_the_nearest_options() -> None:
    moved = transfer(
        {"algorithm": "direct", "tile": [5, 3], "unroll": 3, "order": "strip", "other": 1}, SPACES
    )
    assert moved is not None
    assert SPACES[0].refusal(moved) is None
    assert moved["tile"] in ([4, 3], [6, 3])
    assert (moved["unroll"], moved["order"], moved["block"]) == (4, "strip", 16)
    assert transfer({"algorithm": "winograd"}, SPACES) is None
    odd = transfer({"algorithm": "direct", "tile": "none", "unroll": True, "order": 5}, SPACES)
    assert odd == SPACES[0].default
