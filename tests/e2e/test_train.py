"""Training from end to end: bundles have the bits of the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compiler import compile, load
from compiler.cli.app import run_cli
from compiler.train import Options, fine_tune, finish, prepare

pytestmark = pytest.mark.compile

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )
    return net.eval(), (torch.randn(2, 1, 6, 6),)

def batches(epoch):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(6):
        x = torch.randn(8, 1, 6, 6, generator=generator)
        yield x, (x.mean((1, 2, 3)) > 0).long()

def accuracy(run):
    pairs = [(run(x[i : i + 2]), y[i : i + 2]) for x, y in batches(99) for i in range(0, 8, 2)]
    return float(torch.cat([(p.argmax(1) == y).float() for p, y in pairs]).mean())

def nothing(epoch):
    return iter(())
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def _scope() -> dict[str, object]:
    scope: dict[str, object] = {}
    exec(NET, scope)  # noqa: S102 - the file that the command line reads
    return scope


@pytest.mark.parametrize(
    "recipe",
    [
        "int8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ternary", "w4a8", "binary")),
    ],
)
def test_a_bundle_has_the_bits_of_the_trained_model(recipe: str) -> None:
    scope = _scope()
    model, example = scope["make"]()  # type: ignore[operator]
    batches = scope["batches"]
    qat = prepare(
        model,
        recipe,
        example_inputs=example,
        calibration=[x[:2] for x, _ in batches(0)],  # type: ignore[operator]
    )
    fine_tune(qat, batches, nn.CrossEntropyLoss(), Options(epochs=1, learning_rate=0.01))
    trained, plan = finish(qat)
    bundle = compile(trained, example_inputs=example, quantize=plan, measure=False, tolerance=100.0)
    qat.eval()
    for seed in range(3):
        x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(np.asarray(bundle(x.numpy())), qat(x).numpy())


@pytest.mark.slow
def test_the_command_trains_and_its_files_compile(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(net.parent)
    arguments = [
        "train", "net.py:make", "--data", "net.py:batches", "--evaluate", "net.py:accuracy",
        "--quantize", "ternary", "--epochs", "2", "--learning-rate", "0.01",
        "-o", "t.safetensors", "--json",
    ]  # fmt: skip
    assert run_cli(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert [e["epoch"] for e in document["epochs"]] == [1, 2]
    assert document["best"] in (1, 2)
    assert sorted(p.name for p in net.parent.glob("t.*")) == ["t.json", "t.safetensors"]
    assert document["compile"] == (
        "tilewright compile net.py:make --weights t.safetensors --quantize t.json"
    )
    compiles = [*document["compile"].split()[1:], "--no-measure", "-o", "t.tw"]
    assert run_cli(compiles) == 0
    plan = load("t.tw").plan
    assert plan is not None
    assert plan.operators["3:conv2d"].weight is not None
    assert plan.operators["3:conv2d"].weight.dtype == "ternary"


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (["--data", "net.py:nothing"], 5, "no sample"),
        (["--data", "net.py:absent"], 4, "no function 'absent'"),
        (["--data", "other.py:batches"], 4, "names no function"),
        (["--quantize", "int9"], 5, "int9"),
        (["-o", "t.pt"], 2, "safetensors"),
        (["--progressive", "int3"], 5, "progressive"),
        (["--eight-bit-layer", "absent"], 5, "absent"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_options_that_do_not_do(
    net: Path, changed: list[str], code: int, message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(net.parent)
    usual = ["--data", "net.py:batches", "--quantize", "w4a8", "-o", "t.safetensors"]
    assert run_cli(["train", "net.py:make", *usual, *changed]) == code
    assert message in capsys.readouterr().err
    assert list(net.parent.glob("t.*")) == []
