"""Compressed weights and rows quantized at run time, from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import CompressionPlan, Quantize, compile, load
from compiler.cli.app import run_cli
from compiler.errors import InputError, PlanError
from compiler.frontend import import_model
from compiler.lower.plain import reference_outputs
from compiler.stages import StageLog
from targets import get_target

pytestmark = pytest.mark.compile

#: By recipe: how its operators are stored, the largest share of the float32 parameters' bytes,
#: and the largest error, as a share of the largest output.
RECIPES: dict[str, tuple[set[tuple[str, str]], float, float]] = {
    "int8-weights": ({("weight", "int8")}, 0.29, 0.03),
    "int4-weights": ({("weight", "int4"), ("weight", "int8")}, 0.20, 0.3),
    "codebook-weights": ({("weight", "codebook"), ("weight", "int8")}, 0.20, 0.3),
    "float16-weights": ({("weight", "float16")}, 0.53, 0.002),
    "int8-dynamic": ({("dynamic", "int8"), ("weight", "int8")}, 0.67, 0.05),
}


class Words(nn.Module):
    """Looked-up rows, a convolution of a signal, one of an image, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.signal = nn.Conv1d(32, 32, 3, padding=1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.image = nn.Conv2d(32, 48, 1)
        self.head = nn.Linear(48, 64)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.table(words).transpose(1, 2)
        x = torch.relu(self.signal(x))
        x = torch.relu(self.image(self.depth(x.reshape(x.shape[0], 32, 2, 4))))
        return self.head(x.mean((2, 3)))


def make() -> nn.Module:
    torch.manual_seed(0)
    return Words().eval()


INPUT = torch.arange(8)[None] * 5


def reference(plan: CompressionPlan) -> Any:
    """By the interpreter in NumPy."""
    imported = import_model(make(), (INPUT,), log=StageLog())
    return reference_outputs(imported, get_target("x86"), plan, [INPUT.numpy()])[0]


QUICK = ("int4-weights", "int8-dynamic")


@pytest.mark.parametrize(
    "recipe",
    [r if r in QUICK else pytest.param(r, marks=pytest.mark.slow) for r in RECIPES],
)
def test_recipes(recipe, tmp_path):
    stored, share, error = RECIPES[recipe]
    net = make()
    bundle = compile(net, example_inputs=(INPUT,), target="x86", quantize=recipe)
    plan = bundle.plan
    assert plan is not None
    weights = [o for o in plan.operators.values() if o.weight is not None]
    assert {(o.precision, o.weight.dtype) for o in weights} == stored
    assert CompressionPlan.from_json(plan.to_json()) == plan
    got, want = bundle(INPUT.numpy()), net(INPUT).detach().numpy()
    assert np.abs(got - want).max() <= error * np.abs(want).max()
    # Codes and scales mean the same to the kernels and to the reference.
    np.testing.assert_allclose(got, reference(plan), atol=2e-5 * np.abs(want).max(), rtol=0)
    floats = sum(p.numel() for p in net.parameters()) * 4
    assert bundle.parameter_bytes <= share * floats
    again = load(bundle.save(tmp_path / "net.tw"))
    assert again.verify().same_bits
    assert again.parameter_bytes == bundle.parameter_bytes
    remarks = [k.why for k in again.kernels if k.choice and "conv2d" in k.name]
    assert any("of the time of float32" in why for why in remarks) == (recipe != "int8-dynamic")


@pytest.mark.slow
def test_static_int8_compresses_tables_too(tmp_path):
    samples = [torch.randint(0, 50, (1, 8)) for _ in range(16)]
    bundle = compile(
        make(), example_inputs=(INPUT,), target="x86", quantize="int8", calibration=samples
    )
    table = next(o for o in bundle.plan.operators.values() if o.kind == "take")
    assert (table.precision, table.weight.dtype) == ("weight", "int8")
    np.testing.assert_allclose(bundle(INPUT.numpy()), reference(bundle.plan), atol=1e-4)


@pytest.mark.slow
def test_sizes_may_vary():
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48)).eval()
    x = torch.randn(2, 32)
    for recipe in ("int4-weights", "int8-dynamic"):
        bundle = compile(
            net, example_inputs=(x,), target="x86", quantize=recipe, dynamic_batch=True
        )
        for rows in (1, 5):
            data = torch.randn(rows, 32)
            want = net(data).detach().numpy()
            assert np.abs(bundle(data.numpy()) - want).max() <= 0.3 * np.abs(want).max()


@pytest.mark.slow
def test_a_plan_is_edited_and_used_again(tmp_path):
    bundle = compile(make(), example_inputs=(INPUT,), target="x86", quantize="int4-weights")
    document = json.loads(bundle.plan.to_json())
    operator = document["operators"]["head:matmul"]
    assert operator["weight"]["dtype"] == "int4"
    assert operator["weight"]["scales"] == []
    operator["weight"] |= {"dtype": "int8", "granularity": "channel", "group": 0}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    other = compile(
        make(), example_inputs=(INPUT,), target="x86", quantize=str(tmp_path / "plan.json")
    )
    assert other.parameter_bytes > bundle.parameter_bytes
    operator["weight"] |= {"granularity": "group", "group": 7}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="groups of 7 do not divide its 48 inputs"):
        compile(make(), example_inputs=(INPUT,), target="x86", quantize=tmp_path / "plan.json")
    depth = document["operators"]["depth:conv2d"]
    operator["weight"] |= {"granularity": "channel", "group": 0}
    depth["weight"] |= {"granularity": "group", "group": 1}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="depthwise"):
        compile(make(), example_inputs=(INPUT,), target="x86", quantize=tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"quantize": "int4-weights", "calibration": [INPUT] * 3}, "need no samples"),
        ({"quantize": "int8-dynamic", "calibration": [INPUT] * 3}, "need no samples"),
        ({"quantize": Quantize("int4", "float32", keep=["haed"])}, "no layer of that name"),
    ],
)
def test_options_that_mean_nothing(options, match):
    with pytest.raises(InputError, match=match):
        compile(make(), example_inputs=(INPUT,), target="x86", **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "codebook5", "activations": "float32"}, "codebook5"),
        ({"weights": "codebook4", "activations": "int8/dynamic"}, "cannot be multiplied"),
        ({"weights": "int4/group32", "activations": "int8/tensor"}, "cannot be multiplied"),
        ({"weights": "int8", "activations": "float32", "equalize": True}, "equalize is for"),
        ({"weights": "int8", "activations": "int8/dynamic", "power_of_two": True}, "power_of_two"),
    ],
)
def test_recipes_that_mean_nothing(options, match):
    with pytest.raises(InputError, match=match):
        Quantize(**options)


def test_kept_layers_stay_float32():
    bundle = compile(
        make(), example_inputs=(INPUT,), target="x86",
        quantize=Quantize(weights="int4", activations="float32", keep=["head", "table"]),
    )  # fmt: skip
    kept = {n for n, o in bundle.plan.operators.items() if o.why.startswith("kept in float32")}
    assert {"head:matmul"} <= kept
    assert all(bundle.plan.operators[n].weight is None for n in kept)


def test_command_line(tmp_path, capsys):
    module = tmp_path / "net.py"
    module.write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()\n"
    )
    out = tmp_path / "net.tw"
    code = run_cli(
        ["compile", f"{module}:make", "-i", "1x64", "--target", "x86", "--quantize",
         "int4-weights", "-o", str(out)]
    )  # fmt: skip
    assert code == 0, capsys.readouterr()
    bundle = load(Path(out))
    assert {o.precision for o in bundle.plan.operators.values() if o.weight} == {"weight"}
    code = run_cli(["compile", f"{module}:make", "-i", "1x64", "--quantize", "int5-weights"])
    assert code != 0
    assert "int4-weights" in capsys.readouterr().err
