"""Plans with a precision for each layer, their journal, and the options of the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler import Quantize
from compiler.compress.plan import (
    CompressionPlan,
    Equalization,
    ModelIdentity,
    OperatorPlan,
    TensorPlan,
    WeightPlan,
)
from compiler.errors import InputError
from compiler.mixed.journal import Entry, Journal, plan_digest
from compiler.mixed.plans import FewerBits, assign, find_units

WEIGHT = WeightPlan("a.weight", "int8", "channel", 0, (0.5, 0.25), "mse")


def tensor(shared: str = "") -> TensorPlan:
    return TensorPlan("uint8", 0.5, 3, "mse", shared_with=shared)


def layer(name: str, reads: str, gives: str) -> OperatorPlan:
    return OperatorPlan(
        "nn.conv2d", "int8", (reads,), gives, (gives,), replace(WEIGHT, parameter=f"{name}.weight")
    )


def plan() -> CompressionPlan:
    """x -> a -> relu a -> (b -> relu b) + relu a -> add -> pool -> c -> float32."""
    return CompressionPlan(
        ModelIdentity("net", "0", "1"),
        {},
        {
            "input:x": tensor(),
            "relu_a": tensor(),
            "relu_b": tensor(),
            "add": tensor(),
            "pool": tensor("add"),
        },
        {
            "a:conv2d": layer("a", "input:x", "relu_a"),
            "b:conv2d": layer("b", "relu_a", "relu_b"),
            "add": OperatorPlan("add", "int8", ("relu_a", "relu_b"), "add"),
            "pool": OperatorPlan("nn.max_pool2d", "int8", ("add",), "pool"),
            "c:conv2d": layer("c", "pool", "relu_c"),
        },
        bias_corrections={"a:conv2d": (1.0, 2.0), "b:conv2d": (3.0, 4.0)},
    )


def precisions(found: CompressionPlan) -> list[str]:
    return [o.precision for o in found.operators.values()]


def mixed(**choices: str) -> CompressionPlan:
    base = plan()
    units = find_units(base)
    wanted = {u.name: choices.get(u.name[0], "int8") for u in units}
    return assign(base, units, wanted, {}, {u.name: f"why {u.name}" for u in units})


def test_layers_are_units() -> None:
    assert [u.name for u in find_units(plan())] == ["a:conv2d", "b:conv2d", "c:conv2d"]


def test_all_int8_is_the_plan_itself() -> None:
    assert plan_digest(mixed()) == plan_digest(plan())


def test_what_stands_between_follows_its_neighbours() -> None:
    found = mixed(b="bfloat16")
    # The addition would read a float, so it and the pool become floats, too.
    assert precisions(found) == ["int8", "bfloat16", "float32", "float32", "int8"]
    assert found.operators["b:conv2d"].weight is None
    assert found.operators["b:conv2d"].why == "why b:conv2d"
    assert "reads b:conv2d" in found.operators["add"].why
    assert set(found.bias_corrections) == {"a:conv2d"}


def test_a_last_layer_in_floats_ends_the_integers_before_it() -> None:
    found = mixed(c="float32")
    assert precisions(found) == ["int8", "int8", "float32", "float32", "float32"]
    # Nobody reads b's result as integers, so it comes as float32 from the sums.
    assert set(found.tensors) == {"input:x", "relu_a"}


def test_tensors_whose_root_is_gone_stand_alone() -> None:
    found = mixed(b="float32")
    assert found.tensors["pool"].shared_with == ""


def test_all_float32_has_no_integers_left() -> None:
    found = mixed(a="float32", b="float32", c="float32")
    assert set(precisions(found)) == {"float32"}
    assert not found.tensors
    assert not found.bias_corrections


def test_four_bits_replace_the_weight_and_its_correction() -> None:
    base = plan()
    units = find_units(base)
    weight = replace(WEIGHT, dtype="int4", scales=(1.0, 2.0))
    fewer = {"a:conv2d": FewerBits(weight, (7.0, 8.0))}
    choices = {u.name: "int4w" if u.name == "a:conv2d" else "int8" for u in units}
    found = assign(base, units, choices, fewer)
    assert found.operators["a:conv2d"].weight == weight
    assert found.bias_corrections["a:conv2d"] == (7.0, 8.0)


def test_equalized_layers_change_together() -> None:
    pair = Equalization("a:conv2d", "b:conv2d", (1.0, 2.0))
    base = replace(plan(), equalizations=(pair,))
    units = find_units(base)
    assert units[0].layers == ("a:conv2d", "b:conv2d")
    found = assign(base, units, {"a:conv2d": "float32", "c:conv2d": "int8"}, {})
    assert not found.equalizations
    assert found.operators["b:conv2d"].precision == "float32"


def test_a_journal_goes_on_and_belongs_to_one_search(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    first = Journal(path, {"model": "x"})
    first.add("p", Entry(0.5, 1.25, {"a": 1.0}, "measured"))
    first.add("q", Entry(None, float("1e9"), {}, "estimated", "cannot be built"))
    with path.open("a") as file:
        file.write('{"plan": "half')
    again = Journal(path, {"model": "x"})
    assert again.find("p") == Entry(0.5, 1.25, {"a": 1.0}, "measured")
    assert again.find("q").note == "cannot be built"  # type: ignore[union-attr]
    assert again.find("r") is None
    with pytest.raises(InputError, match="another search"):
        Journal(path, {"model": "y"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_drop": -0.1}, "max_drop is -0.1"),
        ({"max_drop": float("nan")}, "max_drop is nan"),
        ({"max_drop": True}, "max_drop is True"),
        ({"max_drop": "0.1"}, "max_drop"),
        ({"max_drop": 0.1, "max_evaluations": 1}, "max_evaluations is 1"),
        ({"max_drop": 0.1, "weights": "ternary/channel"}, "starts from int8"),
        ({"max_drop": 0.1, "activations": "int8/dynamic"}, "starts from int8"),
        ({"resume": "a.jsonl"}, "resume belongs"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Quantize(**options)


def test_a_plan_does_not_name_the_journal() -> None:
    assert "resume" not in Quantize(max_drop=0.1, resume="/somewhere/a.jsonl").to_dict()
