"""Plans: canonical JSON, strict reading, and which model they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.compress.plan import (
    SCHEMA,
    CompressionPlan,
    Equalization,
    ModelIdentity,
    OperatorPlan,
    TensorPlan,
    WeightPlan,
    model_identity,
)
from compiler.errors import FileError, PlanError

PARAMETERS = {"c.weight": np.zeros((4, 3, 1, 1), np.float32), "c.bias": np.zeros(4, np.float32)}
INPUTS = [("x", (1, 3, 8, 8), "float32")]


def make_plan() -> CompressionPlan:
    weight = WeightPlan("c.weight", "int8", "channel", 0, (0.5, 0.25, 1.0, 0.125), "mse")
    return CompressionPlan(
        model=model_identity("net", PARAMETERS, INPUTS),
        recipe={"calibrate": "mse", "keep": []},
        tensors={
            "input:x": TensorPlan("uint8", 0.25, 128, "mse", minimum=-30.0, maximum=31.0),
            "r:relu": TensorPlan("uint8", 0.125, 0, "mse", power_of_two=True),
            "p:max_pool2d": TensorPlan("uint8", 0.125, 0, "shared", True, shared_with="r:relu"),
        },
        operators={
            "c:conv2d": OperatorPlan(
                "nn.conv2d", "int8", ("input:x",), "r:relu", ("c:add", "r:relu"), weight,
                sqnr_db=33.5,
            ),
            "p:max_pool2d": OperatorPlan("nn.max_pool2d", "int8", ("r:relu",), "p:max_pool2d"),
            ":softmax": OperatorPlan("nn.softmax", "float32", ("p:max_pool2d",), ":softmax",
                                     why="nn.softmax is computed in float32"),
        },
        equalizations=(Equalization("a:conv2d", "c:conv2d", (1.5, 0.5, 2.0)),),
        bias_corrections={"c:conv2d": (0.5, 0.0, -0.25, 0.0)},
    )  # fmt: skip


def test_a_plan_comes_back_as_it_was() -> None:
    plan = make_plan()
    again = CompressionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_a_plan_is_saved_and_loaded(tmp_path: Path) -> None:
    path = make_plan().save(tmp_path / "plan.json")
    assert CompressionPlan.load(path) == make_plan()


def test_a_person_may_give_an_operator_back_to_float32() -> None:
    data = json.loads(make_plan().to_json())
    data["operators"]["c:conv2d"].update(precision="float32", weight=None, why="by hand")
    plan = CompressionPlan.from_json(json.dumps(data))
    assert plan.quantized() == ("p:max_pool2d",)
    assert plan.with_operator(":softmax", why="so").operators[":softmax"].why == "so"


def _set(path: str, value: Any) -> str:
    data = json.loads(make_plan().to_json())
    *parents, last = path.split("/")
    at = data
    for key in parents:
        at = at[key]
    at[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "its schema is 'list'"),
        (_set("schema", "tilewright.plan/9"), "tilewright.plan/9"),
        (_set("colour", "red"), "unknown field 'colour'"),
        (_set("tensors/r:relu/dtype", "int4"), "dtype 'int4'"),
        (_set("tensors/r:relu/scale", 0.0), "not a positive number"),
        (_set("tensors/r:relu/scale", 0.1), "not a float32 number"),
        (_set("tensors/r:relu/scale", 0.375), "no power of two"),
        (_set("tensors/r:relu/zero_point", 256), "outside of uint8"),
        (_set("tensors/input:x/scale", 1e39), "not a float32 number"),
        (_set("tensors/p:max_pool2d/scale", 0.25), "whose range it shares"),
        (_set("tensors/p:max_pool2d/shared_with", "nobody"), "which is not here"),
        (_set("operators/c:conv2d/inputs", ["nobody"]), "no tensor of the plan"),
        (_set("operators/c:conv2d/precision", "int2"), "precision 'int2'"),
        (_set("operators/c:conv2d/weight/scales", []), "no scales"),
        (_set("operators/c:conv2d/weight/granularity", "tensor"), "4 scales"),
        (_set("operators/c:conv2d/weight/scales", [0.5, -1.0, 1.0, 1.0]), "not a positive"),
        (_set("equalizations", [{"first": "a", "second": "b", "factors": [0.0]}]), "factors"),
        (_set("bias_corrections", {"nobody": [1.0]}), "unknown operator 'nobody'"),
        (f'{{"schema": "{SCHEMA}", "schema": "{SCHEMA}"}}', "twice"),
        ('{"schema": NaN}', "NaN"),
    ],
)
def test_damaged_plans_are_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says) as caught:
        CompressionPlan.from_json(text)
    assert caught.value.exit_code == 4


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        CompressionPlan.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError):
        CompressionPlan.load(tmp_path / "binary.json")
    with pytest.raises(FileError):
        make_plan().save(tmp_path / "no" / "plan.json")


def test_a_plan_for_another_model_is_refused() -> None:
    plan = make_plan()
    assert plan.check_model(model_identity("net", PARAMETERS, INPUTS)) == ""
    wider = {**PARAMETERS, "c.bias": np.zeros(5, np.float32)}
    with pytest.raises(PlanError, match="another model, 'net'"):
        plan.check_model(model_identity("other", wider, INPUTS))
    with pytest.raises(PlanError, match="another model"):
        plan.check_model(model_identity("net", PARAMETERS, [("x", (2, 3, 8, 8), "float32")]))


def test_other_values_of_the_weights_are_only_remarked() -> None:
    trained = {**PARAMETERS, "c.bias": np.ones(4, np.float32)}
    assert "other values" in make_plan().check_model(model_identity("net", trained, INPUTS))


def test_operators_that_the_model_lacks_are_named() -> None:
    with pytest.raises(PlanError, match="p:max_pool2d"):
        make_plan().check_operators(["c:conv2d", ":softmax"])


def test_real_limits() -> None:
    assert TensorPlan("uint8", 0.5, 10, "given").real_limits == (-5.0, 122.5)
    assert TensorPlan("int8", 0.5, 0, "given").real_limits == (-64.0, 63.5)


def test_identity_does_not_depend_on_the_order_of_parameters() -> None:
    backwards = dict(reversed(PARAMETERS.items()))
    assert model_identity("n", backwards, INPUTS) == model_identity("n", PARAMETERS, INPUTS)
    assert isinstance(model_identity("n", {}, []), ModelIdentity)
